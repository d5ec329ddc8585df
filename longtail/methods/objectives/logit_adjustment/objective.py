"""Cross-entropy of logits that are shifted by the log prior of their class. Predictions are not shifted.

Sources:

- Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020: balanced softmax, without its
  meta sampler.
- Menon et al., "Long-tail learning via logit adjustment", ICLR 2021: the same if ``adjustment`` is 1.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from longtail.methods.objectives.logit_adjustment import LogitAdjustmentParams
from longtail.methods.objectives.weighting import Weighted
from longtail.train.objective import TaskInfo

EMPTY = 1e-6  # an empty class counts as this many images, as in the released balanced softmax


class LogitAdjustment(Weighted):
    """Cross-entropy of z + adjustment * log prior.

    Args:
        task: the task.
        adjustment: key of ``LogitAdjustmentParams``, tau of Menon et al.
        weighting: keys of ``WeightingParams``.
    """

    def __init__(self, task: TaskInfo, adjustment: float = 1.0, **weighting: Any) -> None:
        super().__init__(task, **weighting)
        adjustment = LogitAdjustmentParams(adjustment=adjustment).adjustment
        self.shift: Tensor
        self.register_buffer("shift", adjustment * log_prior(task.counts))

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().losses(logits + self.shift, labels)


def log_prior(counts: np.ndarray) -> Tensor:
    """(C,) float32: log of the share of each class. An empty class counts as 1e-6 images."""
    counts = np.maximum(np.asarray(counts, np.float64), EMPTY)
    return torch.from_numpy(np.log(counts / counts.sum())).float()
