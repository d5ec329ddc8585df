"""Tables and numbers about IP-DPP's subsets: what the model knew of the drawn images, and what the draw changes.

Conventions are those of ``plot_tables``; p is the probability of an image's own label, and rounds count from 0. A class
is drawn where a round keeps some of its images and not all; the first and the last round stand for all in the tables.

Shape legend: N training images, C classes, R rounds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from longtail.artifacts.predictions import Predictions
from longtail.evaluation.metrics import GROUPS, group_means, group_of, percent
from longtail.evaluation.shots import Shots
from longtail.methods.ipdpp.selection_file import SelectionFile, read_selection

BINS = 20
POINTS = 60  # of a class and round in ``ipdpp_inclusion``
ALL_POINTS = 6000  # of a round, so that a thousand classes can still be drawn; no class falls below three
COLUMNS = {
    "ipdpp_probability": ["round", "group", "images", "probability", "share"],
    "ipdpp_inclusion": ["round", "class", "group", "probability", "inclusion", "uniform"],
    "ipdpp_counts": ["images", "rank", "class", "name", "count"],
}


def read(path: Path, made_by: str) -> SelectionFile:
    """The draws of all rounds, verified."""
    return read_selection(path, made_by)


def matches(selection: SelectionFile, table: Predictions) -> bool:
    """Whether the draws are from the training images of the predictions."""
    return np.array_equal(selection.train_counts, table.train_counts)


def plot_tables(
    selection: SelectionFile | None, table: Predictions | None, names: Sequence[str], shots: Shots
) -> dict[str, pd.DataFrame]:
    """The tables by the name of their plot; without rows where IP-DPP was not run. ``names``: (C,) class names."""
    if selection is None:
        return {name: pd.DataFrame(columns=columns) for name, columns in COLUMNS.items()}
    return {
        "ipdpp_probability": probability_histogram(selection, shots),
        "ipdpp_inclusion": inclusion_curves(selection, shots),
        "ipdpp_counts": subset_counts(selection, names),
    }


def probability_histogram(selection: SelectionFile, shots: Shots) -> pd.DataFrame:
    """``round, group, images, probability, share``: percent of a group's images by p, in 20 equal bins of [0, 1].

    ``images``: ``all`` of a group, the ``selected`` ones, or the uniform ``control``'s. ``probability``: centre of the
    bin. Bins hold their lower edge, the last one 1 as well. Images count alike, and a subset holds relatively more of a
    group's smaller classes: what the kernel does is the difference of ``selected`` from ``control``, not from ``all``.
    """
    of_image = group_of(selection.train_counts, shots)[selection.label]
    rows = []
    for number in _first_and_last(selection):
        bins = np.minimum((np.exp(selection.log_probability[number]) * BINS).astype(np.int64), BINS - 1)
        for group in GROUPS:
            member = of_image == group
            sets = {"all": member}
            sets |= {"selected": member & selection.selected[number], "control": member & selection.control[number]}
            for images, counted in sets.items():
                if counted.any():
                    share = np.bincount(bins[counted], minlength=BINS) / counted.sum()
                    rows += [(number, group, images, _short((b + 0.5) / BINS), percent(share[b])) for b in range(BINS)]
    return pd.DataFrame(rows, columns=COLUMNS["ipdpp_probability"])


def inclusion_curves(selection: SelectionFile, shots: Shots) -> pd.DataFrame:
    """``round, class, group, probability, inclusion, uniform`` of images of the drawn classes, in [0, 1] all three.

    ``inclusion``: how likely the image was to be drawn; ``uniform``: the same in a uniform draw, kept over available.
    At most 60 images of a class, evenly spaced over the order of p; fewer where more than 100 classes are drawn.
    """
    groups = group_of(selection.train_counts, shots)
    ends = np.cumsum(selection.train_counts)
    rows = []
    for number in _first_and_last(selection):
        log_probability, inclusion = selection.log_probability[number], selection.inclusion_probability[number]
        rising = np.lexsort((log_probability, selection.label))
        uniform = _kept(selection, number) / np.maximum(selection.train_counts, 1)
        drawn = np.flatnonzero(_drawn(selection, number))
        points = min(POINTS, max(3, ALL_POINTS // max(1, len(drawn))))
        for label in drawn:
            count = int(selection.train_counts[label])
            shown = min(points, count)  # two at least: a class is drawn where some of its images are kept and some not
            chosen = rising[ends[label] - count + np.arange(shown) * (count - 1) // (shown - 1)]
            rows += [
                (number, int(label), str(groups[label]), _short(p), _short(likely), _short(uniform[label]))
                for p, likely in zip(np.exp(log_probability[chosen]), inclusion[chosen], strict=True)
            ]
    return pd.DataFrame(rows, columns=COLUMNS["ipdpp_inclusion"])


def subset_counts(selection: SelectionFile, names: Sequence[str]) -> pd.DataFrame:
    """``images, rank, class, name, count`` of the ``training set`` and of the last round's ``subset``.

    ``rank`` is that of ``plot_tables.class_profile``.
    """
    order = np.argsort(-selection.train_counts, kind="stable")
    frames = [
        pd.DataFrame(
            {
                "images": images,
                "rank": np.arange(1, len(order) + 1),
                "class": order,
                "name": [names[label] for label in order],
                "count": counts[order],
            }
        )
        for images, counts in (
            ("training set", selection.train_counts),
            ("subset", _kept(selection, len(selection.epochs) - 1)),
        )
    ]
    return pd.concat(frames, ignore_index=True)


def diagnostics(
    selection: SelectionFile, table: Predictions, shots: Shots
) -> dict[str, int | float | dict[str, float]]:
    """Numbers of the last round, of each group with a drawn class, and of neighbouring rounds.

    images: size of the subset. rounds: how often it was drawn. classes_drawn: classes of which not all were kept.

    Of ``many``, ``medium`` and ``few``, all of them means over the group's drawn classes, which count alike:

    - probability_all, probability_selected, probability_control: mean p of the class's training images, of those that
      IP-DPP drew, and of those that the uniform control drew, which differs from all by chance only;
    - information_all, information_selected, information_control: mean -log p of the same, nats, at most 708 an image;
    - inclusion_ratio: how many times likelier the likeliest image of the class was to be drawn than the unlikeliest.

    overlap_between_rounds: percent of a round's images of drawn classes that the round before had selected too, mean
    over the rounds. overlap_expected: the same for independent uniform draws of these sizes. Both are left out where
    there is no second round or no drawn class.
    """
    last = len(selection.epochs) - 1
    groups = group_of(selection.train_counts, shots)
    drawn = _drawn(selection, last)
    log_probability = selection.log_probability[last]
    probability = np.exp(log_probability)
    information = -np.maximum(log_probability, np.log(np.finfo(np.float64).tiny))
    of_class: dict[str, np.ndarray] = {}
    for images, counted in (
        ("all", np.ones_like(selection.selected[last])),
        ("selected", selection.selected[last]),
        ("control", selection.control[last]),
    ):
        of_class[f"probability_{images}"] = _class_means(selection, probability, counted)
        of_class[f"information_{images}"] = _class_means(selection, information, counted)
    of_class["inclusion_ratio"] = _inclusion_ratio(selection, last)

    of_group: dict[str, dict[str, float]] = {}
    for name, values in of_class.items():
        means = group_means(np.where(drawn, values, np.nan), groups)
        for group in (group for group in GROUPS if group in means):
            of_group.setdefault(group, {})[name] = _short(means[group])
    return {
        "images": int(selection.selected[last].sum()),
        "rounds": len(selection.epochs),
        "classes_drawn": int(drawn.sum()),
        **of_group,
        **_overlaps(selection),
    }


def _first_and_last(selection: SelectionFile) -> list[int]:
    return sorted({0, len(selection.epochs) - 1})


def _kept(selection: SelectionFile, number: int) -> np.ndarray:
    """(C,) images of each class that a round selected."""
    return np.bincount(selection.label[selection.selected[number]], minlength=len(selection.train_counts))


def _drawn(selection: SelectionFile, number: int) -> np.ndarray:
    """(C,) bool: classes of which a round kept some images and not all."""
    kept = _kept(selection, number)
    return (kept > 0) & (kept < selection.train_counts)


def _class_means(selection: SelectionFile, values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(C,) mean of (N,) values over the counted images of each class, NaN for a class without any."""
    label, classes = selection.label[counted], len(selection.train_counts)
    images = np.bincount(label, minlength=classes)
    sums = np.bincount(label, weights=values[counted], minlength=classes)
    return np.divide(sums, images, out=np.full(classes, np.nan), where=images > 0)


def _inclusion_ratio(selection: SelectionFile, number: int) -> np.ndarray:
    """(C,) largest over smallest inclusion probability of each class, NaN where the smallest is 0 or there is none."""
    classes = len(selection.train_counts)
    largest, smallest = np.zeros(classes), np.ones(classes)
    np.maximum.at(largest, selection.label, selection.inclusion_probability[number])
    np.minimum.at(smallest, selection.label, selection.inclusion_probability[number])
    known = (selection.train_counts > 0) & (smallest > 0)
    return np.divide(largest, smallest, out=np.full(classes, np.nan), where=known)


def _overlaps(selection: SelectionFile) -> dict[str, float]:
    found, expected = [], []
    for number in range(1, len(selection.epochs)):
        drawn = _drawn(selection, number)
        if drawn.any():
            kept, before = _kept(selection, number)[drawn], _kept(selection, number - 1)[drawn]
            images = selection.selected[number] & drawn[selection.label]
            found.append(selection.selected[number - 1][images].mean())
            expected.append((kept * before / selection.train_counts[drawn]).sum() / kept.sum())
    if not found:
        return {}
    return {"overlap_between_rounds": percent(np.mean(found)), "overlap_expected": percent(np.mean(expected))}


def _short(value: float) -> float:
    return float(f"{value:.6g}")
