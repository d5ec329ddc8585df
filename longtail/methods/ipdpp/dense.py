"""DPPy (Gautier et al., JMLR 2019) as a backend for dense and feature kernels, where its results can be trusted.

DPPy 0.3.3 keeps elementary symmetric polynomials as plain float64 in a Python loop: where they overflow it returns
wrong samples with no more than a warning. So n is bounded, eigenvalues are scaled to make the k-th polynomial 1, and
what would overflow still is refused. IP-DPP kernels belong to ``RankOneKDPP``, features beyond the bounds to
``LowRankKDPP``.
"""

from math import comb, log10

import numpy as np
from numpy.typing import ArrayLike

from longtail.core.errors import ConfigError, DataError
from longtail.methods.ipdpp.checks import as_features, check_size
from longtail.methods.ipdpp.spectrum import eigenvector_probability, gram_spectrum, log_elementary_symmetric, rank_cut

MAX_ITEMS = 2000
MAX_LOG10 = 300.0  # of the number of subsets and of the polynomials; float64 ends at 308
INSTEAD = "use RankOneKDPP for the IP-DPP kernel, LowRankKDPP for features"


class DPPyKDPP:
    """The k-DPP of a dense kernel L (n, n) or of L = F F^T for features F (n, D), drawn by DPPy.

    Exactly one of ``kernel`` (symmetric, positive semi-definite) and ``features`` is given; 0 <= k <= rank.
    n <= 2000 and log10 of the number of subsets of size k below 300, or ConfigError.
    Raises DataError for a kernel or features that are none.
    """

    def __init__(self, k: int, *, kernel: ArrayLike | None = None, features: ArrayLike | None = None) -> None:
        if (kernel is None) == (features is None):
            raise ConfigError("give exactly one of kernel and features")
        given = as_features(features) if features is not None else _as_matrix(kernel)
        self.n, self.k = len(given), check_size(k, len(given))
        if self.n > MAX_ITEMS:
            raise ConfigError(f"backend dppy takes at most {MAX_ITEMS} items, got {self.n}; {INSTEAD}")
        log_subsets = log10(comb(self.n, self.k))
        if log_subsets >= MAX_LOG10:
            raise ConfigError(
                f"backend dppy takes less than 1e{MAX_LOG10:.0f} subsets, got {self.k} of {self.n} items, "
                f"which is 1e{log_subsets:.0f}; {INSTEAD}"
            )
        if features is not None:
            values, whitening = gram_spectrum(given)
            vectors = given @ whitening
        else:
            values, vectors = _kernel_spectrum(given)
        if self.k > len(values):
            raise ConfigError(
                f"k must be at most {len(values)}, the rank of the kernel, got {self.k}; "
                "LowRankKDPP with a ridge > 0 admits larger k"
            )
        self._log_values = np.log(values)
        self._table = log_elementary_symmetric(self._log_values, self.k)
        log_scale = self._table[-1, -1] / max(1, self.k)
        if (self._table[-1] - np.arange(self.k + 1) * log_scale).max() >= MAX_LOG10 * np.log(10):
            raise ConfigError(
                f"backend dppy would overflow on eigenvalues from {values[0]:.1e} to {values[-1]:.1e}; {INSTEAD}"
            )
        self._spectrum = np.exp(self._log_values - log_scale), vectors

    def sample(self, stream: np.random.Generator) -> np.ndarray:
        """(k,) distinct, sorted int64 positions, from a legacy generator seeded by ``stream``."""
        if not self.k:
            return np.arange(0)
        from dppy.finite_dpps import FiniteDPP

        legacy = np.random.RandomState(stream.integers(2**32, size=4, dtype=np.uint32))
        process = FiniteDPP("likelihood", L_eig_dec=self._spectrum)  # a new one: it keeps tables for the wrong k
        return np.sort(np.array(process.sample_exact_k_dpp(self.k, random_state=legacy), dtype=np.int64))

    def inclusion_probability(self) -> np.ndarray:
        """(n,) float64: the exact probability of each item to be drawn."""
        degree_weight = (np.arange(self.k + 1) == self.k).astype(np.float64)
        share = eigenvector_probability(self._log_values, self._table, degree_weight)
        return np.clip(self._spectrum[1] ** 2 @ share, 0.0, 1.0)


def _as_matrix(kernel: ArrayLike | None) -> np.ndarray:
    matrix = np.asarray(kernel)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "fiub":
        raise DataError(f"kernel must be an (n, n) array of real numbers, got {matrix.dtype} of {matrix.shape}")
    matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix).all():
        raise DataError("kernel must be finite")
    if np.abs(matrix - matrix.T).max(initial=0.0) > 1e-8 * np.abs(matrix).max(initial=0.0):
        raise DataError("kernel must be symmetric")
    return matrix


def _kernel_spectrum(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (R,) ascending and unit eigenvectors (n, R) of the range of the kernel."""
    values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
    if values.min(initial=0.0) < -1e-8 * np.abs(values).max(initial=0.0):
        raise DataError(f"kernel must be positive semi-definite, its smallest eigenvalue is {values[0]:.3g}")
    kept = rank_cut(values, len(kernel), len(kernel))
    return values[kept], vectors[:, kept]
