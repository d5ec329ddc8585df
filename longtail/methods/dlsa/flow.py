"""The masked autoregressive flow of DLSA: MADE blocks in alternating order, each followed by a flow batch norm.

Source: Xu et al., "Constructing Balance from Imbalance for Long-tailed Image Recognition", ECCV 2022, and its official
code; MADE: Germain et al. 2015; MAF: Papamakarios et al. 2017. Only the sequential order exists: the reference's random
order is not autoregressive.

Deviation: the log-scale a may be bounded softly to (-c, c) by a <- c tanh(a / c), since exp(-a) can overflow;
``log_scale_limit=None`` is the released form.

Shapes: x and u are (..., B, d); every leading index is a batch of its own, with batch-norm statistics of its own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from longtail.core.errors import DataError

BLOCKED_WIDTH = 512
BLOCKS = 8


def degree_masks(width: int, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The (d, d) bool masks of input, hidden and output layers, rows being outputs.

    Input degrees are 0..d-1 (d-1..0 with ``reverse``), hidden unit j has degree j mod (d-1), an output has its input's
    degree less 1; q sees p where degree(q) >= degree(p).
    """
    if width < 2:
        raise DataError(f"n_features = {width}: an autoregressive flow needs at least 2 features")
    inputs = torch.arange(width)
    inputs = inputs.flip(0) if reverse else inputs
    hidden = torch.arange(width) % (width - 1)
    return hidden[:, None] >= inputs, hidden[:, None] >= hidden, (inputs - 1)[:, None] >= hidden


class MaskedLinear(nn.Linear):
    """A linear layer whose weight (out, in) counts only where ``mask`` holds.

    The masks of a MADE block are triangular up to the order of the units. From ``BLOCKED_WIDTH`` inputs on, blocks of
    outputs are therefore multiplied only with the inputs that they see, which saves up to half of the arithmetic.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)
        self._blocks = _blocks(mask) if mask.shape[1] >= BLOCKED_WIDTH else []

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.mask
        if not self._blocks:
            return functional.linear(x, weight, self.bias)
        product: Tensor = _BlockProduct.apply(x.flatten(0, -2), weight, self._blocks)
        return product.unflatten(0, x.shape[:-1]) + self.bias


@dataclass(frozen=True)
class _Block:
    """Outputs ``rows`` of a masked layer, the range ``columns`` of inputs that they see, and whether they also see the
    last input: a hidden unit of degree 0, which stands apart from the others of low degree.
    """

    rows: slice
    columns: slice
    last: bool


def _blocks(mask: Tensor) -> list[_Block]:
    """The blocks of a (out, in) mask: no connection lies outside them."""
    size = -(-mask.shape[1] // BLOCKS)
    found = []
    for start in range(0, len(mask), size):
        seen = mask[start : start + size].any(dim=0)
        used = seen[:-1].nonzero()[:, 0].tolist()
        columns = slice(used[0], used[-1] + 1) if used else slice(0, 0)
        last = bool(seen[-1])
        if last and columns.stop == mask.shape[1] - 1:  # the last input joins the range
            columns, last = slice(columns.start, columns.stop + 1), False
        found.append(_Block(slice(start, min(start + size, len(mask))), columns, last))
    return found


class _BlockProduct(torch.autograd.Function):
    """x W^T of x (B, in) and a masked W (out, in), block by block."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, blocks: list[_Block]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.blocks = blocks
        product = x.new_empty(len(x), len(weight))
        for block in blocks:
            part = product[:, block.rows]
            torch.mm(x[:, block.columns], weight[block.rows, block.columns].T, out=part)
            if block.last:
                part.addr_(x[:, -1], weight[block.rows, -1])
        return product

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        of_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight)
        for block in ctx.blocks:
            rows, columns = block.rows, block.columns
            of_rows = gradient[:, rows]
            of_weight[rows, columns] = of_rows.T @ x[:, columns]
            if block.last:
                of_weight[rows, -1] = of_rows.T @ x[:, -1]
            if of_x is not None:
                of_x[:, columns].addmm_(of_rows, weight[rows, columns])
                if block.last:
                    of_x[:, -1] += of_rows @ weight[rows, -1]
        return of_x, of_weight, None


class MADE(nn.Module):
    """u = (x - m(x)) exp(-a(x)), where coordinate i of m and a sees only the coordinates before i."""

    def __init__(
        self, width: int, reverse: bool = False, hidden_layers: int = 1, log_scale_limit: float | None = None
    ) -> None:
        super().__init__()
        first, between, last = degree_masks(width, reverse)
        layers: list[nn.Module] = [MaskedLinear(first), nn.ReLU()]
        for _ in range(hidden_layers):
            layers += [MaskedLinear(between), nn.ReLU()]
        self.net = nn.Sequential(*layers, MaskedLinear(torch.cat([last, last])))
        self.reverse, self.log_scale_limit = reverse, log_scale_limit

    def shift_and_log_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m and a, both shaped like x."""
        m, a = self.net(x).chunk(2, dim=-1)
        c = self.log_scale_limit
        return m, a if c is None else c * torch.tanh(a / c)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u and log|du/dx| of each coordinate, both shaped like x."""
        m, a = self.shift_and_log_scale(x)
        return (x - m) * torch.exp(-a), -a

    def inverse(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """x and log|dx/du| of each coordinate; one pass for each coordinate, in the order of the degrees."""
        x, a = torch.zeros_like(u), torch.zeros_like(u)
        order = range(u.shape[-1])
        for i in reversed(order) if self.reverse else order:
            m, a = self.shift_and_log_scale(x)
            x = x.clone()
            x[..., i] = u[..., i] * torch.exp(a[..., i]) + m[..., i]
        return x, a


class FlowBatchNorm(nn.Module):
    """y = exp(log_gamma) (x - mean) / sqrt(var + eps) + beta; batch statistics in training, running ones else.

    The batch variance is the unbiased one, and gradients flow through both statistics. The running statistics keep
    0.9 of their old value, the reverse of PyTorch's meaning of momentum.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, momentum: float = 0.9, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.log_gamma = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y, and log|dy/dx| of each coordinate, which is the same for all rows of a batch: (..., 1, d)."""
        if self.training:
            assert x.shape[-2] > 1, "the variance of a batch of one row does not exist"
            var, mean = torch.var_mean(x, dim=-2, keepdim=True)
            self._follow(mean.detach(), var.detach())
        else:
            mean, var = self.running_mean, self.running_var
        log_scale = self.log_gamma - 0.5 * torch.log(var + self.eps)
        if not self.training:
            log_scale = log_scale.expand(*x.shape[:-2], 1, x.shape[-1])
        return torch.exp(log_scale) * (x - mean) + self.beta, log_scale

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x by the running statistics, and log|dx/dy| of each coordinate, (..., 1, d)."""
        log_scale = self.log_gamma - 0.5 * torch.log(self.running_var + self.eps)
        x = (y - self.beta) * torch.exp(-log_scale) + self.running_mean
        return x, -log_scale.expand(*y.shape[:-2], 1, y.shape[-1])

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor) -> None:
        width = mean.shape[-1]
        for batch_mean, batch_var in zip(mean.reshape(-1, width), var.reshape(-1, width), strict=True):
            self.running_mean.mul_(self.momentum).add_(batch_mean, alpha=1 - self.momentum)
            self.running_var.mul_(self.momentum).add_(batch_var, alpha=1 - self.momentum)


class Flow(nn.Module):
    """MADE, batch norm, MADE with the degrees reversed, batch norm, and so on for ``blocks`` pairs."""

    def __init__(
        self,
        width: int,
        blocks: int = 2,
        hidden_layers: int = 1,
        log_scale_limit: float | None = None,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(blocks):
            layers.append(MADE(width, bool(block % 2), hidden_layers, log_scale_limit))
            if batch_norm:
                layers.append(FlowBatchNorm(width))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The latent u (..., B, d), and log|det du/dx| (..., B)."""
        log_det = x.new_zeros(x.shape[:-1])
        for layer in self.layers:
            x, terms = layer(x)
            log_det = log_det + terms.sum(dim=-1)
        return x, log_det

    def inverse(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The features x of a latent u, and log|det dx/du|, by the running statistics."""
        log_det = u.new_zeros(u.shape[:-1])
        for layer in reversed(self.layers):
            u, terms = layer.inverse(u)  # type: ignore[operator]
            log_det = log_det + terms.sum(dim=-1)
        return u, log_det
