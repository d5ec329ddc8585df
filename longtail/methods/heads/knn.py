"""kNN: votes of the k nearest training rows, the common control that trains nothing.

Features are standardized, then of unit length. A neighbor with cosine s votes with exp(s / T) (weighted kNN of Wu et
al., CVPR 2018) and, for a uniform prior, with 1 / n_c for its class of n_c rows. k and T are those of the best mean
class accuracy on held-out rows; the held-out rows are neighbors again afterward.

The scores are logarithms of vote shares, so their softmax is the estimate of the class posterior. Each share is mixed
with 1 / C in proportion 1 : 1 / k, so that a class without neighbors has a small probability instead of none.

On pretrained features it stays 4 to 6 points of macro accuracy below the base head with logit adjustment
(docs/heads.md), because it weighs all directions of the features alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np

from longtail.core.head import Neighbors, most_similar, vote_shares, vote_weights
from longtail.core.params import Auto, Group, key
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, draw_seed, row_blocks
from longtail.methods.heads.held_out import best_position, class_accuracy, held_out_parts
from longtail.methods.heads.standardization import standardization

K_GRID = (1, 5, 10, 20, 50, 100, 200, 500)
T_GRID = (0.02, 0.05, 0.1, 0.2)
K_WITHOUT_SELECTION, T_WITHOUT_SELECTION = 20, 0.1
JUDGES = 5000  # rows of a fold that judge; more of them are cut, large classes first


class KNN(LikelihoodMixin, HeadClassifier):
    """Weighted k nearest neighbors by cosine.

    Args:
        k: neighbors that vote, at most N, or "auto".
        temperature: T of the votes, or "auto".
        prior: "uniform": a vote counts 1 / n_c; "train": all votes count the same.
        random_state: seed of the rows that are held out if there are no validation rows.

    Attributes:
        head_: Neighbors, with all training rows.
        k_, temperature_: those in use.
        selected_on_: "val", "train_slice" or "fixed".
    """

    head_: Neighbors
    k_: int
    temperature_: float
    selected_on_: str

    def __init__(
        self,
        k: int | str = "auto",
        temperature: float | str = "auto",
        prior: str = "uniform",
        random_state: Any = 0,
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.prior = prior
        self.random_state = random_state

    def fit(
        self, X: np.ndarray, y: np.ndarray, X_val: np.ndarray | None = None, y_val: np.ndarray | None = None
    ) -> Self:
        """X: (N, D) features; y: (N,) labels. X_val and y_val choose what is "auto"; without them a fold of the rows.

        If nothing can be held out, k is 20 and T is 0.1.
        """
        params = self._parameters(KNNParams)
        X, y = self._check_training(X, y)
        val = self._check_validation(X_val, y_val)

        center, spread = standardization(X)
        k = min(K_WITHOUT_SELECTION if params.k == "auto" else params.k, len(X))
        temperature = T_WITHOUT_SELECTION if params.temperature == "auto" else params.temperature
        rows = np.empty_like(X)
        everything = Neighbors(rows, y, center, spread, k, temperature, params.prior)
        for block in row_blocks(len(X), 4 * X.itemsize * X.shape[1]):
            rows[block] = everything.inputs(X[block])
        self.selected_on_ = "fixed"
        if "auto" in (params.k, params.temperature):
            numbers = sorted({min(number, len(X)) for number in (K_GRID if params.k == "auto" else (params.k,))})
            temperatures = T_GRID if params.temperature == "auto" else (params.temperature,)
            judged = None if val is None else (everything.inputs(val[0].astype(X.dtype, copy=False)), val[1])
            curves = [
                _macro(rows[kept], y[kept], *judge, numbers, temperatures, params.prior)
                for kept, judge in held_out_parts(rows, y, judged, JUDGES, draw_seed(self.random_state), "knn")
            ]
            if curves:
                t, n = best_position(np.mean(curves, axis=0))
                k, temperature = numbers[n], temperatures[t]
                self.selected_on_ = "train_slice" if val is None else "val"
        self.k_, self.temperature_ = k, float(temperature)
        self.head_ = Neighbors(rows, y, center, spread, k, self.temperature_, params.prior)
        return self

    def _block_scores(self, X: np.ndarray) -> np.ndarray:
        return self.head_.scores(X)


def _macro(
    rows: np.ndarray,
    y: np.ndarray,
    judge: np.ndarray,
    labels: np.ndarray,
    numbers: list[int],
    temperatures: tuple[float, ...],
    prior: str,
) -> np.ndarray:
    """(T, K): mean class accuracy on the judging rows (M, D) for each temperature and number of neighbors."""
    weights = vote_weights(y, prior)
    usable = [min(number, len(rows)) for number in numbers]
    predicted = np.empty((len(temperatures), len(numbers), len(judge)), np.int64)
    for block in row_blocks(len(judge), 2 * 8 * len(rows)):
        similarity, nearest = most_similar(judge[block], rows, usable[-1])
        for t, temperature in enumerate(temperatures):
            shares: Iterator[np.ndarray] = vote_shares(similarity, y[nearest], weights, temperature, usable)
            for n, share in enumerate(shares):
                predicted[t, n, block] = share.argmax(axis=1)
    return class_accuracy(predicted, labels)


@dataclass(frozen=True, kw_only=True)
class KNNParams(Group):
    """k nearest neighbors with class-balanced votes."""

    path: ClassVar[str] = "knn"

    k: int | Auto = key(
        "auto",
        f"neighbors that vote. auto: {', '.join(map(str, K_GRID))}, chosen by mean class accuracy on val or, without "
        "it, on held-out training rows",
        low=1,
    )
    temperature: float | Auto = key(
        "auto",
        f"T of the votes exp(s / T). auto: {', '.join(f'{t:g}' for t in T_GRID)}, chosen with `k`",
        above=0,
        published="0.07",
    )
    prior: Literal["uniform", "train"] = key(
        "uniform", "`uniform`: the votes for a class are divided by its size; `train`: they are not"
    )


HEAD = HeadEntry(
    estimator=KNN,
    params=KNNParams,
    rank=12,
    notes=lambda head, params: {
        "k": head.k_,
        "temperature": head.temperature_,
        "prior": params.prior,
        "selected_on": head.selected_on_,
    },
)
