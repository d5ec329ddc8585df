"""Rows that are held out of a fit, to judge what a head chooses, and how the best choice is read from them."""

from collections.abc import Iterator

import numpy as np

from longtail.core.seeds import derive_seed, generator

FOLDS = 5
FEW_ROWS = 5000  # with fewer, every row is held out once, not just those of one fold
NOISE = 0.001  # of mean class accuracy in [0, 1]; a smaller difference chooses nothing


def folds(y: np.ndarray, *stream: int | str) -> np.ndarray:
    """(N,) int64: the fold 0 to 4 in which a row is held out, -1 for the only row of a class.

    The rows of each class are dealt in random order; fold 0 has the most.
    """
    fold = np.empty(len(y), np.int64)
    order = np.argsort(y, kind="stable")
    for c, members in enumerate(np.split(order, np.cumsum(np.bincount(y))[:-1])):
        dealt = np.arange(len(members)) % FOLDS if len(members) > 1 else np.array([-1])
        fold[members[generator(*stream, c).permutation(len(members))]] = dealt
    return fold


def held_out_folds(y: np.ndarray, *stream: int | str) -> list[np.ndarray]:
    """Rows to hold out, (N,) bool each: a fifth of each class or, if there are few rows, each fifth in turn.

    The only row of a class is never held out. The list is empty if no class of y (N,) has two rows.
    """
    fold = folds(y, *stream)
    wanted = range(FOLDS if len(y) < FEW_ROWS else 1)
    return [fold == number for number in wanted if (fold == number).any()]


def fifth_of_each_class(y: np.ndarray, *stream: int | str, at_least: int = 0) -> np.ndarray:
    """(N,) bool: the larger of floor(n_c / 5) and ``at_least`` random rows of each class.

    y: (N,) int64 in 0..C-1, every class present; stream: the name of the random stream.
    """
    held_out = np.zeros(len(y), dtype=bool)
    order = np.argsort(y, kind="stable")
    for c, members in enumerate(np.split(order, np.cumsum(np.bincount(y))[:-1])):
        number = max(at_least, len(members) // FOLDS)
        held_out[members[generator(*stream, c).permutation(len(members))[:number]]] = True
    return held_out


def within_budget(y: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """(N,) bool: all rows, or min(n_c, m) random rows of each class for the largest m with at most ``budget`` rows."""
    counts = np.bincount(y)
    if len(y) <= budget:
        return np.ones(len(y), bool)
    larger = len(counts) - np.searchsorted(np.sort(counts), np.arange(1, counts.max() + 1))  # classes of at least m
    largest = max(1, int(np.searchsorted(np.cumsum(larger), budget, side="right")))  # rows that a size m keeps
    kept = np.zeros(len(y), bool)
    order = np.argsort(y, kind="stable")
    for c, members in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        kept[members[generator(seed, "l2 rows", c).permutation(len(members))[:largest]]] = True
    return kept


def held_out_parts(
    X: np.ndarray, y: np.ndarray, val: tuple[np.ndarray, np.ndarray] | None, budget: int | None, *stream: int | str
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Pairs of training rows to fit on, (N,) bool, and rows with class positions that judge the fit.

    With validation rows there is one pair: all rows, and these. Without them they are those of ``held_out_folds``.

    Args:
        X: (N, D); y: (N,) class positions.
        val: the same of the validation rows, or None.
        budget: largest number of judging rows, or None; the largest classes are cut to it.
        stream: name of the random stream.
    """
    if val is not None:
        used = _within(val[1], budget, *stream)
        yield np.ones(len(y), bool), (val[0][used], val[1][used])
        return
    for held_out in held_out_folds(y, *stream):
        rows = np.flatnonzero(held_out)
        used = rows[_within(y[rows], budget, *stream)]
        yield ~held_out, (X[used], y[used])


def _within(y: np.ndarray, budget: int | None, *stream: int | str) -> np.ndarray:
    if budget is None or len(y) <= budget:
        return np.arange(len(y))
    return np.flatnonzero(within_budget(np.unique(y, return_inverse=True)[1], budget, derive_seed(*stream)))


def class_accuracy(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(...): mean over the classes in ``labels`` (M,) of the share of right ones among ``predicted`` (..., M)."""
    counts = np.bincount(labels)
    share = 1 / (counts[labels] * np.count_nonzero(counts))
    return (predicted == labels) @ share


def best_position(curves: np.ndarray, noise: float = NOISE) -> tuple[int, ...]:
    """The last position whose mean class accuracy is within ``noise`` of the largest; grids end with the mildest."""
    positions = np.argwhere(curves >= curves.max() - noise)
    return tuple(int(number) for number in positions[-1])
