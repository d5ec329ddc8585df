"""Joint: the stage-1 head, the baseline of all heads (Kang et al., ICLR 2020, section 4).

For a trained backbone it is the head that was trained with it. For a frozen backbone and for features without a head it
is the base head, see ``softmax_regression``.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np

from longtail.core.errors import ConfigError
from longtail.core.head import LinearHead, StandardizedHead
from longtail.core.params import Auto, Group, key
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, LinearFormMixin, draw_seed


@dataclass(frozen=True, kw_only=True)
class BaseHeadParams(Group):
    """Keys of the base head."""

    prior: Literal["train", "uniform"] = key(
        "train",
        "`train`: the head expects the class shares of the training images; `uniform`: all classes count the same "
        "(balanced softmax)",
    )
    l2: float | Auto = key(
        "auto",
        "L2 strength. auto: the one of best mean class accuracy on val or, without it, on held-out training rows",
        above=0,
    )


@dataclass(frozen=True, kw_only=True)
class JointParams(BaseHeadParams):
    """The stage-1 head. The keys are those of the base head, for this row only; a trained head is used as it is."""

    path: ClassVar[str] = "joint"


class Joint(LikelihoodMixin, LinearFormMixin, HeadClassifier):
    """The given head; without one, the base head of the rows.

    Args:
        head: None, a LinearHead, or a (weight (C, D), bias (C,) or None) pair; row c belongs to the c-th sorted class
            of y. A base head takes the prior, and is fitted again for another L2 strength.
        prior: "train" or "uniform"; "train" with any other head.
        l2: the L2 strength, or "auto"; "auto" with any other head.
        device: a torch device, for base heads.
        random_state: seed of the rows that are held out to choose the L2 strength.
    """

    def __init__(
        self,
        head: Any = None,
        prior: str = "train",
        l2: float | str = "auto",
        device: str = "cpu",
        random_state: Any = 0,
    ) -> None:
        self.head = head
        self.prior = prior
        self.l2 = l2
        self.device = device
        self.random_state = random_state

    def fit(
        self, X: np.ndarray, y: np.ndarray, X_val: np.ndarray | None = None, y_val: np.ndarray | None = None
    ) -> Self:
        """X (N, D) features, y (N,) labels; X_val, y_val choose the L2 strength of a base head that is fitted.

        Raises:
            DataError: the head does not match the rows.
            ConfigError: prior or l2 is given with a head that is no base head.
        """
        self._parameters(JointParams)
        X, y = self._check_training(X, y)
        val = self._check_validation(X_val, y_val)
        refit = self.head is None or (isinstance(self.head, StandardizedHead) and self.l2 not in ("auto", self.head.l2))
        if refit:
            from longtail.methods.heads.softmax_regression import SoftmaxRegression

            base = SoftmaxRegression(self.prior, self.l2, self.device, draw_seed(self.random_state))
            start: LinearHead = base.fit(X, y, *(val or (None, None))).head_
        else:
            start = self._starting_head(self.head, X, y)
        if isinstance(start, StandardizedHead):
            start = start.with_prior(self.prior, np.bincount(y) / len(y))
            self.linear_head_ = self.head_ = start
            return self
        for name, usual in (("prior", "train"), ("l2", "auto")):
            if getattr(self, name) != usual:
                raise ConfigError(
                    f"joint.{name} must be {usual} with a head that is no base head, got {getattr(self, name)}"
                )
        return self._set_linear_form(start, start.effective_weight(), start.bias)


def _notes(joint: Joint, params: JointParams) -> dict[str, str | int | float | bool]:
    head = joint.head_
    if not isinstance(head, StandardizedHead):
        return {}
    chosen = {} if params.l2 == "auto" else {"selected_on": "fixed"}
    return {"prior": head.prior} | ({} if head.l2 is None else {"l2": head.l2}) | chosen


HEAD = HeadEntry(estimator=Joint, params=JointParams, rank=0, is_stage1=True, notes=_notes)
