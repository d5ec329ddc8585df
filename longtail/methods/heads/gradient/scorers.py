"""Logits of a batch as a function of trained parameters, with the gradients written out.

torch is imported by type checkers only, so importing the heads does not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from longtail.core.head import NORM_FLOOR, LinearHead
from longtail.train.device import to_device

if TYPE_CHECKING:
    import numpy as np
    import torch


class Scorer(Protocol):
    """Logits as a function of trained parameters and of a batch of rows, with its gradient."""

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        """The trained tensors; the loop updates them in place."""
        ...

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, K) rows -> (B, C) logits."""
        ...

    def add_gradients(
        self, rows: torch.Tensor, logit_gradient: torch.Tensor, into: Sequence[torch.Tensor], factor: float
    ) -> None:
        """Add ``factor`` times the gradient of each parameter, given that of the logits (B, C), to ``into``."""
        ...


class LinearScorer:
    """logits = x W^T + b; trains W (C, D) and b (C,)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.weight, self.bias = weight, bias

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        return self.weight, self.bias

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias on the host."""
        return self.weight.cpu().numpy(), self.bias.cpu().numpy()

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        return self.bias.addmm(rows, self.weight.T)

    def add_gradients(
        self, rows: torch.Tensor, logit_gradient: torch.Tensor, into: Sequence[torch.Tensor], factor: float
    ) -> None:
        weight, bias = into
        weight.addmm_(logit_gradient.T, rows, alpha=factor)
        bias.add_(logit_gradient.sum(dim=0), alpha=factor)


def linear_scorer(head: LinearHead, device: torch.device) -> LinearScorer:
    """A trainable copy of the weight and bias of ``head``."""
    assert head.bias is not None
    return LinearScorer(to_device(head.weight.copy(), device), to_device(head.bias.copy(), device))


class CosineScorer:
    """logits = scale * x . W_c / ||W_c|| for rows x of unit length; trains W (C, D)."""

    def __init__(self, weight: torch.Tensor, scale: float) -> None:
        self.weight, self.scale = weight, scale
        self._unit, self._norms = weight, weight  # of the last call to logits, which gradients belong to

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        return (self.weight,)

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        self._norms = self.weight.norm(dim=1, keepdim=True).clamp_min(NORM_FLOOR)
        self._unit = self.weight / self._norms
        return (rows @ self._unit.T).mul_(self.scale)

    def add_gradients(
        self, rows: torch.Tensor, logit_gradient: torch.Tensor, into: Sequence[torch.Tensor], factor: float
    ) -> None:
        (weight,) = into
        gradient = logit_gradient.T @ rows
        gradient -= self._unit * (gradient * self._unit).sum(dim=1, keepdim=True)
        weight.add_(gradient.div_(self._norms), alpha=factor * self.scale)


class ScaleScorer:
    """logits = s * z with fixed z; trains s (C,).

    Rows are z (B, C) themselves or, given ``weight`` and ``bias``, features from which z = x W^T + b is computed.
    """

    def __init__(
        self, scales: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
    ) -> None:
        self.scales, self.weight, self.bias = scales, weight, bias
        self._z: torch.Tensor | None = None  # of the last call to logits, which gradients belongs to

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        return (self.scales,)

    def fixed_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, C): z of these rows."""
        if self.weight is None:
            return rows
        z = rows @ self.weight.T
        return z if self.bias is None else z + self.bias

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        self._z = self.fixed_logits(rows)
        return self._z * self.scales

    def add_gradients(
        self, rows: torch.Tensor, logit_gradient: torch.Tensor, into: Sequence[torch.Tensor], factor: float
    ) -> None:
        assert self._z is not None
        (scales,) = into
        scales.add_((logit_gradient * self._z).sum(dim=0), alpha=factor)
