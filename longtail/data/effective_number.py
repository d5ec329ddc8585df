"""Class weights by the effective number of samples.

Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
"""

import numpy as np

from longtail.core.errors import ConfigError

BETA = 0.9999


def effective_number(counts: np.ndarray, beta: float = BETA) -> np.ndarray:
    """E_k = (1 - beta^n_k) / (1 - beta), (C,) float64; n_k for beta = 1, which is the limit, and 0 for an empty class.

    Raises:
        ConfigError: ``beta`` outside [0, 1].
    """
    if not 0 <= beta <= 1:
        raise ConfigError(f"train.beta: {beta} given, at least 0 and at most 1 expected")
    counts = np.asarray(counts, np.float64)
    if beta == 1:
        return counts
    if beta == 0:
        return (counts > 0).astype(np.float64)
    return -np.expm1(counts * np.log(beta)) / (1 - beta)


def class_weights(counts: np.ndarray, beta: float = BETA) -> np.ndarray:
    """1 / E_k, scaled to a mean of 1 over the classes that have images, (C,) float64; an empty class weighs 0."""
    number = effective_number(counts, beta)
    weights = np.divide(1.0, number, out=np.zeros_like(number), where=number > 0)
    return weights * np.count_nonzero(number) / weights.sum()
