"""NCM: nearest class mean on stored features (Kang et al., ICLR 2020, section 4.2; spec from their official code).

As in the official code, features are centred with the mean over all images (not over classes), centroids are plain
means of the transformed features and are not normalised again, and "cos" is the dot product divided by D. The paper
describes normalised means; "true_cosine" is the cosine against the centroids, offered beside it.

Deviations: rows of zero length stay zero instead of becoming NaN; all arithmetic is float64.
"""

from typing import Self

import numpy as np
from scipy.sparse import csr_array

from longtail.errors import ConfigError
from longtail.heads.base import NORM_FLOOR, HeadClassifier, row_blocks, unit_rows

FEATURES = ("cl2n", "l2n", "un")
DISTANCES = ("l2", "cos", "true_cosine")


class NCM(HeadClassifier):
    """Nearest class mean.

    feature: "un" takes x, "l2n" x/||x||, "cl2n" (x - mean)/||x - mean||.
    distance: scores are "l2" -||x - m_c||^2, "cos" x.m_c / D, "true_cosine" x.m_c / (||x|| ||m_c||).

    Learned: ``mean_`` (D,) over all training rows and ``centroids_`` (C, D), both float64.
    """

    mean_: np.ndarray
    centroids_: np.ndarray

    def __init__(self, feature: str = "cl2n", distance: str = "l2") -> None:
        self.feature = feature
        self.distance = distance

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """X (N, D) features, y (N,) labels."""
        if self.feature not in FEATURES:
            raise ConfigError(f"feature must be one of {', '.join(FEATURES)}, got {self.feature!r}")
        if self.distance not in DISTANCES:
            raise ConfigError(f"distance must be one of {', '.join(DISTANCES)}, got {self.distance!r}")
        X, y = self._check_training(X, y)
        order = np.argsort(y, kind="stable")
        counts = np.bincount(y)
        sums = self._class_sums(X, order, y, np.zeros(X.shape[1]), normalise=False)
        self.mean_ = sums.sum(axis=0) / len(X)
        if self.feature != "un":
            shift = self.mean_ if self.feature == "cl2n" else np.zeros(X.shape[1])
            sums = self._class_sums(X, order, y, shift, normalise=True)
        self.centroids_ = sums / counts[:, None]
        return self

    def _class_sums(
        self, X: np.ndarray, order: np.ndarray, y: np.ndarray, shift: np.ndarray, *, normalise: bool
    ) -> np.ndarray:
        """(C, D) float64: per-class sums of X - shift, each row first divided by its norm if ``normalise``."""
        num_classes, num_features = len(self.classes_), X.shape[1]
        sums = np.zeros((num_classes, num_features))
        for rows in row_blocks(len(X), 2 * 8 * num_features):
            members = order[rows]  # by class, so that a block holds few classes
            block = X[members].astype(np.float64)
            block -= shift
            share = 1.0 / np.maximum(_norms(block), NORM_FLOOR) if normalise else np.ones(len(members))
            classes, first = np.unique(y[members], return_index=True)
            membership = csr_array(
                (share, np.arange(len(members)), np.append(first, len(members))), shape=(len(classes), len(members))
            )
            sums[classes] += membership @ block
        return sums

    def _block_scores(self, X: np.ndarray) -> np.ndarray:
        query, centroids = X.astype(np.float64), self.centroids_
        if self.feature == "cl2n":
            query -= self.mean_
        if self.feature != "un":
            query = unit_rows(query)
        if self.distance == "cos":
            return query @ centroids.T / X.shape[1]
        if self.distance == "true_cosine":
            return unit_rows(query) @ unit_rows(centroids).T
        if self.feature == "un":  # distances do not change, but the squares below then stay small
            query -= self.mean_
            centroids = centroids - self.mean_
        scores = query @ centroids.T
        scores *= 2.0
        scores -= _squared_norms(query)[:, None]
        scores -= _squared_norms(centroids)
        return np.minimum(scores, 0.0, out=scores)


def _squared_norms(rows: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", rows, rows)


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(_squared_norms(rows))
