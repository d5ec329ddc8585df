"""Who decides what: the density threshold of a stage, its cluster prior, and random routing as a control."""

import hashlib

import numpy as np

from longtail.core.errors import TrainingError


def threshold(log_density: np.ndarray, proportion: float) -> np.float64:
    """The log-likelihood from which on a stage keeps a row, found from its training rows (n,), n > 0.

    Kept are the row at position floor(n (1 - f)) of the ascending order, all above it and all tied with it, as in the
    official code. The value returned lies halfway to the next lower row, so that rounding (another batch size, another
    order) seldom moves a training row to the other side. Where no training row would be left, for f = 1 in particular,
    it is -inf, and every later row is kept too. Compare in float64.
    """
    if not np.isfinite(log_density).all():
        raise TrainingError("log-likelihoods are not finite; lower dlsa.flow_lr, or set dlsa.standardize: true")
    ascending = np.sort(log_density.astype(np.float64))
    lowest_kept = ascending[min(int(len(ascending) * (1 - proportion)), len(ascending) - 1)]
    below = ascending[ascending < lowest_kept]
    return (below[-1] + lowest_kept) / 2 if len(below) and proportion < 1 else np.float64(-np.inf)


def cluster_prior(
    cluster: np.ndarray, y: np.ndarray, num_clusters: int, num_classes: int, balanced: bool = False
) -> np.ndarray:
    """(K, C) float32: class shares of the rows of each cluster; zero rows for empty clusters. cluster, y: (N,).

    balanced: every class weighs the same in all, so that a cluster of many head rows can still be a tail class's.
    """
    counts = cluster_class_counts(cluster, y, num_clusters, num_classes).astype(np.float64)
    if balanced:
        counts /= np.maximum(counts.sum(axis=0), 1)
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.zeros_like(counts), where=total > 0).astype(np.float32)


def cluster_class_counts(cluster: np.ndarray, y: np.ndarray, num_clusters: int, num_classes: int) -> np.ndarray:
    """(K, C) int64: rows of each class in each cluster."""
    flat = np.bincount(cluster * num_classes + y, minlength=num_clusters * num_classes)
    return flat.reshape(num_clusters, num_classes)


def random_scores(X: np.ndarray, seed: int) -> np.ndarray:
    """(N,) float64 uniform in [0, 1): a function of each row's values and the seed, whatever batch it stands in."""
    key = seed.to_bytes(8, "little")
    rows = np.ascontiguousarray(X, dtype=np.float32)
    digests = (hashlib.blake2b(row.tobytes(), digest_size=8, key=key).digest() for row in rows)
    return np.array([int.from_bytes(digest, "little") / 2**64 for digest in digests], dtype=np.float64)
