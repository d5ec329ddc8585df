"""The loss of a batch of rows, with its gradient written out."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowLoss:
    """Softmax cross-entropy with what the heads change of it.

    Attributes:
        smoothing: s in [0, 1); the targets are (1 - s) for the class plus s / C for every class.
        offset: (C,), added to the logits in training only; for logit-adjusted loss, the log prior.
        class_weights: (C,), weights of the rows by their class; None weighs all rows the same.
    """

    smoothing: float = 0.0
    offset: Tensor | None = None
    class_weights: Tensor | None = None

    def __call__(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss, a scalar, and the gradient (B, C) of the sum, for logits (B, C) and classes y (B, 1)."""
        if self.offset is not None:
            logits = logits + self.offset
        log_p = torch.log_softmax(logits, dim=1)
        losses = -log_p.gather(1, y)
        if self.smoothing:
            losses = (1 - self.smoothing) * losses - self.smoothing * log_p.mean(dim=1, keepdim=True)
        gradient = log_p.exp_()
        if self.smoothing:
            gradient -= self.smoothing / logits.shape[1]
        gradient.scatter_add_(1, y, gradient.new_full(y.shape, self.smoothing - 1))
        if self.class_weights is not None:
            weights = self.class_weights[y]
            losses, gradient = losses * weights, gradient.mul_(weights)
        return losses.mean(), gradient
