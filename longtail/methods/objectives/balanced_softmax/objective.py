"""Balanced softmax.

Source: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, without its meta sampler.
"""

from typing import Any

from longtail.methods.objectives.logit_adjustment.objective import LogitAdjustment
from longtail.train.objective import TaskInfo


class BalancedSoftmax(LogitAdjustment):
    """-log of n_y exp(z_y) / sum_c n_c exp(z_c), which is logit adjustment with the factor 1."""

    def __init__(self, task: TaskInfo, **weighting: Any) -> None:
        super().__init__(task, 1.0, **weighting)
