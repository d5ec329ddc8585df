"""LDA: linear discriminant analysis with a shrunken covariance and a chosen prior (Friedman, JASA 1989; no training).

Class c has the score m_c' A x - (m_c' A m_c) / 2 for centered x, class mean m_c and A = ((1 - g) S + g tr(S) / D I)^-1,
where S is the covariance within the classes. With prior ``train``, the log prior is added.

An estimated mean of n_c rows is longer than the true one: its m_c' A m_c is too large by tr(A S) / n_c on average,
which costs small classes most of their rows. ``correction`` is the share of that which is subtracted; 0 is classical
LDA. g and ``correction`` are those of the best mean class accuracy on held-out rows. One eigendecomposition of S gives
A for every g.

On pretrained features it stays 1 to 3 points of macro accuracy below the base head with logit adjustment
(docs/heads.md). It assumes one covariance for all classes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import csr_array

from longtail.core.head import StandardizedHead
from longtail.core.params import Auto, Group, key
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, LinearFormMixin, draw_seed, row_blocks
from longtail.methods.heads.held_out import best_position, class_accuracy, held_out_parts
from longtail.methods.heads.standardization import standardization

SHRINKAGES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
CORRECTIONS = (1.0, 0.75, 0.5, 0.25, 0.0)
SHRINKAGE_WITHOUT_SELECTION, CORRECTION_WITHOUT_SELECTION = 0.5, 0.5


class LDA(LikelihoodMixin, LinearFormMixin, HeadClassifier):
    """Shrinkage LDA.

    Args:
        shrinkage: g, above 0 and at most 1, or "auto".
        correction: share of the excess length of the means that is subtracted, 0 to 1, or "auto".
        prior: "uniform" or "train".
        random_state: seed of the rows that are held out if there are no validation rows.

    Attributes:
        head_: StandardizedHead.
        shrinkage_, correction_: those in use.
        selected_on_: "val", "train_slice" or "fixed".
    """

    head_: StandardizedHead
    shrinkage_: float
    correction_: float
    selected_on_: str

    def __init__(
        self,
        shrinkage: float | str = "auto",
        correction: float | str = "auto",
        prior: str = "uniform",
        random_state: Any = 0,
    ) -> None:
        self.shrinkage = shrinkage
        self.correction = correction
        self.prior = prior
        self.random_state = random_state

    def fit(
        self, X: np.ndarray, y: np.ndarray, X_val: np.ndarray | None = None, y_val: np.ndarray | None = None
    ) -> Self:
        """X: (N, D) features; y: (N,) labels. X_val and y_val choose what is "auto"; without them a fold of the rows.

        If nothing can be held out, both are 0.5.
        """
        params = self._parameters(LDAParams)
        X, y = self._check_training(X, y)
        val = self._check_validation(X_val, y_val)

        center, spread = standardization(X)
        # One divisor for all features: it takes the scale out and leaves their proportions.
        divisor = float(np.sqrt(np.mean(spread**2)))
        shrinkage = SHRINKAGE_WITHOUT_SELECTION if params.shrinkage == "auto" else params.shrinkage
        correction = CORRECTION_WITHOUT_SELECTION if params.correction == "auto" else params.correction
        everything = _Within(X, y, len(self.classes_), center, divisor)
        self.selected_on_ = "fixed"
        if "auto" in (params.shrinkage, params.correction):
            shrinkages = SHRINKAGES if params.shrinkage == "auto" else (params.shrinkage,)
            corrections = CORRECTIONS if params.correction == "auto" else (params.correction,)
            curves = []
            for kept, judge in held_out_parts(X, y, val, None, draw_seed(self.random_state), "lda"):
                within = everything
                if not kept.all():
                    within = _Within(X[kept], y[kept], len(self.classes_), center, divisor)
                predicted = within.predict(judge[0], shrinkages, corrections, params.prior)
                curves.append(class_accuracy(predicted, judge[1]))
            if curves:
                s, c = best_position(np.mean(curves, axis=0))
                shrinkage, correction = shrinkages[s], corrections[c]
                self.selected_on_ = "train_slice" if val is None else "val"
        self.shrinkage_, self.correction_ = float(shrinkage), float(correction)
        weight, bias = everything.weights(self.shrinkage_, self.correction_, params.prior)
        self.linear_head_ = self.head_ = StandardizedHead(
            (weight @ everything.axes.T).astype(X.dtype),
            bias.astype(X.dtype),
            center=center,
            spread=np.full(X.shape[1], divisor),
            prior=params.prior,
        )
        return self


class _Within:
    """Class means and the covariance within classes, by its principal axes.

    Args:
        X: (N, D); y: (N,) class positions, every class present; num_classes: C.
        center, divisor: rows are (X - center) / divisor.

    Attributes:
        counts: (C,).
        axes: (D, D), columns.
        variances: (D,) along the axes.
        means: (C, D) on the axes.
    """

    def __init__(self, X: np.ndarray, y: np.ndarray, num_classes: int, center: np.ndarray, divisor: float) -> None:
        self._center, self._divisor = center, divisor
        self.counts = np.bincount(y, minlength=num_classes)
        total, sums = np.zeros((X.shape[1], X.shape[1])), np.zeros((num_classes, X.shape[1]))
        for block in row_blocks(len(X), 3 * X.itemsize * X.shape[1]):
            rows = self._rows(X[block])
            total += rows.T @ rows
            members = (np.ones(len(rows), X.dtype), (y[block], np.arange(len(rows))))
            sums += csr_array(members, shape=(num_classes, len(rows))) @ rows
        means = sums / self.counts[:, None]
        total -= means.T @ sums
        variances, self.axes = eigh(total / max(1, len(X) - num_classes), overwrite_a=True, check_finite=False)
        self.variances = np.maximum(variances, 0)
        self.means = means @ self.axes

    def weights(self, shrinkage: float, correction: float, prior: str) -> tuple[np.ndarray, np.ndarray]:
        """(C, D) on the axes, and (C,) biases."""
        precision, excess = self._precision(shrinkage)
        weight = self.means * precision
        return weight, self._bias(weight, correction * excess, prior)

    def predict(
        self, X: np.ndarray, shrinkages: tuple[float, ...], corrections: tuple[float, ...], prior: str
    ) -> np.ndarray:
        """(S, K, M) class positions of the rows X (M, D) for each shrinkage and correction."""
        predicted = np.empty((len(shrinkages), len(corrections), len(X)), np.int64)
        axes, means = self.axes.astype(X.dtype), self.means
        for block in row_blocks(len(X), 8 * (X.shape[1] + 2 * len(means))):
            rows = self._rows(X[block]) @ axes
            for s, shrinkage in enumerate(shrinkages):
                precision, excess = self._precision(shrinkage)
                weight = means * precision
                scores = rows @ weight.astype(X.dtype).T
                for c, correction in enumerate(corrections):
                    bias = self._bias(weight, correction * excess, prior)
                    predicted[s, c, block] = (scores + bias.astype(X.dtype)).argmax(axis=1)
        return predicted

    def _precision(self, shrinkage: float) -> tuple[np.ndarray, float]:
        """(D,): A on the axes, and tr(A S)."""
        typical = self.variances.mean() or 1.0  # rows that equal their class means
        precision = 1 / ((1 - shrinkage) * self.variances + shrinkage * typical)
        return precision, float(precision @ self.variances)

    def _bias(self, weight: np.ndarray, excess: float, prior: str) -> np.ndarray:
        bias = (excess / self.counts - np.einsum("cd,cd->c", weight, self.means)) / 2
        return bias + np.log(self.counts / self.counts.sum()) if prior == "train" else bias

    def _rows(self, X: np.ndarray) -> np.ndarray:
        rows = X - self._center.astype(X.dtype)
        rows /= np.asarray(self._divisor, X.dtype)
        return rows


@dataclass(frozen=True, kw_only=True)
class LDAParams(Group):
    """Linear discriminant analysis."""

    path: ClassVar[str] = "lda"

    shrinkage: float | Auto = key(
        "auto",
        "share of a multiple of the identity in the covariance. auto: 0.01 to 0.9, chosen by mean class accuracy on "
        "val or, without it, on held-out training rows",
        above=0,
        high=1,
    )
    correction: float | Auto = key(
        "auto",
        "share of the excess length of the estimated class means that is subtracted; 0 is classical LDA. auto: 0 to 1, "
        "chosen with `shrinkage`",
        low=0,
        high=1,
        published="0",
    )
    prior: Literal["uniform", "train"] = key(
        "uniform", "`uniform`: all classes count the same; `train`: by their shares of the training images"
    )


HEAD = HeadEntry(
    estimator=LDA,
    params=LDAParams,
    rank=14,
    notes=lambda head, params: {
        "shrinkage": head.shrinkage_,
        "correction": head.correction_,
        "prior": params.prior,
        "selected_on": head.selected_on_,
    },
)
