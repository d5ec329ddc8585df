"""The base head: softmax regression on standardized features, with its L2 strength chosen on held-out rows.

Loss: mean cross-entropy + l2 / 2 ||W||^2 on features of mean 0 and standard deviation 1; the bias is not penalized. It
is what ``joint`` is for features without a trained head, and where tau, LWS, logit adjustment and DLSA start then. The
row ``softmax_regression`` is fitted on the features of any backbone, by default for a uniform prior.

Because the bias is free, minimizing the balanced softmax (cross-entropy on logits + log prior; Ren et al. 2020) gives
the same W, and a bias that is smaller by the log prior. So ``prior: uniform`` is one subtraction after the same fit,
and post-hoc logit adjustment (Menon et al. 2021) of the head for ``prior: train`` is the head for ``prior: uniform``.

The L2 strength is the one with the best mean class accuracy on held-out rows under a uniform prior (on ties, with the
best likelihood). The path goes from strong to weak regularization, each fit starting from the last one, and ends when
two values in a row are worse than the best. The chosen value is then used on all rows.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np

from longtail.core.errors import DataError
from longtail.core.head import StandardizedHead
from longtail.core.params import key
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, LinearFormMixin, draw_seed
from longtail.methods.heads.joint import BaseHeadParams
from longtail.train.device import torch_device

L2_GRID = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4)
WITHOUT_SELECTION = 0.01
PATIENCE = 2  # values of the path without a new best


class SoftmaxRegression(LikelihoodMixin, LinearFormMixin, HeadClassifier):
    """L2-regularized softmax regression on standardized features. It runs in the dtype of X.

    Args:
        prior: "train" or "uniform".
        l2: the L2 strength, or "auto" to choose it.
        device: a torch device.
        random_state: seed of the rows that are held out if there are no validation rows.

    Attributes:
        head_: StandardizedHead.
        l2_: the L2 strength in use.
        l2_grid_: (T,), the values that were tried, from strong to weak.
        macro_: (T,), mean class accuracy in [0, 1] of each on the held-out rows.
        selected_on_: "val", "train_slice" or "fixed".
    """

    head_: StandardizedHead
    l2_: float
    l2_grid_: np.ndarray
    macro_: np.ndarray
    selected_on_: str

    def __init__(
        self, prior: str = "train", l2: float | str = "auto", device: str = "cpu", random_state: Any = 0
    ) -> None:
        self.prior = prior
        self.l2 = l2
        self.device = device
        self.random_state = random_state

    def fit(
        self, X: np.ndarray, y: np.ndarray, X_val: np.ndarray | None = None, y_val: np.ndarray | None = None
    ) -> Self:
        """X: (N, D) features; y: (N,) labels. X_val and y_val may lack classes of y; they choose the L2 strength.

        Without them, a fifth of the rows is held out, or five times a fifth each if there are few. Of a class with one
        row, none is. If no class has two rows, nothing can be held out and the L2 strength is 0.01.
        """
        self._parameters(SoftmaxRegressionParams)
        X, y = self._check_training(X, y)
        val = self._check_validation(X_val, y_val)
        num_classes = len(self.classes_)
        if num_classes < 2:
            raise DataError("a linear head needs at least 2 classes, y holds only one class")
        from longtail.methods.heads.softmax_choice import choose_l2
        from longtail.methods.heads.softmax_solver import PrincipalRows

        rows = PrincipalRows(X, y, num_classes, torch_device(self.device, "softmax_regression"))
        start = None
        if self.l2 == "auto":
            chosen = choose_l2(rows, val, draw_seed(self.random_state), L2_GRID, PATIENCE)
            self.selected_on_, self.l2_grid_, self.macro_ = chosen.selected_on, chosen.grid, chosen.macro
            self.l2_, start = (WITHOUT_SELECTION, None) if chosen.l2 is None else (chosen.l2, chosen.start)
        else:
            self.selected_on_, self.l2_ = "fixed", float(self.l2)
            self.l2_grid_, self.macro_ = np.array([self.l2_]), np.full(1, np.nan)
        head = rows.fit(self.l2_, start)
        self.linear_head_ = self.head_ = head.with_prior(self.prior, np.bincount(y) / len(y))
        return self


@dataclass(frozen=True, kw_only=True)
class SoftmaxRegressionParams(BaseHeadParams):
    """The base head, fitted on the features of any backbone."""

    path: ClassVar[str] = "softmax_regression"

    prior: Literal["train", "uniform"] = key("uniform", "as `joint.prior`")


HEAD = HeadEntry(
    estimator=SoftmaxRegression,
    params=SoftmaxRegressionParams,
    rank=55,
    notes=lambda head, params: {"prior": head.head_.prior, "l2": head.l2_, "selected_on": head.selected_on_},
    arrays=lambda head, params: {"curve/l2": head.l2_grid_, "curve/macro": head.macro_},
)
