"""Focal loss.

Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, with a softmax as in the LDAM-DRW code.

Deviation: the released code takes p from the cross-entropy *after* class weights, so that the weights change what
counts as easy, and averages plainly. Here p is the probability of the label and the weights stand outside, in a
weighted mean. ``focal_released`` gives the released form; without weights the two are the same.
"""

import torch
from torch import Tensor

from longtail.methods.objectives.weighting import Weighted, weighted_mean
from longtail.train.objective import Setting


class Focal(Weighted):
    """(1 - p)^gamma times the cross-entropy, p the probability of the label.

    Args:
        setting, options: of ``Weighted``.
        focal_gamma: 0 is cross-entropy.
        focal_released: the released form.
    """

    options = (*Weighted.options, "focal_gamma", "focal_released")

    def __init__(
        self, setting: Setting, focal_gamma: float = 1.0, focal_released: bool = False, **options: object
    ) -> None:
        super().__init__(setting, **options)  # type: ignore[arg-type]
        self.focal_gamma, self.focal_released = focal_gamma, focal_released

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return focal(super().losses(logits, labels), self.focal_gamma)

    def total(self, logits: Tensor, labels: Tensor, weights: Tensor | None, shares: Tensor | None = None) -> Tensor:
        if not self.focal_released or weights is None:
            return super().total(logits, labels, weights, shares)
        released = focal(weights[labels] * super().losses(logits, labels), self.focal_gamma)
        return weighted_mean(released, labels, None, shares)


def focal(cross_entropy: Tensor, gamma: float) -> Tensor:
    """(1 - exp(-c))^gamma * c for c >= 0, of any shape; its gradient is finite at c = 0 for every gamma >= 0."""
    easy = -torch.expm1(-cross_entropy)
    return easy.clamp(min=torch.finfo(easy.dtype).tiny) ** gamma * cross_entropy
