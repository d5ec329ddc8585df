"""Exact k-DPPs of feature kernels L = F F^T, F (n, D), in dual form: no (n, n) array is needed for n > D.

Setup computes the eigenvectors of F^T F and the elementary symmetric polynomials of its eigenvalues. A draw picks k
eigenvectors, then draws items from the projection DPP that they span.

With a ridge, L = F F^T + ridge I has full rank. Because

    det(L_Y) = sum over J in Y of ridge^(k - |J|) det((F F^T)_J),

its k-DPP is a mixture: draw a size m, draw m items from the m-DPP of F F^T, then draw k - m of the other items
uniformly.

Source: Kulesza & Taskar 2012, sections 3.3 and 5.2. The method of Lin & Yuan 2025 has no feature kernel.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from longtail.core.errors import ConfigError
from longtail.methods.ipdpp.checks import as_features, check_choice, check_size
from longtail.methods.ipdpp.spectrum import (
    draw_eigenvectors,
    eigenvector_probability,
    gram_spectrum,
    log_elementary_symmetric,
    row_blocks,
)

ALGORITHMS = ("rejection", "chain")
MAX_PROPOSALS = 256  # proposals per batch of the rejection algorithm


class LowRankKDPP:
    """The k-DPP of L = F F^T + ridge I over n items, P(Y) proportional to det(L_Y) for |Y| = k.

    Args:
        features: F (n, D), float32 or float64. Computation is in float64.
        k: items to draw, 0 <= k <= n, and k <= ``rank_`` unless ridge > 0.
        ridge: at least 0, added to the diagonal.
        algorithm: how items are drawn. "rejection" takes O(n D k) time plus about k log k proposals of O(k^2) each, and
            O(n) memory. "chain" takes O(n k^2) time and O(n k) memory.

    Attributes:
        rank_: number of eigenvalues above max(n, D) eps times the largest.

    Raises:
        ConfigError: an invalid ``k``, ``ridge`` or ``algorithm``.
        DataError: invalid ``features``.
    """

    def __init__(self, features: ArrayLike, k: int, ridge: float = 0.0, algorithm: str = "rejection") -> None:
        self.features = as_features(features)
        self.n, self.k = len(self.features), check_size(k, len(self.features))
        if not (np.isfinite(ridge) and ridge >= 0):
            raise ConfigError(f"ridge must be a finite number of at least 0, got {ridge!r}")
        check_choice("algorithm", algorithm, ALGORITHMS)
        self.algorithm = algorithm
        values, self._whitening = gram_spectrum(self.features)
        self.rank_ = len(values)
        if self.k > self.rank_ and ridge == 0:
            raise ConfigError(
                f"k must be at most {self.rank_}, the rank of the features, got {self.k}; ridge > 0 allows larger k"
            )
        self._log_values = np.log(values)
        self._table = log_elementary_symmetric(self._log_values, min(self.k, self.rank_))
        self._degree_probability = self._compute_degree_probability(ridge)

    def sample(self, stream: np.random.Generator) -> np.ndarray:
        """Draw (k,) distinct, sorted int64 positions."""
        degree = len(self._degree_probability) - 1
        if self._degree_probability[-1] < 1:
            degree = int(stream.choice(len(self._degree_probability), p=self._degree_probability))
        eigenvectors = draw_eigenvectors(self._log_values, self._table, degree, stream)
        draw = projection_by_chain if self.algorithm == "chain" else projection_by_rejection
        chosen = draw(self.features, self._whitening[:, eigenvectors], stream)
        if degree < self.k:
            others = np.delete(np.arange(self.n), chosen)
            rest = stream.choice(others, self.k - degree, replace=False, shuffle=False)
            chosen = np.concatenate([chosen, rest])
        return np.sort(chosen)

    def inclusion_probability(self) -> np.ndarray:
        """Return the exact probability that each item is drawn, (n,) float64. Takes O(n D R) time, O(n) memory."""
        if self.k == self.n:
            return np.ones(self.n)
        degree = np.arange(len(self._degree_probability))
        uniform = (self.k - degree) / (self.n - degree)  # probability of an item left out by the m-DPP
        selected = eigenvector_probability(self._log_values, self._table, self._degree_probability * (1 - uniform))
        probability = np.full(self.n, self._degree_probability @ uniform)
        for rows in row_blocks(self.features, self.rank_):
            probability[rows] += (self.features[rows] @ self._whitening) ** 2 @ selected
        return np.clip(probability, 0.0, 1.0)

    def _compute_degree_probability(self, ridge: float) -> np.ndarray:
        """Return the distribution of how many of the k items come from the DPP of F F^T, (min(k, R) + 1,).

        Without a ridge, all k do.
        """
        degree = np.arange(self._table.shape[1])
        if ridge == 0:
            return (degree == self.k).astype(np.float64)
        rest = self.k - degree
        log_subsets = gammaln(self.n - degree + 1) - gammaln(rest + 1) - gammaln(self.n - self.k + 1)
        log_weight = self._table[-1] + rest * np.log(ridge) + log_subsets
        weight = np.exp(log_weight - log_weight.max())
        return weight / weight.sum()


def projection_by_chain(features: np.ndarray, whitening: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Draw (k,) items from the projection DPP of V = F W (n, k), whose columns are orthonormal.

    Items are drawn one at a time, with probability proportional to the squared distance of their row from the span of
    the rows already drawn.
    """
    rows = features @ whitening
    k = rows.shape[1]
    distance = np.einsum("nk,nk->n", rows, rows)
    components = np.empty_like(rows)
    chosen = np.empty(k, dtype=np.int64)
    for t in range(k):
        item = _pick(np.cumsum(distance), stream.random())
        chosen[t] = item
        component = rows @ rows[item] - components[:, :t] @ components[item, :t]
        component /= np.sqrt(distance[item])
        components[:, t] = component
        distance = np.maximum(distance - component**2, 0.0)
        distance[chosen[: t + 1]] = 0.0
    return chosen


def projection_by_rejection(features: np.ndarray, whitening: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Draw (k,) items from the same projection DPP by rejection.

    An item is proposed in proportion to its squared row length. It is accepted with the fraction of that length that
    is orthogonal to the rows already drawn.
    """
    k = whitening.shape[1]
    length = np.empty(len(features))
    for block in row_blocks(features, k):
        rows = features[block] @ whitening
        length[block] = np.einsum("nk,nk->n", rows, rows)
    cumulative = np.cumsum(length)
    basis = np.empty((k, k))
    chosen: list[int] = []
    batch = min(MAX_PROPOSALS, 2 * k + 8)
    while len(chosen) < k:
        proposals = _pick(cumulative, stream.random(batch))
        thresholds = stream.random(batch) * length[proposals]
        for item, row, threshold in zip(proposals.tolist(), features[proposals] @ whitening, thresholds, strict=True):
            span = basis[: len(chosen)]
            row = row - (span @ row) @ span
            if row @ row <= threshold or item in chosen:
                continue
            row -= (span @ row) @ span  # repeated, because the first projection leaves rounding errors of the full row
            basis[len(chosen)] = row / np.linalg.norm(row)
            chosen.append(item)
            if len(chosen) == k:
                break
    return np.array(chosen, dtype=np.int64)


def _pick(cumulative: np.ndarray, uniform: float | np.ndarray) -> np.ndarray:
    """Return positions drawn in proportion to the steps of a cumulative sum. A step of 0 is never drawn."""
    return np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
