"""Softmax cross-entropy, the stage-1 objective of Kang et al. 2020, and its class-balanced form.

Source of the latter: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
"""

from typing import Any

from torch import Tensor

from longtail.methods.objectives.weighting import Weighted
from longtail.train.objective import Setting


class CrossEntropy(Weighted):
    """Plain cross-entropy; weights as ``rule`` says."""


class ClassBalanced(CrossEntropy):
    """Cross-entropy weighted by the effective number in all epochs, with rule ``drw`` in the late ones."""

    def __init__(self, setting: Setting, **options: Any) -> None:
        super().__init__(setting, **options)
        self.always = self.rule in ("none", "resample")

    def weights_in(self, epoch: int) -> Tensor | None:
        return self.weights if self.always else super().weights_in(epoch)
