"""Fast fits of a softmax regression on standardized features.

Rows are standardized and rotated to their principal axes. There L-BFGS gets a diagonal preconditioner: the curvature of
the loss in the weight of class c along axis j is about f pi_c (1 - pi_c) v_j + l2, for class share pi_c and variance
v_j. With long tails both factors span orders of magnitude, and some 20 steps suffice where plain L-BFGS needs 100.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longtail.core.head import StandardizedHead
from longtail.methods.heads.base import row_blocks
from longtail.methods.heads.standardization import standardization
from longtail.train.device import to_device

COVARIANCE_ROWS = 20_000
FILLED = 0.3  # f above: at the optimum most rows are fitted, so p (1 - p) is smaller than at the start
HISTORY = 10  # of L-BFGS


@dataclass(frozen=True)
class Effort:
    """How far L-BFGS goes. The size of a problem is rows * axes * classes.

    Attributes:
        work: size * steps.
        fewest, most: limits of the number of steps.
        tolerance: nats; it ends when a step changes the loss by less.
        full_size: smaller problems have a tolerance that is smaller in proportion, since they cost little.
    """

    work: float
    fewest: int
    most: int
    tolerance: float
    full_size: float = 0.0

    def limits(self, size: int) -> tuple[int, float]:
        """Number of steps, and tolerance."""
        exactness = min(1.0, size / self.full_size) if self.full_size else 1.0
        return int(np.clip(self.work / size, self.fewest, self.most)), self.tolerance * max(exactness, 1e-4)


EXACT = Effort(1.4e11, 6, 500, 1e-5, full_size=1e9)
COARSE = Effort(4e9, 5, 50, 1e-4)


@dataclass(frozen=True)
class Weights:
    """W (C, k) on the first k principal axes, and b (C,)."""

    weight: Tensor
    bias: Tensor


class PrincipalRows:
    """Training rows, standardized and on their principal axes.

    Args:
        X: (N, D) float.
        y: (N,) int64 in 0..C-1, every class present.
        num_classes: C.
        device: where to compute, in the dtype of X.

    Attributes:
        center, spread: (D,) float64.
        rows: (N, D), the standardized rows on the principal axes.
        log_prior: (C,), logarithm of the class shares.
    """

    def __init__(self, X: np.ndarray, y: np.ndarray, num_classes: int, device: torch.device) -> None:
        self.y, self.num_classes, self._device = y, num_classes, device
        self.center, self.spread = standardization(X)
        self._dtype = torch.from_numpy(np.empty(0, X.dtype)).dtype
        self._targets = to_device(y, device)
        self._shares = to_device(np.bincount(y, minlength=num_classes) / len(y), device).to(self._dtype)
        self.log_prior = self._shares.log()
        self._axes, self._variances = self._principal_axes(X)
        self.rows = self.on_axes(X)

    def on_axes(self, X: np.ndarray) -> Tensor:
        """(M, D) rows -> the same standardized, on the principal axes."""
        rows = torch.empty((len(X), X.shape[1]), dtype=self._dtype, device=self._device)
        for block in row_blocks(len(X), 3 * X.itemsize * X.shape[1]):
            torch.matmul(self._standardized(X[block]), self._axes, out=rows[block])
        return rows

    def _standardized(self, block: np.ndarray) -> Tensor:
        rows = block - self.center.astype(block.dtype)
        rows /= self.spread.astype(block.dtype)
        return to_device(rows, self._device)

    def _principal_axes(self, X: np.ndarray) -> tuple[Tensor, Tensor]:
        """(D, D) axes by falling variance, and their variances (D,)."""
        sample = X[:: max(1, len(X) // COVARIANCE_ROWS)]
        total = torch.zeros((X.shape[1], X.shape[1]), dtype=self._dtype, device=self._device)
        for block in row_blocks(len(sample), 2 * X.itemsize * X.shape[1]):
            rows = self._standardized(sample[block])
            total.addmm_(rows.T, rows)
        variances, axes = torch.linalg.eigh(total / len(sample))
        return axes.flip(1).contiguous(), variances.flip(0).clamp_min(0)

    def fit(self, l2: float, start: Weights | None = None) -> StandardizedHead:
        """The head for the prior of the training rows, fitted on all rows. ``start`` may have fewer axes."""
        return self.head(self.solve(l2, start, self.rows, self._targets, EXACT), l2)

    def head(self, weights: Weights, l2: float) -> StandardizedHead:
        """The head of ``weights``, fitted with ``l2``. Its biases have mean 0, which the loss leaves open."""
        weight = (weights.weight @ self._axes[:, : weights.weight.shape[1]].T).cpu().numpy()
        bias = (weights.bias - weights.bias.mean()).cpu().numpy()
        return StandardizedHead(weight, bias, center=self.center, spread=self.spread, l2=l2)

    def solve(self, l2: float, start: Weights | None, rows: Tensor, targets: Tensor, effort: Effort) -> Weights:
        """Minimize over ``rows`` (M, k), on the first k axes, and their classes ``targets`` (M,)."""
        steps, tolerance = effort.limits(rows.numel() * self.num_classes)
        num_axes = rows.shape[1]
        curvature = FILLED * self._shares * (1 - self._shares)
        scale = (curvature[:, None] * self._variances[:num_axes] + l2).rsqrt()
        bias_scale = curvature.clamp_min(torch.finfo(self._dtype).tiny).rsqrt()
        weight, bias = torch.zeros_like(scale), torch.zeros_like(bias_scale)
        if start is not None:
            weight[:, : start.weight.shape[1]] = start.weight
            bias.copy_(start.bias)
        weight.div_(scale).requires_grad_()
        bias.div_(bias_scale).requires_grad_()
        target_rows = torch.arange(len(rows), device=rows.device)

        @torch.no_grad()
        def closure() -> Tensor:
            scaled = weight * scale
            log_p = torch.log_softmax(torch.addmm(bias * bias_scale, rows, scaled.T), dim=1)
            loss = -log_p[target_rows, targets].mean() + l2 / 2 * scaled.square().sum()
            gradient = log_p.exp_()
            gradient[target_rows, targets] -= 1
            gradient /= len(rows)
            weight.grad = torch.addmm(scaled, gradient.T, rows, beta=l2).mul_(scale)
            bias.grad = gradient.sum(dim=0).mul_(bias_scale)
            return loss

        # torch starts with a step of length 1 over the gradient's sum, which is far too short for these scaled weights.
        # A rate of that sum makes it the full step; afterward full steps need the rate 1.
        closure()
        assert weight.grad is not None and bias.grad is not None
        total = float(weight.grad.abs().sum() + bias.grad.abs().sum())
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            lr=max(1.0, total),
            max_iter=1,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
            tolerance_grad=0.0,
            tolerance_change=tolerance,
        )
        optimizer.step(closure)
        optimizer.param_groups[0].update(lr=1.0, max_iter=steps - 1, max_eval=2 * steps)
        optimizer.step(closure)
        return Weights((weight * scale).detach(), (bias * bias_scale).detach())
