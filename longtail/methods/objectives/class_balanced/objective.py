"""Class-balanced cross-entropy.

Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
"""

from typing import Any

from torch import Tensor

from longtail.methods.objectives.ce.objective import CrossEntropy
from longtail.train.objective import TaskInfo


class ClassBalanced(CrossEntropy):
    """Cross-entropy weighted by the effective number in all epochs, or with the rule ``drw`` only in late epochs."""

    def __init__(self, task: TaskInfo, **weighting: Any) -> None:
        super().__init__(task, **weighting)
        self.always = self.weighting.rule in ("none", "resample")

    def weights_in(self, epoch: int) -> Tensor | None:
        return self.weights if self.always else super().weights_in(epoch)
