"""Label-distribution-aware margins.

Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, and its
official code. With ``rule: drw`` it is LDAM-DRW.

Deviation: the head gives s * cos. The released network gives cos, and its loss multiplies by s. The predicted classes
are the same, and here the probabilities are those that the loss was trained on.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.core.params import refuse
from longtail.methods.objectives.ldam import OBJECTIVE, LDAMParams
from longtail.methods.objectives.weighting import Weighted
from longtail.models.classifier import create_head
from longtail.train.objective import TaskInfo


class LDAM(Weighted):
    """Cross-entropy of s * (cos - m_y) on a cosine head, with the margin m_k = margin * (n_min / n_k)^(1/4).

    Args:
        task: the task. Its ``scale`` is s.
        margin: key of ``LDAMParams``.
        weighting: keys of ``WeightingParams``.

    Raises:
        ConfigError: a linear head.
    """

    def __init__(self, task: TaskInfo, margin: float = 0.5, **weighting: Any) -> None:
        super().__init__(task, **weighting)
        if task.head not in OBJECTIVE.heads:
            raise refuse("train.head", "cosine (or auto) with train.objective: ldam", task.head)
        margin = LDAMParams(margin=margin).margin
        self.margins: Tensor
        self.register_buffer("margins", torch.from_numpy(margins(task.counts, margin)).float())

    def create_head(self) -> nn.Module:
        task = self.task
        return create_head("cosine", task.num_features, task.num_classes, task.scale)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        label_margins = F.one_hot(labels, logits.shape[1]) * self.margins
        return super().losses(logits - self.task.scale * label_margins, labels)


def margins(counts: np.ndarray, largest: float) -> np.ndarray:
    """(C,) float64: largest * (n_min / n_k)^(1/4). An empty class has the largest margin."""
    counts = np.maximum(np.asarray(counts, np.float64), 1)
    return largest * (counts.min() / counts) ** 0.25
