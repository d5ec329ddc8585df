"""Focal loss.

Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, with a softmax as in the LDAM-DRW code.

Deviation: the released code takes p from the cross-entropy *after* class weights, so the weights change which rows are
easy, and then takes the plain mean. Here p is the probability of the label, and the weights enter in a weighted mean.
``released`` selects the released form. Without weights the two are the same.
"""

from typing import Any

import torch
from torch import Tensor

from longtail.methods.objectives.focal import FocalParams
from longtail.methods.objectives.weighting import Weighted, weighted_mean
from longtail.train.objective import TaskInfo


class Focal(Weighted):
    """(1 - p)^gamma times the cross-entropy, where p is the probability of the label.

    Args:
        task: the task.
        gamma, released: keys of ``FocalParams``.
        weighting: keys of ``WeightingParams``.
    """

    def __init__(self, task: TaskInfo, gamma: float = 1.0, released: bool = False, **weighting: Any) -> None:
        super().__init__(task, **weighting)
        self.params = FocalParams(gamma=gamma, released=released)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return focal(super().losses(logits, labels), self.params.gamma)

    def total(self, logits: Tensor, labels: Tensor, weights: Tensor | None, shares: Tensor | None = None) -> Tensor:
        if not self.params.released or weights is None:
            return super().total(logits, labels, weights, shares)
        released = focal(weights[labels] * super().losses(logits, labels), self.params.gamma)
        return weighted_mean(released, labels, None, shares)


def focal(cross_entropy: Tensor, gamma: float) -> Tensor:
    """(1 - exp(-c))^gamma * c for c >= 0 of any shape. Its gradient is finite at c = 0 for every gamma >= 0."""
    easy = -torch.expm1(-cross_entropy)
    return easy.clamp(min=torch.finfo(easy.dtype).tiny) ** gamma * cross_entropy
