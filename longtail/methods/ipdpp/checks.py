"""Checks of arguments that the samplers share."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from longtail.core.errors import ConfigError, DataError


def check_size(k: int, n: int) -> int:
    """k as an int in 0..n."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 0 <= k <= n:
        raise ConfigError(f"k must be an integer from 0 to the number of items {n}, got {k!r}")
    return int(k)


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def as_vector(name: str, values: ArrayLike, length: int | None = None) -> np.ndarray:
    """``values`` as a (length,) float64 array."""
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be an array of numbers: {error}") from error
    if vector.ndim != 1 or (length is not None and len(vector) != length):
        raise DataError(f"{name} must have the shape ({'n' if length is None else length},), got {vector.shape}")
    return vector


def as_features(features: ArrayLike) -> np.ndarray:
    """``features`` as a finite (n, D) float32 or float64 array."""
    matrix = np.asarray(features)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise DataError(f"features must be an (n, D) array of real numbers, got {matrix.dtype} of {matrix.shape}")
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix).all():
        raise DataError("features must be finite")
    return matrix
