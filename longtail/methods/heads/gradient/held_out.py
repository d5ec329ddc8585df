"""The settings and the epoch of a head that SGD trains, chosen by mean class accuracy on held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from torch import Tensor

from longtail.methods.heads.gradient.scorers import Scorer
from longtail.methods.heads.held_out import NOISE, best_position, held_out_folds
from longtail.train.device import to_device
from longtail.train.loop import Outcome

EPOCH_NOISE = 0.002  # later epochs, where the rate has come down, win by default

S = TypeVar("S")
T = TypeVar("T", bound=Scorer)
S_contra = TypeVar("S_contra", contravariant=True)
T_co = TypeVar("T_co", bound=Scorer, covariant=True)
Labeled = tuple[Tensor, np.ndarray]


class Train(Protocol[S_contra, T_co]):
    """Trains a new head on rows (N, D) and their classes (N,)."""

    def __call__(
        self, setting: S_contra, on: Labeled, judge: Labeled | None, epochs: int, part: str, /
    ) -> tuple[T_co, Outcome]:
        """``judge``: rows that report on every epoch; ``epochs``: of the schedule; ``part``: name of the checkpoint."""
        ...


@dataclass(frozen=True)
class Chosen(Generic[S, T]):
    """The head, how it was trained, and the rows that chose that: ``val``, ``train_slice``, or empty for none."""

    setting: S
    scorer: T
    outcome: Outcome
    selected_on: str


def train_chosen(
    train: Train[S, T],
    settings: Sequence[S],
    rows: Labeled,
    val: Labeled | None,
    *,
    epochs: int,
    select: str,
    stream: tuple[int | str, ...],
    otherwise: S | None = None,
    mildest: bool = True,
) -> Chosen[S, T]:
    """Train with the best setting for the best number of epochs.

    With validation rows they judge every setting and epoch, and the first best epoch is kept. Without them a fold of
    the rows does (five folds, one after the other, if there are few rows), and the head is then trained on all rows.
    With ``select: last`` and one setting there is nothing to choose.

    Args:
        train: trains a head.
        settings: at least one.
        rows, val: training and validation rows with their class positions.
        epochs: of the schedule.
        select: ``auto``, ``last`` or ``best_val`` (with validation rows only).
        stream: name of the random stream of the folds.
        otherwise: the setting if no row can be held out; None is the first one.
        mildest: take the last setting and epoch that are about as good as the best (see ``best_position``), where the
            regularization is mildest and the rate has come down; otherwise the first best ones.
    """
    pick = best_position if mildest else _first_best
    if select == "last" and len(settings) == 1:
        return Chosen(settings[0], *train(settings[0], rows, val, epochs, ""), "")
    if val is not None or select == "best_val":
        fitted = [train(setting, rows, val, epochs, _part(number)) for number, setting in enumerate(settings)]
        (best,) = pick(np.array([_score(outcome, select) for _, outcome in fitted]), NOISE)
        return Chosen(settings[best], *fitted[best], "val")
    features, y = rows
    judges = held_out_folds(y, *stream)
    if not judges:
        setting = settings[0] if otherwise is None else otherwise
        return Chosen(setting, *train(setting, rows, None, epochs, ""), "")
    curves = np.empty((len(settings), epochs))
    for number, setting in enumerate(settings):
        curve = []
        for fold, held_out in enumerate(judges):
            on, judge = (_taken(features, y, mask) for mask in (~held_out, held_out))
            curve.append(train(setting, on, judge, epochs, _part(number, fold))[1].columns()["val_macro"])
        curves[number] = np.mean(curve, axis=0)
    if select == "last":
        curves[:, :-1] = -1
    (best,) = pick(curves.max(axis=1), NOISE)
    (epoch,) = pick(curves[best], EPOCH_NOISE)
    return Chosen(settings[best], *train(settings[best], rows, None, epoch + 1, ""), "train_slice")


def _first_best(curve: np.ndarray, noise: float) -> tuple[int, ...]:
    return (int(np.argmax(curve)),)


def _taken(features: Tensor, y: np.ndarray, mask: np.ndarray) -> Labeled:
    return features[to_device(np.flatnonzero(mask), features.device)], y[mask]


def _part(setting: int, fold: int | None = None) -> str:
    return f"setting_{setting}" + ("" if fold is None else f"_fold_{fold}")


def _score(outcome: Outcome, select: str) -> float:
    columns = outcome.columns()
    if select == "last":
        return columns["val_macro"][-1]
    return max(columns["val_macro" if select == "auto" else "val_accuracy"])
