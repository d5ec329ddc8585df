"""Long-tailed splits: how many images of each class, and exactly which.

Counts and selection follow the convention of LDAM-DRW (Cao et al., NeurIPS 2019): truncated exponential or step counts,
NumPy's legacy generator, classes in ascending order, each class shuffled whole and cut.
"""

from dataclasses import dataclass

import numpy as np

from longtail.core.errors import ConfigError, DataError
from longtail.core.seeds import generator

TEST_PER_CLASS = 40
VAL_SHARE = 5


@dataclass(frozen=True)
class Split:
    """Indices into the dataset, int64: train in the order of selection, val and test by class."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def long_tailed_counts(pool: np.ndarray, imb_type: str, imb_factor: float) -> np.ndarray:
    """Training images for each class, (C,) int64.

    Args:
        pool: (C,) images available for each class. n_max is the smallest of them, except for ``natural``.
        imb_type: ``exp`` (n_max * rho^(-k/(C-1)), truncated), ``step`` (half the classes n_max, half n_max / rho) or
            ``natural`` (the pool as it is).
        imb_factor: rho = n_max / n_min >= 1.

    Raises:
        ConfigError: a class would be left without an image, or ``step`` with an odd number of classes.
    """
    num_classes = len(pool)
    if num_classes < 2:
        raise DataError(f"{num_classes} class found, at least 2 expected")
    if imb_type == "natural":
        return pool.astype(np.int64)
    largest = int(pool.min())
    factor = 1.0 / imb_factor
    if imb_type == "exp":
        # The power in exactly this form: exp(log) or float32 lose an image at the published ratios.
        counts = [int(largest * factor ** (k / (num_classes - 1.0))) for k in range(num_classes)]
    else:
        if num_classes % 2:
            raise ConfigError(f"imb_type: step given, but {num_classes} classes cannot be halved; use exp or natural")
        counts = [largest] * (num_classes // 2) + [int(largest * factor)] * (num_classes // 2)
    if counts[-1] < 1:
        allowed = largest if int(largest * (1.0 / largest)) else largest - 1
        raise ConfigError(
            f"imb_factor: {imb_factor:g} given, but the largest class has {largest} images, which leaves none for the "
            f"smallest; at most {allowed} allowed"
        )
    return np.asarray(counts, np.int64)


def select(labels: np.ndarray, candidates: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Draw ``counts[k]`` of each class from ``candidates``, index for index as LDAM-DRW does.

    Args:
        labels: (N,) labels of the whole dataset.
        candidates: indices into the dataset, in dataset order.
        counts: (C,) images to keep.
        seed: seed of NumPy's legacy generator.
    """
    rng = np.random.RandomState(seed)
    candidate_labels = labels[candidates]
    chosen = []
    for label, count in enumerate(counts):
        members = candidates[candidate_labels == label]
        rng.shuffle(members)
        chosen.append(members[:count])
    return np.concatenate(chosen)


def hold_out(labels: np.ndarray, candidates: np.ndarray, counts: np.ndarray, *stream: int | str) -> np.ndarray:
    """Draw ``counts[k]`` candidates of each class without replacement by the generator named ``stream``; by class."""
    rng = generator(*stream)
    candidate_labels = labels[candidates]
    chosen = [
        np.sort(rng.choice(candidates[candidate_labels == label], count, replace=False))
        for label, count in enumerate(counts)
    ]
    return np.concatenate(chosen).astype(np.int64)


def make_split(
    labels: np.ndarray,
    parts: np.ndarray,
    class_names: tuple[str, ...],
    *,
    imb_type: str,
    imb_factor: float,
    val_per_class: int,
    split_seed: int,
) -> Split:
    """Split a dataset into a long-tailed train part, a held-out val part and a test part.

    A ``pool`` without a test part of its own gives 40 test images a class. A val part of the dataset wins; otherwise
    min(val_per_class, floor(n_c / 5)) images of class c are drawn from the training pool before it is subsampled.

    Raises:
        DataError: a class without a training or a test image.
        ConfigError: from :func:`long_tailed_counts`.
    """
    num_classes = len(class_names)

    def count(indices: np.ndarray) -> np.ndarray:
        return np.bincount(labels[indices], minlength=num_classes)

    def require(indices: np.ndarray, part: str) -> None:
        empty = np.flatnonzero(count(indices) == 0)
        if len(empty):
            raise DataError(f"class {empty[0]} ({class_names[empty[0]]}) has no {part} image; every class needs one")

    train, val, test = (np.flatnonzero(parts == part) for part in ("train", "val", "test"))
    pool = np.flatnonzero(parts == "pool")
    if len(pool):
        if count(pool).min() <= TEST_PER_CLASS:
            raise DataError(
                f"a class has {count(pool).min()} images; more than {TEST_PER_CLASS} expected without test part"
            )
        test = hold_out(labels, pool, np.full(num_classes, TEST_PER_CLASS), split_seed, "test")
        train = np.setdiff1d(pool, test)
    require(train, "training")
    require(test, "test")
    if len(val) == 0 and val_per_class > 0:
        wanted = np.minimum(val_per_class, count(train) // VAL_SHARE)
        val = hold_out(labels, train, wanted, split_seed, "val")
        train = np.setdiff1d(train, val)
    counts = long_tailed_counts(count(train), imb_type, imb_factor)
    return Split(train=select(labels, train, counts, split_seed), val=val, test=test)
