"""Cross-entropy of logits shifted by the log prior of their class; the shift is absent when predicting.

Sources: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020 (balanced softmax, without
its meta sampler); Menon et al., "Long-tail learning via logit adjustment", ICLR 2021 (the same at ``adjustment`` 1).
"""

import numpy as np
import torch
from torch import Tensor

from longtail.methods.objectives.weighting import Weighted
from longtail.train.objective import Setting

EMPTY = 1e-6  # images that an empty class counts, as in the released balanced softmax


class LogitAdjustment(Weighted):
    """Cross-entropy of z + adjustment * log prior.

    Args:
        setting, options: of ``Weighted``.
        adjustment: tau of Menon et al.
    """

    options = (*Weighted.options, "adjustment")

    def __init__(self, setting: Setting, adjustment: float = 1.0, **options: object) -> None:
        super().__init__(setting, **options)  # type: ignore[arg-type]
        self.shift: Tensor
        self.register_buffer("shift", adjustment * log_prior(setting.counts))

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().losses(logits + self.shift, labels)


class BalancedSoftmax(LogitAdjustment):
    """-log of n_y exp(z_y) / sum_c n_c exp(z_c): logit adjustment with the factor 1."""

    options = Weighted.options

    def __init__(self, setting: Setting, **options: object) -> None:
        super().__init__(setting, 1.0, **options)


def log_prior(counts: np.ndarray) -> Tensor:
    """(C,) float32: log of the share of each class, an empty one counting 1e-6 images."""
    counts = np.maximum(np.asarray(counts, np.float64), EMPTY)
    return torch.from_numpy(np.log(counts / counts.sum())).float()
