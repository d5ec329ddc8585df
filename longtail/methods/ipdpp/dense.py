"""DPPy (Gautier et al., JMLR 2019) as a backend for dense and feature kernels, within the range where it is correct.

DPPy 0.3.3 computes elementary symmetric polynomials as plain float64 in a Python loop. When they overflow, it returns
wrong samples and at most a warning. This wrapper therefore

- limits n,
- scales the eigenvalues so that the k-th polynomial is 1,
- refuses inputs that would still overflow.

Use ``RankOneKDPP`` for IP-DPP kernels and ``LowRankKDPP`` for features beyond these limits.
"""

from math import comb, log10

import numpy as np
from numpy.typing import ArrayLike

from longtail.core.errors import ConfigError, DataError
from longtail.methods.ipdpp.checks import as_features, check_size
from longtail.methods.ipdpp.spectrum import (
    above_rounding,
    eigenvector_probability,
    gram_spectrum,
    log_elementary_symmetric,
)

MAX_ITEMS = 2000
MAX_LOG10 = 300.0  # for subsets and polynomials; float64 ends at 1e308
ALTERNATIVES = "use RankOneKDPP for the IP-DPP kernel, LowRankKDPP for features"


class DPPyKDPP:
    """The k-DPP of a dense kernel L (n, n), or of L = F F^T for features F (n, D), sampled by DPPy.

    Args:
        k: items to draw, from 0 to the rank of the kernel.
        kernel: (n, n), symmetric and positive semidefinite. Give either this or ``features``.
        features: (n, D).

    Raises:
        ConfigError: n > 2000, at least 1e300 subsets of size k, k above the rank, or neither or both arrays given.
        DataError: an invalid kernel or invalid features.
    """

    def __init__(self, k: int, *, kernel: ArrayLike | None = None, features: ArrayLike | None = None) -> None:
        if (kernel is None) == (features is None):
            raise ConfigError(
                f"exactly one of kernel and features must be given, got {'neither' if kernel is None else 'both'}"
            )
        matrix = as_features(features) if features is not None else _as_matrix(kernel)
        self.n, self.k = len(matrix), check_size(k, len(matrix))
        if self.n > MAX_ITEMS:
            raise ConfigError(f"n must be at most {MAX_ITEMS} items for the dppy backend, got {self.n}; {ALTERNATIVES}")
        log_subsets = log10(comb(self.n, self.k))
        if log_subsets >= MAX_LOG10:
            raise ConfigError(
                f"the number of subsets must be less than 1e{MAX_LOG10:.0f} for the dppy backend, got "
                f"1e{log_subsets:.0f} ({self.k} of {self.n} items); {ALTERNATIVES}"
            )
        if features is not None:
            values, whitening = gram_spectrum(matrix)
            vectors = matrix @ whitening
        else:
            values, vectors = _kernel_spectrum(matrix)
        if self.k > len(values):
            raise ConfigError(
                f"k must be at most {len(values)}, the rank of the kernel, got {self.k}; "
                "LowRankKDPP with ridge > 0 allows larger k"
            )
        self._log_values = np.log(values)
        self._table = log_elementary_symmetric(self._log_values, self.k)
        log_scale = self._table[-1, -1] / max(1, self.k)
        if (self._table[-1] - np.arange(self.k + 1) * log_scale).max() >= MAX_LOG10 * np.log(10):
            raise ConfigError(
                f"the dppy backend would overflow on eigenvalues from {values[0]:.1e} to {values[-1]:.1e}; "
                f"{ALTERNATIVES}"
            )
        self._spectrum = np.exp(self._log_values - log_scale), vectors

    def sample(self, stream: np.random.Generator) -> np.ndarray:
        """Draw (k,) distinct, sorted int64 positions with a legacy NumPy generator seeded from ``stream``."""
        if not self.k:
            return np.arange(0)
        from dppy.finite_dpps import FiniteDPP

        legacy = np.random.RandomState(stream.integers(2**32, size=4, dtype=np.uint32))
        # DPPy caches its tables and would reuse them for another k, so build a new object each time.
        process = FiniteDPP("likelihood", L_eig_dec=self._spectrum)
        return np.sort(np.array(process.sample_exact_k_dpp(self.k, random_state=legacy), dtype=np.int64))

    def inclusion_probability(self) -> np.ndarray:
        """Return the exact probability that each item is drawn, (n,) float64."""
        degree_weight = (np.arange(self.k + 1) == self.k).astype(np.float64)
        selected = eigenvector_probability(self._log_values, self._table, degree_weight)
        return np.clip(self._spectrum[1] ** 2 @ selected, 0.0, 1.0)


def _as_matrix(kernel: ArrayLike | None) -> np.ndarray:
    matrix = np.asarray(kernel)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "fiub":
        raise DataError(f"kernel must be an (n, n) array of real numbers, got {matrix.dtype} {matrix.shape}")
    matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix).all():
        raise DataError("kernel must be finite")
    if np.abs(matrix - matrix.T).max(initial=0.0) > 1e-8 * np.abs(matrix).max(initial=0.0):
        raise DataError("kernel must be symmetric")
    return matrix


def _kernel_spectrum(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nonzero eigenvalues (R,), ascending, and their unit eigenvectors (n, R)."""
    values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
    if values.min(initial=0.0) < -1e-8 * np.abs(values).max(initial=0.0):
        raise DataError(f"kernel must be positive semidefinite, got a smallest eigenvalue of {values[0]:.3g}")
    kept = above_rounding(values, len(kernel), len(kernel))
    return values[kept], vectors[:, kept]
