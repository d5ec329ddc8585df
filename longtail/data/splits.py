"""Long-tailed splits: how many images each class keeps, and which ones.

Counts and selection follow LDAM-DRW (Cao et al., NeurIPS 2019):

- Counts are exponential or step, truncated to integers. Explicit counts are selected in the same way, so with the same
  seed a larger set contains a smaller one.
- Selection uses NumPy's legacy generator. Classes are visited in ascending order. All images of a class are shuffled,
  and the first ones are kept.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from longtail.core.errors import ConfigError, DataError
from longtail.core.params import show
from longtail.core.seeds import generator
from longtail.data.blends import Blends, draw_blends, find_class
from longtail.data.manifest import Manifest
from longtail.data.params import SimilarParams, SplitParams

TEST_PER_CLASS = 40
VAL_SHARE = 5


@dataclass(frozen=True)
class Split:
    """Indices into the dataset, int64. train is in the order of selection; val and test are sorted by class.

    ``blends`` are training images that are blended with others; usually there are none.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    blends: Blends = field(default_factory=Blends)


def long_tailed_counts(pool: np.ndarray, imb_type: str, imb_factor: float) -> np.ndarray:
    """Return the number of training images per class, (C,) int64.

    Args:
        pool: (C,), number of images available per class. Except with ``natural``, n_max is the smallest of them.
        imb_type: one of these:

            - ``exp``: n_max * rho^(-k/(C-1)), truncated.
            - ``step``: n_max for the first half of the classes, n_max / rho for the second half.
            - ``natural``: all images of the pool.
        imb_factor: rho = n_max / n_min, at least 1.

    Raises:
        DataError: fewer than 2 classes.
        ConfigError: a class would have no images, or ``step`` with an odd number of classes.
    """
    num_classes = len(pool)
    if num_classes < 2:
        raise DataError(f"the number of classes must be at least 2, got {num_classes}")
    if imb_type == "natural":
        return pool.astype(np.int64)
    largest = int(pool.min())
    factor = 1.0 / imb_factor
    if imb_type == "exp":
        # Keep exactly this form of the power. Using exp(log) or float32 would lose an image at the published ratios.
        counts = [int(largest * factor ** (k / (num_classes - 1.0))) for k in range(num_classes)]
    else:
        if num_classes % 2:
            raise ConfigError(f"imb_type must be exp or natural for an odd number of classes ({num_classes}), got step")
        counts = [largest] * (num_classes // 2) + [int(largest * factor)] * (num_classes // 2)
    if counts[-1] < 1:
        allowed = largest if int(largest * (1.0 / largest)) else largest - 1
        raise ConfigError(
            f"imb_factor must be at most {allowed}, got {imb_factor:g}: the largest class has {largest} images, which "
            "leaves none for the smallest"
        )
    return np.asarray(counts, np.int64)


def explicit_counts(
    pool: np.ndarray, class_counts: Sequence[int] | Mapping[str, int], class_names: Sequence[str]
) -> np.ndarray:
    """The number of training images per class, (C,) int64, as the user gives them.

    Args:
        pool: (C,), number of images available per class.
        class_counts: one number per class in label order, or numbers by class name. A class that is not named keeps all
            its images.
        class_names: (C,).

    Raises:
        ConfigError: too few or too many numbers, an unknown name, or a number that is below 1 or above the pool. Names
            the class.
    """
    if not isinstance(class_counts, Mapping):
        if len(class_counts) != len(pool):
            raise ConfigError(
                f"class_counts must have one number for each of the {len(pool)} classes, got {len(class_counts)}"
            )
        class_counts = dict(zip(class_names, class_counts, strict=True))
    unknown = [name for name in class_counts if name not in class_names]
    if unknown:
        close = difflib.get_close_matches(unknown[0], class_names, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(f"class_counts must name classes of the dataset, got {show(unknown[0])}{hint}")
    counts = pool.astype(np.int64)
    for label, name in enumerate(class_names):
        given = class_counts.get(name, pool[label])
        if not 1 <= given <= pool[label]:
            raise ConfigError(
                f"class_counts must be 1 to {pool[label]} for class {label} ({name}), whose training images these are, "
                f"got {given}"
            )
        counts[label] = given
    return counts


def select(labels: np.ndarray, candidates: np.ndarray, counts: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Draw ``counts[k]`` images of each class k from ``candidates``, exactly as LDAM-DRW does. Returns int64 indices.

    Args:
        labels: (N,) labels of the whole dataset.
        candidates: indices into the dataset, in dataset order.
        counts: (C,), number of images to keep.
        rng: NumPy's legacy generator.
    """
    candidate_labels = labels[candidates]
    chosen = []
    for label, count in enumerate(counts):
        members = candidates[candidate_labels == label]
        rng.shuffle(members)
        chosen.append(members[:count])
    return np.concatenate(chosen)


def hold_out(labels: np.ndarray, candidates: np.ndarray, counts: np.ndarray, *stream: int | str) -> np.ndarray:
    """Draw ``counts[k]`` candidates of each class k without replacement.

    ``stream`` names the random generator. The int64 indices are sorted by class, then by value.
    """
    rng = generator(*stream)
    candidate_labels = labels[candidates]
    chosen = [
        np.sort(rng.choice(candidates[candidate_labels == label], count, replace=False))
        for label, count in enumerate(counts)
    ]
    return np.concatenate(chosen).astype(np.int64)


def hold_out_groups(
    labels: np.ndarray, candidates: np.ndarray, groups: np.ndarray, counts: np.ndarray, *stream: int | str
) -> np.ndarray:
    """Draw at most ``counts[k]`` candidates of each class k, whole groups only.

    Groups come in random order, and one is taken if no class gets more than its count. So a class can get less, and a
    class whose groups are all too large gets nothing. The int64 indices are sorted by class, then by value.

    Args:
        labels: (N,) labels of the whole dataset.
        candidates: indices into the dataset.
        groups: (N,) names of the groups of the whole dataset; an image with an empty one is a group on its own.
        counts: (C,).
        stream: names the random generator.
    """
    own = np.flatnonzero(groups[candidates] == "")
    _, group = np.unique(groups[candidates], return_inverse=True)
    group[own] = group.max() + 1 + np.arange(len(own))
    order = np.argsort(group, kind="stable")
    members = np.split(candidates[order], np.flatnonzero(np.diff(group[order])) + 1)
    left = counts.copy()
    chosen = []
    for number in generator(*stream).permutation(len(members)):
        given, sizes = np.unique(labels[members[number]], return_counts=True)
        if (sizes <= left[given]).all():
            left[given] -= sizes
            chosen.append(members[number])
    rows = np.sort(np.concatenate([np.empty(0, np.int64), *chosen]).astype(np.int64))
    return rows[np.argsort(labels[rows], kind="stable")]


def make_split(
    labels: np.ndarray,
    parts: np.ndarray,
    class_names: tuple[str, ...],
    *,
    imb_type: str,
    imb_factor: float,
    val_per_class: int,
    split_seed: int,
    class_counts: Sequence[int] | Mapping[str, int] | None = None,
    similar: SimilarParams | None = None,
    test_share: float = 0.2,
    groups: np.ndarray | None = None,
) -> Split:
    """Split a dataset into a long-tailed train part, a held-out val part and a test part.

    - Test: the dataset's own part. A dataset that comes as one ``pool`` gives 40 test images per class. One that is not
      split (``all``) gives ``test_share`` of each class, at least one image of a class with two.
    - Val: the dataset's own part if it has one. Otherwise min(val_per_class, floor(n_c / 5)) images of each class c are
      drawn from the training pool before subsampling.
    - Images of one group stay in one part, so a class may get fewer test or val images.

    Args:
        labels: (N,) labels of the whole dataset.
        parts: (N,) strings, ``train``, ``val``, ``test``, ``pool`` or ``all``.
        class_names: (C,), used in errors.
        imb_type, imb_factor: see ``long_tailed_counts``; with ``counts`` see ``explicit_counts``.
        val_per_class: at most this many val images per class; 0 means none.
        split_seed: seeds all draws.
        class_counts: the counts of ``counts``.
        similar: which training images are blended; None, or without a head, none are.
        test_share: see above.
        groups: (N,) names of what stays together, empty for an image on its own; None without groups.

    Raises:
        DataError: a class has no training or no test images, or a pool has too few images.
        ConfigError: raised by ``long_tailed_counts``, ``explicit_counts``, or about a class of ``similar``.
    """
    num_classes = len(class_names)

    def count(indices: np.ndarray) -> np.ndarray:
        return np.bincount(labels[indices], minlength=num_classes)

    def require(indices: np.ndarray, part: str) -> None:
        empty = np.flatnonzero(count(indices) == 0)
        if len(empty):
            name = f"class {empty[0]} ({class_names[empty[0]]})"
            raise DataError(f"{name} has no {part} image; every class needs at least one")

    train, val, test = (np.flatnonzero(parts == part) for part in ("train", "val", "test"))
    pool = np.flatnonzero(parts == "pool")
    if len(pool):
        if count(pool).min() <= TEST_PER_CLASS:
            raise DataError(
                f"the number of images per class must be more than {TEST_PER_CLASS} for a dataset without a test part, "
                f"got {count(pool).min()}"
            )
        test = hold_out(labels, pool, np.full(num_classes, TEST_PER_CLASS), split_seed, "test")
        train = np.setdiff1d(pool, test)

    def draw(candidates: np.ndarray, wanted: np.ndarray, stream: str) -> np.ndarray:
        if groups is None or not (groups != "").any():
            return hold_out(labels, candidates, wanted, split_seed, stream)
        return hold_out_groups(labels, candidates, groups, wanted, split_seed, stream)

    unsplit = np.flatnonzero(parts == "all")
    if len(unsplit):
        images = count(unsplit)
        wanted = np.minimum(np.maximum((images * test_share).astype(np.int64), 1), images - 1)
        test = draw(unsplit, np.maximum(wanted, 0), "test")
        train = np.setdiff1d(unsplit, test)
    require(train, "training")
    require(test, "test")
    if len(val) == 0 and val_per_class > 0:
        wanted = np.minimum(val_per_class, count(train) // VAL_SHARE)
        val = draw(train, wanted, "val")
        train = np.setdiff1d(train, val)
    if imb_type == "counts":
        assert class_counts is not None, "imb_type counts without class_counts"
        counts = explicit_counts(count(train), class_counts, class_names)
    else:
        counts = long_tailed_counts(count(train), imb_type, imb_factor)
    rng = np.random.RandomState(split_seed)
    train = select(labels, train, counts, rng)
    if similar is None or similar.head is None:
        return Split(train, val, test)
    head, tail = (find_class(getattr(similar, name), class_names, f"similar.{name}") for name in ("head", "tail"))
    if head == tail:
        raise ConfigError(f"similar.tail must be another class than similar.head, got {show(similar.tail)}")
    blends = draw_blends(labels, train, head, tail, similar.share, similar.head_weight, rng)
    return Split(train, val, test, blends)


def split_dataset(manifest: Manifest, params: SplitParams, similar: SimilarParams | None = None) -> Split:
    """The split of a prepared dataset that the parameters ask for. Raises what :func:`make_split` raises."""
    return make_split(
        manifest.labels,
        manifest.parts,
        manifest.class_names,
        imb_type=params.imb_type,
        imb_factor=params.imb_factor,
        val_per_class=params.val_per_class,
        split_seed=params.split_seed,
        class_counts=params.class_counts,
        similar=similar,
        test_share=params.test_share,
        groups=manifest.groups,
    )
