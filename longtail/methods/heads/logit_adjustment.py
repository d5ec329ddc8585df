"""Post-hoc logit adjustment: the stage-1 head less the log prior of its training classes.

Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, section 4.1. On a head that was trained with
the prior in its loss (balanced softmax) the prior counts twice.
"""

from typing import Any, Self

import numpy as np

from longtail.core.errors import ConfigError
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, LinearFormMixin


class LogitAdjustment(LikelihoodMixin, LinearFormMixin, HeadClassifier):
    """Scores z - adjustment * log(n_c / N); with 1 the class posterior under a uniform prior.

    head: as ``Joint`` takes it; adjustment: tau of Menon et al., at least 0.
    """

    def __init__(self, adjustment: float = 1.0, head: Any = None) -> None:
        self.adjustment = adjustment
        self.head = head

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """X (N, D) features, y (N,) labels, whose counts are the prior.

        Raises DataError where the head does not match them, ConfigError for an adjustment below 0.
        """
        if not self.adjustment >= 0:
            raise ConfigError(f"adjustment must be at least 0, got {self.adjustment!r}")
        X, y = self._check_training(X, y)
        start = self._starting_head(self.head, X, y)
        prior = np.bincount(y) / len(y)
        shift = (-self.adjustment * np.log(prior)).astype(start.weight.dtype)
        return self._set_linear_form(
            start, start.effective_weight(), shift if start.bias is None else start.bias + shift
        )
