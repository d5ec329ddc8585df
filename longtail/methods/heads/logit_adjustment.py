"""Post-hoc logit adjustment: the stage-1 head less the log prior of its training classes.

Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, section 4.1. On a head that was trained with
the prior in its loss (balanced softmax) the prior counts twice. A base head knows its prior, so there it does not.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from longtail.core.head import StandardizedHead
from longtail.core.params import Group, key
from longtail.methods.heads import HeadEntry
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
        self._parameters(LogitAdjustmentParams)
        X, y = self._check_training(X, y)
        prior = np.bincount(y) / len(y)
        start = self._starting_head(self.head, X, y)
        if isinstance(start, StandardizedHead):
            start = start.with_prior("train", prior)
            if self.adjustment == 1:
                self.linear_head_, self.head_ = start, start.with_prior("uniform", prior)
                return self
        shift = (-self.adjustment * np.log(prior)).astype(start.weight.dtype)
        return self._set_linear_form(
            start, start.effective_weight(), shift if start.bias is None else start.bias + shift
        )


@dataclass(frozen=True, kw_only=True)
class LogitAdjustmentParams(Group):
    """Post-hoc logit adjustment."""

    path: ClassVar[str] = "logit_adjustment"

    adjustment: float = key(
        1.0,
        "factor of the log prior that is subtracted from the stage-1 logits. A head trained with `balanced_softmax` or "
        "`logit_adjustment` has it built in already",
        low=0,
        high=10,
    )


HEAD = HeadEntry(
    estimator=LogitAdjustment,
    params=LogitAdjustmentParams,
    rank=50,
    notes=lambda head, params: {"adjustment": params.adjustment},
)
