"""tau-normalization: shrink the rows of the stage-1 weight by a power of their norm (Kang et al., ICLR 2020, eq. 5).

W_tau[c] = W[c] / ||W[c]||^tau. There is no bias for any tau, so tau = 0 is not the joint head. The measure of a tau is
macro accuracy (the mean of per-class accuracies), as in the official script.

Deviations: the official code prints the grid without selecting, and the tau of one dataset was tuned on the reported
split. Here tau is the best on rows that the head has not seen, the smallest one on ties. Zero rows stay zero instead of
becoming NaN. On a standardized head, W acts on the standardized features, so that neither the scale nor an offset of
the features matters.

On the base head of pretrained features tau stays about a point of macro accuracy below logit adjustment, because it
drops the bias.
"""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np

from longtail.core.head import LinearHead, StandardizedHead, unit_rows
from longtail.core.params import Auto, Group, key, only_with
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LinearFormMixin, draw_seed, row_blocks
from longtail.train.device import torch_device

WITHOUT_SELECTION = 1.0  # gives unit rows


@dataclass(frozen=True, kw_only=True)
class TauParams(Group):
    """tau-normalization."""

    path: ClassVar[str] = "tau"

    value: float | Auto = key("auto", "tau. auto: selected from 0, `grid_step`, ..., `grid_max`", low=0, high=10)
    grid_max: float = key(2.0, "largest tau of the grid", low=0, high=10, unused=only_with(value="auto"))
    grid_step: float = key(0.1, "step of the grid", above=0, high=10, unused=only_with(value="auto"))
    select_on: Literal["val", "test"] = key(
        "val",
        "part that tau is selected on. Without val, a base head is fitted without each fifth of the training rows to "
        "select tau on these, and the head of a trained backbone, whose training rows tell nothing, gets tau 1. `test` "
        "marks the result as tuned on test",
        unused=only_with(value="auto"),
    )


class TauNorm(LinearFormMixin, HeadClassifier):
    """tau-normalized head.

    Args:
        tau: a number >= 0, or "auto" to select from 0, grid_step, ..., grid_max.
        grid_max, grid_step: the grid.
        head: None, a LinearHead, or a (weight, bias) pair. None fits the base head on the rows first. A cosine head
            has unit rows, so no tau changes it.
        device: a torch device, for base heads.
        random_state: seed of the folds if there are no validation rows.

    Attributes:
        tau_: the tau in use.
        tau_grid_: (T,).
        class_accuracy_: (T, C) in [0, 1] on the held-out rows; NaN for a class without rows.
        macro_: (T,), the mean of ``class_accuracy_`` over the classes present.
        selected_on_: "val", "train_slice" (all folds of it) or "fixed".
    """

    tau_: float
    tau_grid_: np.ndarray
    class_accuracy_: np.ndarray
    macro_: np.ndarray
    selected_on_: str

    def __init__(
        self,
        tau: float | str = "auto",
        grid_max: float = 2.0,
        grid_step: float = 0.1,
        head: Any = None,
        device: str = "cpu",
        random_state: Any = 0,
    ) -> None:
        self.tau = tau
        self.grid_max = grid_max
        self.grid_step = grid_step
        self.head = head
        self.device = device
        self.random_state = random_state

    def fit(
        self, X: np.ndarray, y: np.ndarray, X_val: np.ndarray | None = None, y_val: np.ndarray | None = None
    ) -> Self:
        """X: (N, D) features; y: (N,) labels. X_val and y_val may lack classes of y.

        tau "auto" is selected on X_val and y_val. Without them, it is selected on five folds of the training rows if
        the head is a base head, which can be fitted without each fold. The head of a trained backbone has fitted its
        training rows, which say nothing about new ones, so tau is 1 then. A fixed tau is only measured, on X_val.
        """
        grid = self._grid()
        X, y = self._check_training(X, y)
        val = self._check_validation(X_val, y_val)
        start = self._starting_head(self.head, X, y)
        judged: list[tuple[LinearHead, np.ndarray, np.ndarray]] = [] if val is None else [(start, *val)]
        selected_on = "val"
        if self.tau != "auto":
            selected_on = "fixed"
        elif val is None:
            judged = self._folds(start, X, y)
            selected_on, grid = ("train_slice", grid) if judged else ("fixed", np.array([WITHOUT_SELECTION]))
        self.selected_on_, self.tau_grid_ = selected_on, grid
        self.class_accuracy_ = np.full((len(grid), len(self.classes_)), np.nan)
        self.macro_ = np.full(len(grid), np.nan)
        if judged:
            hits = np.sum([hits_over_grid(head, rows, labels, grid) for head, rows, labels in judged], axis=0)
            counts = np.bincount(np.concatenate([labels for *_, labels in judged]), minlength=len(self.classes_))
            self.class_accuracy_ = np.where(counts > 0, hits / np.maximum(counts, 1), np.nan)
            self.macro_ = self.class_accuracy_[:, counts > 0].mean(axis=1)
        best = 0 if selected_on == "fixed" else int(np.argmax(self.macro_ >= self.macro_.max() - 1e-12))
        self.tau_ = float(grid[best])
        return self._set_linear_form(start, tau_normalized(start, self.tau_), None)

    def _folds(
        self, start: LinearHead, X: np.ndarray, y: np.ndarray
    ) -> list[tuple[LinearHead, np.ndarray, np.ndarray]]:
        """Heads, and the rows and classes that they have not seen; none unless ``start`` can be fitted again."""
        if not isinstance(start, StandardizedHead) or start.l2 is None:
            return []
        from longtail.methods.heads.softmax_choice import cross_fits

        fits = cross_fits(X, y, start, draw_seed(self.random_state), torch_device(self.device, "tau"))
        return [(head, X[held_out], y[held_out]) for held_out, head in fits]

    def _grid(self) -> np.ndarray:
        TauParams(value=self.tau, grid_max=self.grid_max, grid_step=self.grid_step)  # type: ignore[arg-type]  # checks them
        if self.tau == "auto":
            points = int(np.floor(self.grid_max / self.grid_step + 1e-9)) + 1
            return np.round(np.arange(points) * self.grid_step, 12)
        return np.array([float(self.tau)])


def tau_normalized(head: LinearHead, tau: float) -> np.ndarray:
    """(C, D): the rows of the head's weight divided by norm^tau. For tau = 0 this is the weight, bit for bit."""
    weight = head.effective_weight()
    zero = np.flatnonzero(~weight.any(axis=1))
    if len(zero) and tau > 0:
        warnings.warn(
            f"the head's weight has zero rows, which tau-normalization does not change: classes {zero[:5].tolist()}",
            stacklevel=3,
        )
    divisor = _divisors(head, np.array([tau]))[0]
    return (weight / divisor[:, None]).astype(weight.dtype, copy=False)


def hits_over_grid(head: LinearHead, X: np.ndarray, y: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(T, C): correct predictions of each class for each tau.

    x . W_tau[c] is x . W[c] times a factor that depends on the class only, so X W^T is computed once for the grid.
    """
    weight, divisors = head.effective_weight(), _divisors(head, grid)
    num_classes = len(weight)
    hits = np.zeros((len(grid), num_classes), dtype=np.int64)
    for rows in row_blocks(len(X), 2 * 8 * num_classes):
        products = head.inputs(X[rows]) @ weight.T
        scaled = np.empty_like(products)
        for t, divisor in enumerate(divisors.astype(products.dtype)):
            np.divide(products, divisor, out=scaled)
            correct = scaled.argmax(axis=1) == y[rows]
            hits[t] += np.bincount(y[rows][correct], minlength=num_classes)
    return hits


def _divisors(head: LinearHead, grid: np.ndarray) -> np.ndarray:
    """(T, C) float64: norm^tau of each row; 1 for zero rows."""
    rows = unit_rows(head.weight) if head.kind == "cosine" else head.weight
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    return np.where(norms == 0, 1.0, norms) ** grid[:, None]


def _curve(tau: TauNorm, params: "TauParams") -> dict[str, np.ndarray]:
    return {"curve/tau": tau.tau_grid_, "curve/class_accuracy": tau.class_accuracy_}


def _selects_on(params: "TauParams") -> str:
    return params.select_on if params.value == "auto" else "val"


HEAD = HeadEntry(
    estimator=TauNorm,
    params=TauParams,
    rank=30,
    likelihood=False,
    arguments=lambda params: {"tau": params.value},
    selects_on=_selects_on,
    notes=lambda tau, params: {
        "tau": tau.tau_,
        "selected_on": "test" if _selects_on(params) == "test" else tau.selected_on_,
    },
    arrays=_curve,
)
