"""Argument checks shared by the samplers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from longtail.core.errors import ConfigError, DataError


def check_size(k: int, n: int) -> int:
    """Return k as an int; raise ConfigError unless it is an integer from 0 to n."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 0 <= k <= n:
        raise ConfigError(f"k must be an integer from 0 to {n}, the number of items, got {k!r}")
    return int(k)


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ConfigError unless ``value`` is one of ``allowed``; ``name`` is the argument's name in the message."""
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def as_vector(name: str, values: ArrayLike, length: int | None = None) -> np.ndarray:
    """Return ``values`` as a (length,) float64 array; raise DataError if that is not possible."""
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be an array of numbers: {error}") from error
    if vector.ndim != 1 or (length is not None and len(vector) != length):
        raise DataError(f"{name} must have shape ({'n' if length is None else length},), got {vector.shape}")
    return vector


def as_features(features: ArrayLike) -> np.ndarray:
    """Return ``features`` as an (n, D) float32 or float64 array; raise DataError unless they are real and finite."""
    matrix = np.asarray(features)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise DataError(f"features must be an (n, D) array of real numbers, got {matrix.dtype} {matrix.shape}")
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix).all():
        raise DataError("features must be finite")
    return matrix
