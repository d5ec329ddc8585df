"""Label-distribution-aware margins.

Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, and its
official code. With ``rule: drw`` it is LDAM-DRW.

Deviation: the prediction head gives s * cos where the released network gives cos and the loss multiplies by s. The
predicted classes are the same; the probabilities are those that were trained.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.core.errors import ConfigError
from longtail.methods.objectives.weighting import Weighted
from longtail.models.classifier import create_head
from longtail.train.objective import Setting


class LDAM(Weighted):
    """Cross-entropy of s * (cos - m_y), with the margin m_k = margin * (n_min / n_k)^(1/4), on a cosine head.

    Args:
        setting: the task; its ``scale`` is s.
        margin: of the rarest class, in cosine units.
        options: of ``Weighted``.

    Raises:
        ConfigError: a linear head.
    """

    options = (*Weighted.options, "margin")

    def __init__(self, setting: Setting, margin: float = 0.5, **options: object) -> None:
        super().__init__(setting, **options)  # type: ignore[arg-type]
        if setting.head != "cosine":
            raise ConfigError(f"train.head: {setting.head} given, cosine (or auto) expected with train.objective: ldam")
        self.margins: Tensor
        self.register_buffer("margins", torch.from_numpy(margins(setting.counts, margin)).float())

    def create_head(self) -> nn.Module:
        setting = self.setting
        return create_head("cosine", setting.num_features, setting.num_classes, setting.scale)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        of_label = F.one_hot(labels, logits.shape[1]) * self.margins
        return super().losses(logits - self.setting.scale * of_label, labels)


def margins(counts: np.ndarray, largest: float) -> np.ndarray:
    """(C,) float64: largest * (n_min / n_k)^(1/4); an empty class has the largest."""
    counts = np.maximum(np.asarray(counts, np.float64), 1)
    return largest * (counts.min() / counts) ** 0.25
