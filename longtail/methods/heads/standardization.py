"""Mean and spread of features, which make heads independent of the features' scale and offset."""

import numpy as np

from longtail.methods.heads.base import row_blocks

SPREAD_FLOOR = 1e-4  # of the typical spread: a feature that hardly varies is not blown up


def standardization(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature of X (N, D), (D,) float64 each, in two passes.

    A standard deviation below SPREAD_FLOOR times the root mean square of all is raised to that; if all are 0, to 1.
    """
    center = np.zeros(X.shape[1])
    for block in row_blocks(len(X), 8 * X.shape[1]):
        center += X[block].sum(axis=0, dtype=np.float64)
    center /= len(X)
    variance = np.zeros(X.shape[1])
    for block in row_blocks(len(X), 8 * X.shape[1]):
        variance += np.square(X[block] - center).sum(axis=0)
    spread = np.sqrt(variance / len(X))
    floor = SPREAD_FLOOR * np.sqrt(np.mean(spread**2))
    return center, np.maximum(spread, floor) if floor > 0 else np.ones_like(spread)
