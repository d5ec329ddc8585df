"""Which classes look alike, and whether accuracy goes with the number of images or with the likeness to head classes.

Shape legend: N rows, D features, C classes.
"""

from dataclasses import dataclass

import numpy as np

BOOTSTRAPS = 2000
DEFINED = 0.95  # share of the samples without which there is no interval


def class_means(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The mean feature vector of each class, (C, D) float64. A class without rows has NaN.

    Args:
        features: (N, D).
        labels: (N,) int in 0..C-1.
        num_classes: C.
    """
    counts = np.bincount(labels, minlength=num_classes)
    order = np.argsort(labels, kind="stable")
    means = np.full((num_classes, features.shape[1]), np.nan)
    for label, rows in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        if len(rows):
            means[label] = features[rows].mean(axis=0, dtype=np.float64)
    return means


def cosine_matrix(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of rows of (C, D), (C, C) float64. A zero row has cosine 0 with every other."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0, length, 1)
    return np.clip(unit @ unit.T, -1, 1)


def centered_cosine(means: np.ndarray) -> np.ndarray:
    """Cosines of class means after the mean over the classes is taken off, (C, C) float64.

    Features behind a ReLU are positive, so their plain cosines are all close to 1. Centering takes that off, and what
    is left does not change if a constant vector is added to all features.
    """
    return cosine_matrix(means - np.nanmean(means, axis=0))


def confusion(label: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Number of test images of each class (rows) by predicted class (columns), (C, C) int64."""
    return np.bincount(label * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def head_classes(counts: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Which classes count as heads, (C,) bool.

    They are the group ``many`` if it has at least two classes, so that each of them has another one, and not all.
    Otherwise they are the larger half of the classes.
    """
    many = groups == "many"
    if many.sum() >= 2 and not many.all():
        return many
    rank = np.empty(len(counts), int)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return rank < max(2, len(counts) // 2)


@dataclass(frozen=True)
class Correlation:
    """A coefficient with its 95 % interval from resampled classes; NaN where it is not defined."""

    value: float
    low: float
    high: float


def correlations(accuracy: np.ndarray, log_count: np.ndarray, likeness: np.ndarray) -> dict[str, Correlation]:
    """Spearman's rank correlations over classes, plain and partial.

    ``count`` and ``similarity`` are those of accuracy with each of the two. ``count_given_similarity`` and
    ``similarity_given_count`` are what is left of them once the other is held fixed (first-order partial correlation of
    the ranks). ``count_and_similarity`` is that of the two with each other. Intervals are percentiles of
    2,000 bootstrap samples of the classes, from a fixed seed. There is none (NaN) if more than one sample in twenty has
    too few different values for a correlation.

    Args:
        accuracy: (C,) in [0, 1].
        log_count: (C,) logarithm of the number of training images.
        likeness: (C,) cosine with the most similar head class. Classes where it is NaN do not count.
    """
    values = np.stack([accuracy, log_count, likeness])
    values = values[:, np.isfinite(values).all(axis=0)]
    found = _coefficients(values)
    rng = np.random.default_rng(0)
    draws = rng.integers(0, values.shape[1], (BOOTSTRAPS, values.shape[1]))
    samples = [_coefficients(values[:, rows]) for rows in draws]
    result = {}
    for name, value in found.items():
        of_samples = np.array([sample[name] for sample in samples])
        defined = of_samples[np.isfinite(of_samples)]
        enough = len(defined) > DEFINED * len(of_samples)
        low, high = np.percentile(defined, [2.5, 97.5]) if enough else (np.nan, np.nan)
        result[name] = Correlation(value, float(low), float(high))
    return result


def _coefficients(values: np.ndarray) -> dict[str, float]:
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(row) for row in values])
    if ranks.shape[1] < 3 or (np.ptp(ranks, axis=1) == 0).any():
        names = ("count", "similarity", "count_and_similarity", "count_given_similarity", "similarity_given_count")
        return dict.fromkeys(names, float("nan"))
    matrix = np.corrcoef(ranks)
    count, similarity, both = matrix[0, 1], matrix[0, 2], matrix[1, 2]
    return {
        "count": float(count),
        "similarity": float(similarity),
        "count_and_similarity": float(both),
        "count_given_similarity": _partial(count, similarity, both),
        "similarity_given_count": _partial(similarity, count, both),
    }


def _partial(wanted: float, other: float, both: float) -> float:
    """Correlation of accuracy with one variable, the other held fixed."""
    scale = (1 - other**2) * (1 - both**2)
    return float((wanted - other * both) / np.sqrt(scale)) if scale > 1e-12 else float("nan")
