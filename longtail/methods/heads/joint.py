"""Joint: the stage-1 head as it is, the baseline of all heads (Kang et al., ICLR 2020, section 4)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from longtail.core.head import StandardizedHead
from longtail.core.params import Group
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, LinearFormMixin


class Joint(LikelihoodMixin, LinearFormMixin, HeadClassifier):
    """The given head unchanged; without one, the base head of the rows (see ``softmax_regression``).

    head: None, a LinearHead, or a (weight (C, D), bias (C,) or None) pair; row c belongs to the c-th sorted class of y.
    """

    def __init__(self, head: Any = None) -> None:
        self.head = head

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """X (N, D) features, y (N,) labels. Raises DataError where the head does not match them."""
        X, y = self._check_training(X, y)
        start = self._starting_head(self.head, X, y)
        if isinstance(start, StandardizedHead):
            self.linear_head_ = self.head_ = start
            return self
        return self._set_linear_form(start, start.effective_weight(), start.bias)


@dataclass(frozen=True, kw_only=True)
class JointParams(Group):
    """The stage-1 head as it is: nothing to set."""

    path: ClassVar[str] = "joint"


HEAD = HeadEntry(estimator=Joint, params=JointParams, rank=0, is_stage1=True)
