"""Rows that judge what a head chooses, for heads that are not trained by steps."""

from collections.abc import Iterator

import numpy as np

from longtail.core.seeds import derive_seed

NOISE = 0.001  # of mean class accuracy in [0, 1]; a smaller difference chooses nothing


def held_out_parts(
    X: np.ndarray, y: np.ndarray, val: tuple[np.ndarray, np.ndarray] | None, budget: int | None, *stream: int | str
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Pairs of training rows to fit on, (N,) bool, and rows with class positions that judge the fit.

    With validation rows there is one pair: all rows, and these. Without them a fold is held out, each of five if there
    are few rows. The only row of a class is always fitted on. There is no pair if no row can be held out.

    Args:
        X: (N, D); y: (N,) class positions.
        val: the same of the validation rows, or None.
        budget: largest number of judging rows, or None; the largest classes are cut to it.
        stream: name of the random stream.
    """
    from longtail.methods.heads.softmax_solver import FEW_ROWS, FOLDS, folds

    if val is not None:
        used = _within(val[1], budget, *stream)
        yield np.ones(len(y), bool), (val[0][used], val[1][used])
        return
    fold = folds(y, *stream)
    for number in range(FOLDS if len(y) < FEW_ROWS else 1):
        held_out = np.flatnonzero(fold == number)
        if len(held_out):
            used = held_out[_within(y[held_out], budget, *stream)]
            yield fold != number, (X[used], y[used])


def _within(y: np.ndarray, budget: int | None, *stream: int | str) -> np.ndarray:
    from longtail.methods.heads.softmax_solver import within_budget

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
