"""Heads as plain values: what estimators take and give, what head files hold, and what a trained layer exports.

Shapes: C classes, D features, N rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from longtail.core.errors import DataError

KINDS = ("linear", "cosine", "unit", "standardized")
PRIORS = ("train", "uniform")
OTHER = "other"
_SIMILARITY_BYTES = 64 * 2**20
NORM_FLOOR = 1e-12  # a row with a smaller norm counts as zero and stays zero when normalized


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A head whose scores are linear in the features x (D,), or in x / ||x||.

    Attributes:
        weight: (C, D) float.
        bias: (C,) float, or None.
        kind: ``linear``: x W^T + b. ``unit``: the same on x / ||x||. ``cosine``: scale * cos(x, W[c]), without a bias;
            a zero x or a zero row of W scores 0. ``standardized``: a StandardizedHead.
        scale: the factor of ``cosine``; 1 for the other kinds.

    Raises:
        DataError: an unknown kind, arrays that do not fit together, or values that are not finite.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None
    kind: str = "linear"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"a head's kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.weight.ndim != 2 or not np.issubdtype(self.weight.dtype, np.floating):
            raise DataError(
                f"a head's weight must be a (C, D) float array, got {self.weight.dtype} of shape {self.weight.shape}"
            )
        if self.kind == "cosine" and self.bias is not None:
            raise DataError("a cosine head has no bias")
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise DataError(
                f"a head's bias must be ({len(self.weight)},) for a weight of {self.weight.shape}, got "
                f"{self.bias.shape}"
            )
        if not np.isfinite(self.weight).all() or (self.bias is not None and not np.isfinite(self.bias).all()):
            raise DataError("a head's weight and bias must be finite")

    @property
    def unit_input(self) -> bool:
        """Whether the head acts on x / ||x|| instead of x."""
        return self.kind in ("cosine", "unit")

    @property
    def size(self) -> int:
        """Number of values in weight and bias."""
        return self.weight.size + (0 if self.bias is None else self.bias.size)

    def effective_weight(self) -> np.ndarray:
        """(C, D): the matrix that gives the scores before the bias from ``inputs``."""
        if self.kind != "cosine":
            return self.weight
        return (self.scale * unit_rows(self.weight)).astype(self.weight.dtype, copy=False)

    def inputs(self, X: np.ndarray) -> np.ndarray:
        """(N, D): what the weight acts on: the rows of X (N, D), or those divided by their norm."""
        return unit_rows(X) if self.unit_input else X

    def scores(self, X: np.ndarray) -> np.ndarray:
        """(N, C) scores of the rows of X (N, D)."""
        scores = self.inputs(X) @ self.effective_weight().T
        return scores if self.bias is None else scores + self.bias

    def on_raw(self) -> "LinearHead":
        """The head with the same scores whose weight acts on x or x / ||x||."""
        return self

    def with_weights(self, weight: np.ndarray, bias: np.ndarray | None) -> "LinearHead":
        """A head with other effective weights (C, D) and bias (C,) on the same inputs."""
        return LinearHead(weight, bias, "unit" if self.unit_input else "linear")


@dataclass(frozen=True, eq=False, kw_only=True)
class StandardizedHead(LinearHead):
    """A linear head on standardized features: scores ((x - center) / spread) W^T + b.

    Attributes:
        center, spread: (D,) float, subtracted from the features, and divided by.
        l2: the regularization that the head was fitted with as a softmax regression, so that it can be fitted again on
            other rows; None if it was changed since.
        prior: ``train`` if the scores are log posteriors under the class shares of the training rows, ``uniform`` if
            all classes count the same, and ``other`` if they are neither.
    """

    kind: str = "standardized"
    center: np.ndarray
    spread: np.ndarray
    l2: float | None = None
    prior: str = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        width = self.weight.shape[1:]
        for name, values in (("center", self.center), ("spread", self.spread)):
            if values.shape != width or not np.isfinite(values).all():
                raise DataError(f"a standardized head's {name} must be {width} finite floats")
        if not (self.spread > 0).all():
            raise DataError("a standardized head's spread must be above 0")
        if self.prior not in (*PRIORS, OTHER):
            allowed = ", ".join((*PRIORS, OTHER))
            raise DataError(f"a standardized head's prior must be one of {allowed}, got {self.prior!r}")

    @property
    def unit_input(self) -> bool:
        return False

    def inputs(self, X: np.ndarray) -> np.ndarray:
        """(N, D): (X - center) / spread."""
        rows = X - self.center.astype(X.dtype)
        rows /= self.spread.astype(X.dtype)
        return rows

    def on_raw(self) -> LinearHead:
        weight = self.weight.astype(np.float64) / self.spread
        bias = -weight @ self.center if self.bias is None else self.bias - weight @ self.center
        return LinearHead(weight.astype(self.weight.dtype), bias.astype(self.weight.dtype))

    def with_weights(self, weight: np.ndarray, bias: np.ndarray | None) -> Self:
        return replace(self, weight=weight, bias=bias, l2=None, prior=OTHER)

    def with_prior(self, prior: str, shares: np.ndarray) -> Self:
        """The head under another prior, ``train`` or ``uniform``; a head of prior ``other`` stays as it is.

        shares: (C,), the class shares of the training rows.
        """
        if self.prior in (prior, OTHER):
            return self
        shift = np.log(shares) if prior == "train" else -np.log(shares)
        bias = np.zeros(len(self.weight)) if self.bias is None else self.bias
        return replace(self, bias=(bias + shift).astype(self.weight.dtype), prior=prior)


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """What a nearest-class-mean classifier compares with; its scores are not linear in the features.

    Attributes:
        centroids: (C, D) float, one per class.
        mean: (D,) float, over all training rows.
    """

    called: ClassVar[str] = "class means"  # in messages

    centroids: np.ndarray
    mean: np.ndarray

    def __post_init__(self) -> None:
        if self.centroids.ndim != 2 or self.mean.shape != self.centroids.shape[1:]:
            raise DataError(
                f"centroids and mean must be (C, D) and (D,), got {self.centroids.shape} and {self.mean.shape}"
            )


@dataclass(frozen=True, eq=False)
class CenteredCosineHead:
    """Scores scale * cos(x - center, W[c]); an x equal to the center or a zero row of W scores 0.

    Attributes:
        weight: (C, D) float, of any length.
        center: (D,) float, subtracted from the features.
        scale: above 0.
    """

    called: ClassVar[str] = "a centered cosine head"

    weight: np.ndarray
    center: np.ndarray
    scale: float

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.center.shape != self.weight.shape[1:]:
            raise DataError(
                f"weight and center must be (C, D) and (D,), got {self.weight.shape} and {self.center.shape}"
            )
        if not (np.isfinite(self.weight).all() and np.isfinite(self.center).all() and 0 < self.scale < np.inf):
            raise DataError("a centered cosine head's weight and center must be finite, and its scale above 0")

    def scores(self, X: np.ndarray) -> np.ndarray:
        """(N, C) scores of the rows of X (N, D)."""
        rows = unit_rows(X - self.center.astype(X.dtype))
        return rows @ (self.scale * unit_rows(self.weight)).astype(X.dtype).T


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The training rows that a k-nearest-neighbor classifier compares with.

    A row is compared as ((x - center) / spread), divided by its length. Of its k most similar training rows, row i with
    cosine s_i votes with exp(s_i / temperature) for its class, divided by the class's size if the prior is uniform.

    Attributes:
        rows: (N, D) float, the training rows in that form.
        labels: (N,) int64 class positions 0..C-1, every class present.
        center, spread: (D,) float.
        k: neighbors that vote, 1 to N.
        temperature: above 0.
        prior: ``uniform`` or ``train``.
    """

    called: ClassVar[str] = "the rows of a nearest-neighbor classifier"

    rows: np.ndarray
    labels: np.ndarray
    center: np.ndarray
    spread: np.ndarray
    k: int
    temperature: float
    prior: str = "uniform"

    def __post_init__(self) -> None:
        width = self.rows.shape[1:]
        if self.rows.ndim != 2 or self.labels.shape != self.rows.shape[:1]:
            raise DataError(f"rows and labels must be (N, D) and (N,), got {self.rows.shape} and {self.labels.shape}")
        if self.center.shape != width or self.spread.shape != width or not (self.spread > 0).all():
            raise DataError(f"center and spread must be {width}, and spread above 0")
        if len(self.labels) and (self.labels.min() < 0 or not np.bincount(self.labels).all()):
            raise DataError("labels must be 0 to C-1, every class present")
        if not 1 <= self.k <= len(self.rows) or not 0 < self.temperature < np.inf:
            raise DataError(f"k must be from 1 to the {len(self.rows)} rows, and the temperature above 0")
        if self.prior not in PRIORS:
            raise DataError(f"prior must be one of {', '.join(PRIORS)}, got {self.prior!r}")

    def inputs(self, X: np.ndarray) -> np.ndarray:
        """(M, D): the rows of X (M, D) as they are compared."""
        rows = X - self.center.astype(X.dtype)
        rows /= self.spread.astype(X.dtype)
        return unit_rows(rows)

    def scores(self, X: np.ndarray) -> np.ndarray:
        """(M, C) log vote shares, float64. A share is mixed with 1/C in proportion 1 : 1/k, so none is 0."""
        weights = vote_weights(self.labels, self.prior)
        step = max(1, _SIMILARITY_BYTES // (2 * 8 * len(self.rows)))
        scores = np.empty((len(X), len(weights)))
        for start in range(0, len(X), step):
            similarity, nearest = most_similar(self.inputs(X[start : start + step]), self.rows, self.k)
            (votes,) = vote_shares(similarity, self.labels[nearest], weights, self.temperature, [self.k])
            scores[start : start + step] = np.log((self.k * votes + 1 / len(weights)) / (self.k + 1))
        return scores


def vote_weights(labels: np.ndarray, prior: str) -> np.ndarray:
    """(C,): the weight of a vote for each class: 1/n_c for a uniform prior, 1 for that of the training rows."""
    counts = np.bincount(labels)
    return 1 / counts if prior == "uniform" else np.ones(len(counts))


def most_similar(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(M, k) largest products of the queries (M, D) with the rows (N, D), falling, and their positions."""
    similarity = queries @ rows.T
    if k < len(rows):
        nearest = np.argpartition(similarity, -k, axis=1)[:, -k:]
        similarity = np.take_along_axis(similarity, nearest, axis=1)
    else:
        nearest = np.broadcast_to(np.arange(len(rows)), similarity.shape)
    order = np.argsort(-similarity, axis=1, kind="stable")
    return np.take_along_axis(similarity, order, axis=1), np.take_along_axis(nearest, order, axis=1)


def vote_shares(
    similarity: np.ndarray, labels: np.ndarray, weights: np.ndarray, temperature: float, numbers: Iterable[int]
) -> Iterator[np.ndarray]:
    """For each number k, (M, C) shares of the votes of the first k neighbors.

    Args:
        similarity: (M, K) falling.
        labels: (M, K) class positions of the neighbors.
        weights: (C,) weight of a vote for each class.
        temperature: of the votes.
        numbers: rising, at most K.
    """
    num_rows, num_classes, start = len(similarity), len(weights), 0
    votes = np.zeros((num_rows, num_classes))
    offset = num_classes * np.arange(num_rows)[:, None]
    for k in numbers:
        nearest = labels[:, start:k]
        power = (similarity[:, start:k].astype(np.float64) - similarity[:, :1]) / temperature
        vote = np.exp(power) * weights[nearest]
        flat = np.bincount((offset + nearest).ravel(), vote.ravel(), num_rows * num_classes)
        votes += flat.reshape(votes.shape)
        start = k
        yield votes / votes.sum(axis=1, keepdims=True)


Head = LinearHead | ClassMeans | CenteredCosineHead | Neighbors


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean norm; zero rows stay zero."""
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), NORM_FLOOR).astype(matrix.dtype)
