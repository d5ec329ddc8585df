"""Fast exact fits of a softmax regression, and its scores on rows that it was not fitted on.

Rows are standardized and rotated to their principal axes. There L-BFGS gets a diagonal preconditioner: the curvature of
the loss in the weight of class c along axis j is about f pi_c (1 - pi_c) v_j + l2, for class share pi_c and variance
v_j. With long tails both factors span orders of magnitude, and some 20 steps suffice where plain L-BFGS needs 100.

Fits that only choose or judge something (``choose_l2``, ``cross_fits``) use the REDUCED first axes, and the former far
fewer steps. The number of steps falls with the size of the problem; more rows also need fewer, since then the loss has
fewer flat directions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longtail.core.head import StandardizedHead
from longtail.core.seeds import generator
from longtail.methods.heads.base import row_blocks
from longtail.train.device import to_device

FOLDS = 5
FEW_ROWS = 5000  # with fewer, every row is held out once, not just those of one fold
REDUCED = 512
COVARIANCE_ROWS = 20_000
FILLED = 0.3  # f above: at the optimum most rows are fitted, so p (1 - p) is smaller than at the start
SPREAD_FLOOR = 1e-4  # of the typical spread: a feature that hardly varies is not blown up
HISTORY = 10  # of L-BFGS
TOLERANCE, COARSE_TOLERANCE = 1e-5, 1e-4  # nats; L-BFGS ends when a step changes the loss by less
STEPS, COARSE_STEPS = (6, 200), (5, 50)  # fewest and most steps of L-BFGS, by the size of the problem
WORK, COARSE_WORK = 1.4e11, 4e9  # rows * axes * classes * steps
# Heads of cross-fits must have the margins of the head that they stand for, so both converge as far.
CROSS_TOLERANCE, CROSS_STEPS, CROSS_WORK = 1e-5, (20, 200), 5.4e10
TIE = 0.001  # of mean class accuracy in [0, 1]; values this near the best are equally good
SELECTION_ROWS = 40_000  # with more rows than this, large classes are cut for the choice of the L2 strength


@dataclass(frozen=True)
class Weights:
    """W (C, k) on the first k principal axes, and b (C,)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class ChosenL2:
    """The outcome of ``choose_l2``.

    Attributes:
        l2: the best value, or None if no row could be held out.
        start: weights fitted with it, from which the fit on all rows may start.
        grid, macro: (T,), the values tried and their mean class accuracy in [0, 1].
        selected_on: ``val``, ``train_slice`` or ``fixed``.
    """

    l2: float | None
    start: Weights | None
    grid: np.ndarray
    macro: np.ndarray
    selected_on: str


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
        steps = _steps(self.rows, self.num_classes, STEPS, WORK)
        return self.head(self.solve(l2, start, self.rows, self._targets, steps, TOLERANCE), l2)

    def head(self, weights: Weights, l2: float) -> StandardizedHead:
        """The head of ``weights``, which were fitted with ``l2``."""
        weight = (weights.weight @ self._axes[:, : weights.weight.shape[1]].T).cpu().numpy()
        return StandardizedHead(weight, weights.bias.cpu().numpy(), center=self.center, spread=self.spread, l2=l2)

    def solve(
        self, l2: float, start: Weights | None, rows: Tensor, targets: Tensor, steps: int, tolerance: float
    ) -> Weights:
        """Minimize over ``rows`` (M, k), on the first k axes, and their classes ``targets`` (M,)."""
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


def _steps(rows: Tensor, num_classes: int, limits: tuple[int, int], work: float) -> int:
    """Steps of a fit on ``rows`` (N, k): as many as ``work`` allows, within ``limits``."""
    return int(np.clip(work / (rows.numel() * num_classes), *limits))


def standardization(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature of X (N, D), (D,) float64 each, in two passes.

    A standard deviation below SPREAD_FLOOR times the root mean square of all is raised to that; if all are 0, to 1.
    """
    center = np.zeros(X.shape[1])
    for block in row_blocks(len(X), 8 * X.shape[1]):
        center += X[block].sum(axis=0, dtype=np.float64)
    center /= len(X)
    variance = np.zeros(X.shape[1])
    for block in row_blocks(len(X), 8 * X.shape[1]):
        variance += np.square(X[block] - center).sum(axis=0)
    spread = np.sqrt(variance / len(X))
    floor = SPREAD_FLOOR * np.sqrt(np.mean(spread**2))
    return center, np.maximum(spread, floor) if floor > 0 else np.ones_like(spread)


def folds(y: np.ndarray, *stream: int | str) -> np.ndarray:
    """(N,) int64: the fold 0 to 4 in which a row is held out, -1 for the only row of a class.

    The rows of each class are dealt in random order; fold 0 has the most.
    """
    fold = np.empty(len(y), np.int64)
    order = np.argsort(y, kind="stable")
    for c, members in enumerate(np.split(order, np.cumsum(np.bincount(y))[:-1])):
        dealt = np.arange(len(members)) % FOLDS if len(members) > 1 else np.array([-1])
        fold[members[generator(*stream, c).permutation(len(members))]] = dealt
    return fold


def choose_l2(
    rows: PrincipalRows,
    val: tuple[np.ndarray, np.ndarray] | None,
    seed: int,
    grid: tuple[float, ...],
    patience: int,
) -> ChosenL2:
    """The value of ``grid``, which falls, with the best mean class accuracy under a uniform prior.

    Values within TIE of the best are equally good. Of these, the one with the largest log-likelihood is taken, also
    as a mean over classes. So something is chosen even where every held-out row is classified correctly.

    With more than SELECTION_ROWS rows, the large classes are cut to one size for this. Since the best l2 * N hardly
    depends on N, the values are then divided by the share of the rows that is left.

    val: (M, D) features and (M,) class positions that judge; None holds out training rows.
    """
    y = rows.y
    used = np.flatnonzero(within_budget(y, SELECTION_ROWS, seed))
    share = len(used) / len(y)
    features = rows.rows[:, :REDUCED] if share == 1 else rows.rows[to_device(used, rows.rows.device), :REDUCED]
    y = y[used]
    judges: list[_Judge] = []
    if val is not None:
        everything = np.ones(len(y), bool)
        judges.append(_Judge(rows, features, y, everything, rows.on_axes(val[0])[:, :REDUCED], val[1]))
    else:
        fold = folds(y, seed, "l2 folds")
        for number in range(FOLDS if len(y) < FEW_ROWS else 1):
            held_out = fold == number
            if held_out.any():
                judge = features[to_device(np.flatnonzero(held_out), features.device)]
                judges.append(_Judge(rows, features, y, ~held_out, judge, y[held_out]))
    if not judges:
        return ChosenL2(None, None, np.empty(0), np.empty(0), "fixed")
    macro: list[float] = []
    likelihood: list[float] = []
    starts: list[Weights] = []
    for l2 in grid:
        found = [judge.judge(l2 / share) for judge in judges]
        hits, log_p, counts = (np.sum([one[part] for one in found], axis=0) for part in range(3))
        present = counts > 0
        macro.append(float(np.mean(hits[present] / counts[present])))
        likelihood.append(float(np.mean(log_p[present] / counts[present])))
        starts.append(judges[0].for_all_rows())
        last_good = max(number for number, value in enumerate(macro) if value >= max(macro) - TIE)
        if len(macro) - 1 - last_good >= patience:
            break
    chosen = max(
        (number for number, value in enumerate(macro) if value >= max(macro) - TIE), key=lambda n: likelihood[n]
    )
    selected_on = "train_slice" if val is None else "val"
    return ChosenL2(grid[chosen], starts[chosen], np.asarray(grid[: len(macro)]), np.asarray(macro), selected_on)


class _Judge:
    """Fits on some of the rows along the path of L2 strengths, and counts hits on others."""

    def __init__(
        self, rows: PrincipalRows, features: Tensor, y: np.ndarray, kept: np.ndarray, judge: Tensor, labels: np.ndarray
    ) -> None:
        device = features.device
        self._rows, self._judge, self._labels = rows, judge, labels
        self._features = features if kept.all() else features[to_device(np.flatnonzero(kept), device)]
        self._targets = to_device(y[kept], device)
        shares = np.bincount(y[kept], minlength=rows.num_classes) / kept.sum()
        self._log_prior = to_device(np.log(shares), device).to(features.dtype)
        self._weights: Weights | None = None

    def judge(self, l2: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hits, summed log-likelihoods (nats) and rows of each class, (C,) each, under a uniform prior."""
        num_classes = self._rows.num_classes
        steps = _steps(self._features, num_classes, COARSE_STEPS, COARSE_WORK)
        weights = self._rows.solve(l2, self._weights, self._features, self._targets, steps, COARSE_TOLERANCE)
        self._weights = weights
        scores = torch.addmm(weights.bias - self._log_prior, self._judge, weights.weight.T)
        predicted, labels = scores.argmax(dim=1).cpu().numpy(), self._labels
        log_p = torch.log_softmax(scores, dim=1).cpu().numpy()[np.arange(len(labels)), labels]
        return (
            np.bincount(labels[predicted == labels], minlength=num_classes),
            np.bincount(labels, weights=log_p, minlength=num_classes),
            np.bincount(labels, minlength=num_classes),
        )

    def for_all_rows(self) -> Weights:
        """The last weights, with the prior of all training rows."""
        assert self._weights is not None
        return Weights(self._weights.weight, self._weights.bias - self._log_prior + self._rows.log_prior)


def within_budget(y: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """(N,) bool: all rows, or min(n_c, m) random rows of each class for the largest m with at most ``budget`` rows."""
    counts = np.bincount(y)
    if len(y) <= budget:
        return np.ones(len(y), bool)
    sizes = np.arange(1, counts.max() + 1)
    fitting = [m for m in sizes if np.minimum(counts, m).sum() <= budget]
    largest = max(fitting, default=1)
    kept = np.zeros(len(y), bool)
    order = np.argsort(y, kind="stable")
    for c, members in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        kept[members[generator(seed, "l2 rows", c).permutation(len(members))[:largest]]] = True
    return kept


def cross_fits(
    X: np.ndarray, y: np.ndarray, head: StandardizedHead, seed: int, device: torch.device
) -> Iterator[tuple[np.ndarray, StandardizedHead]]:
    """Five times: the rows of a fold, (N,) bool, and the head that is fitted on the others like ``head``.

    Rows that a head was fitted on have larger margins than new rows, most of all in small classes. So what is learned
    from a head's scores must be learned from rows that it has not seen. The only row of a class is in no fold.
    """
    assert head.l2 is not None, "the head is no softmax regression any more"
    rows = PrincipalRows(X, y, len(head.weight), device)
    features, fold = rows.rows[:, :REDUCED], folds(y, seed, "cross-fit folds")
    for number in range(FOLDS):
        held_out = fold == number
        if held_out.any():
            kept = to_device(np.flatnonzero(~held_out), device)
            targets = to_device(y[~held_out], device)
            steps = _steps(features, len(head.weight), CROSS_STEPS, CROSS_WORK)
            weights = rows.solve(head.l2, None, features[kept], targets, steps, CROSS_TOLERANCE)
            fitted = rows.head(weights, head.l2)
            yield held_out, fitted.with_prior(head.prior, np.bincount(y[~held_out]) / len(targets))


def out_of_fold_scores(
    X: np.ndarray, y: np.ndarray, head: StandardizedHead, seed: int, device: torch.device
) -> np.ndarray:
    """(N, C) scores of each training row by the head of ``cross_fits`` that has not seen it.

    The only row of a class gets its score from ``head``.
    """
    scores = head.scores(X)
    for held_out, fitted in cross_fits(X, y, head, seed, device):
        scores[held_out] = fitted.scores(X[held_out])
    return scores
