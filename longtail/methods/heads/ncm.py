"""NCM: nearest class mean on stored features (Kang et al., ICLR 2020, section 4.2; spec from their official code).

As in the official code, features are centered with the mean of all images (not the mean of class means), centroids are
plain means of the transformed features without another normalization, and "cos" is the dot product divided by D. The
paper describes normalized means. "true_cosine" is the cosine between row and centroid.

Deviations: zero rows stay zero instead of becoming NaN. Sums over many rows are in float64; operations on a single row
are in the dtype of the features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from scipy.sparse import csr_array

from longtail.core.head import NORM_FLOOR, ClassMeans, unit_rows
from longtail.core.params import Group, key
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier

CACHED_BYTES = 2**20


class NCM(HeadClassifier):
    """Nearest class mean.

    Args:
        feature: "un" is x, "l2n" is x/||x||, "cl2n" is (x - mean)/||x - mean||.
        distance: the score: "l2" is -||x - m_c||^2, "cos" is x.m_c / D, "true_cosine" is x.m_c / (||x|| ||m_c||).

    Attributes:
        mean_: (D,) float64, the mean of all training rows.
        centroids_: (C, D) float64.
    """

    mean_: np.ndarray
    centroids_: np.ndarray

    def __init__(self, feature: str = "cl2n", distance: str = "l2") -> None:
        self.feature = feature
        self.distance = distance

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """X: (N, D) features; y: (N,) labels."""
        self._parameters(NCMParams)
        X, y = self._check_training(X, y)
        counts = np.bincount(y)
        if self.feature == "un":
            sums = self._class_sums(X, y, None)
            self.mean_ = sums.sum(axis=0) / len(X)
        else:
            self.mean_ = _row_sum(X) / len(X)
            sums = self._class_sums(X, y, self.mean_ if self.feature == "cl2n" else np.zeros_like(self.mean_))
        self.centroids_ = sums / counts[:, None]
        return self

    @property
    def head_(self) -> ClassMeans:
        """The class means, as a head file holds them."""
        return ClassMeans(self.centroids_, self.mean_)

    def _class_sums(self, X: np.ndarray, y: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
        """(C, D) float64: per-class sums of the rows, or, given ``shift`` (D,), of the unit vectors along X - shift."""
        sums = np.zeros((len(self.classes_), X.shape[1]))
        order = np.argsort(y, kind="stable")  # by class, so that a block holds few classes
        parts = [] if shift is None else _in_two_parts(shift, X.dtype)
        for rows in _cached_blocks(X):
            members = order[rows]
            block = X[members]
            share = np.ones(len(members), X.dtype)
            if shift is not None:
                for part in parts:
                    block -= part
                share /= np.maximum(_norms(block), NORM_FLOOR)
            classes, first = np.unique(y[members], return_index=True)
            membership = csr_array(
                (share, np.arange(len(members)), np.append(first, len(members))), shape=(len(classes), len(members))
            )
            sums[classes] += membership @ block
        return sums

    def _block_scores(self, X: np.ndarray) -> np.ndarray:
        # Distances do not depend on the origin. With an origin near the centroids the products are small. So after this
        # step in float64, the matrix product, which is most of the work, can run in the dtype of X.
        origin = self.centroids_.mean(axis=0) if self.distance == "l2" else np.zeros_like(self.mean_)
        query = np.empty_like(X)
        for rows in _cached_blocks(X):
            query[rows] = self._transformed(X[rows]) - origin
        centroids = self.centroids_ - origin
        if self.distance == "cos":
            return query @ centroids.astype(X.dtype).T / X.shape[1]
        if self.distance == "true_cosine":
            return unit_rows(query) @ unit_rows(centroids).astype(X.dtype).T
        centroids = centroids.astype(X.dtype)
        scores = query @ centroids.T
        scores *= 2
        scores -= _squared_norms(query)[:, None]
        scores -= _squared_norms(centroids)
        return np.minimum(scores, 0, out=scores)

    def _transformed(self, X: np.ndarray) -> np.ndarray:
        """float64 rows in the space of ``feature``."""
        rows = X.astype(np.float64)
        if self.feature == "cl2n":
            rows -= self.mean_
        return rows if self.feature == "un" else unit_rows(rows)


def _cached_blocks(X: np.ndarray) -> Iterator[slice]:
    """Blocks of rows that fit into the processor's cache."""
    step = max(1, CACHED_BYTES // (X.itemsize * X.shape[1]))
    return (slice(start, start + step) for start in range(0, len(X), step))


def _row_sum(X: np.ndarray) -> np.ndarray:
    """(D,) float64: the sum of all rows."""
    total = np.zeros(X.shape[1])
    for rows in _cached_blocks(X):
        block = X[rows]
        total += np.ones(len(block), X.dtype) @ block
    return total


def _in_two_parts(values: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """float64 values as the sum of two arrays of ``dtype``. Subtracting both, one after the other, keeps precision."""
    high = values.astype(dtype)
    return high, (values - high).astype(dtype)


def _squared_norms(rows: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", rows, rows)


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(_squared_norms(rows))


@dataclass(frozen=True, kw_only=True)
class NCMParams(Group):
    """Nearest class mean."""

    path: ClassVar[str] = "ncm"

    feature: Literal["un", "l2n", "cl2n"] = key(
        "cl2n", "`un`: features as they are; `l2n`: unit length; `cl2n`: centered, then unit length"
    )
    distance: Literal["l2", "cos", "true_cosine"] = key(
        "l2", "`l2`; `cos`: the released scaled dot product; `true_cosine`"
    )


HEAD = HeadEntry(
    estimator=NCM,
    params=NCMParams,
    rank=10,
    likelihood=False,
    notes=lambda ncm, params: {"feature": params.feature, "distance": params.distance},
)
