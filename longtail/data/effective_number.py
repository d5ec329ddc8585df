"""Class weights from the effective number of samples.

Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
"""

import numpy as np

from longtail.core.errors import ConfigError

BETA = 0.9999


def effective_number(counts: np.ndarray, beta: float = BETA) -> np.ndarray:
    """Return E_k = (1 - beta^n_k) / (1 - beta), (C,) float64.

    For beta = 1 this is the limit, n_k. An empty class has E_k = 0.

    Raises:
        ConfigError: ``beta`` is outside [0, 1].
    """
    if not 0 <= beta <= 1:
        raise ConfigError(f"train.beta must be from 0 to 1, got {beta}")
    counts = np.asarray(counts, np.float64)
    if beta == 1:
        return counts
    if beta == 0:
        return (counts > 0).astype(np.float64)
    return -np.expm1(counts * np.log(beta)) / (1 - beta)


def class_weights(counts: np.ndarray, beta: float = BETA) -> np.ndarray:
    """Return 1 / E_k, scaled to mean 1 over the nonempty classes, (C,) float64. An empty class has weight 0."""
    number = effective_number(counts, beta)
    weights = np.divide(1.0, number, out=np.zeros_like(number), where=number > 0)
    return weights * np.count_nonzero(number) / weights.sum()
