"""Tables and numbers about IP-DPP's subsets: the model's p for the drawn images, and the effect of the draw.

The conventions are those of ``longtail.evaluation.plot_tables``. p is the probability of an image's own label. Rounds
count from 0. A class is *drawn* in a round that keeps some but not all of its images. The tables show only the first
and the last round.

Shapes: N training images, C classes, R rounds.
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
POINTS = 60  # per class and round in ``ipdpp_inclusion``
ALL_POINTS = 6000  # per round, so that a thousand classes can still be plotted; at least three per class
COLUMNS = {
    "ipdpp_probability": ["round", "group", "images", "probability", "share"],
    "ipdpp_inclusion": ["round", "class", "group", "probability", "inclusion", "uniform"],
    "ipdpp_counts": ["images", "rank", "class", "name", "count"],
}


def read(path: Path, made_by: str) -> SelectionFile:
    """Read and verify the draws of all rounds."""
    return read_selection(path, made_by)


def matches(selection: SelectionFile, table: Predictions) -> bool:
    """Return whether the draws and the predictions belong to the same training images."""
    return np.array_equal(selection.train_counts, table.train_counts)


def plot_tables(
    selection: SelectionFile | None, table: Predictions | None, names: Sequence[str], shots: Shots
) -> dict[str, pd.DataFrame]:
    """Map each plot to its table, which has no rows if IP-DPP was not run. ``names``: (C,) class names."""
    if selection is None:
        return {name: pd.DataFrame(columns=columns) for name, columns in COLUMNS.items()}
    return {
        "ipdpp_probability": probability_histogram(selection, shots),
        "ipdpp_inclusion": inclusion_curves(selection, shots),
        "ipdpp_counts": subset_counts(selection, names),
    }


def probability_histogram(selection: SelectionFile, shots: Shots) -> pd.DataFrame:
    """Return ``round, group, images, probability, share``: a histogram of p for each group of classes.

    - ``images``: ``all`` images of the group, the ``selected`` ones, or those of the uniform ``control``.
    - ``probability``: center of the bin. There are 20 equal bins on [0, 1]. A bin includes its lower edge, and the last
      one also includes 1.
    - ``share``: percent of these images in the bin. All images have equal weight.

    A subset has relatively more images of a group's smaller classes. To see the effect of the kernel, compare
    ``selected`` with ``control``, not with ``all``.
    """
    image_group = group_of(selection.train_counts, shots)[selection.label]
    rows = []
    for number in _first_and_last(selection):
        bins = np.minimum((np.exp(selection.log_probability[number]) * BINS).astype(np.int64), BINS - 1)
        for group in GROUPS:
            member = image_group == group
            sets = {"all": member}
            sets |= {"selected": member & selection.selected[number], "control": member & selection.control[number]}
            for images, counted in sets.items():
                if counted.any():
                    share = np.bincount(bins[counted], minlength=BINS) / counted.sum()
                    rows += [(number, group, images, _round((b + 0.5) / BINS), percent(share[b])) for b in range(BINS)]
    return pd.DataFrame(rows, columns=COLUMNS["ipdpp_probability"])


def inclusion_curves(selection: SelectionFile, shots: Shots) -> pd.DataFrame:
    """Return ``round, class, group, probability, inclusion, uniform`` for images of the drawn classes.

    The last three columns are in [0, 1]. ``inclusion`` is the probability that the image is drawn. ``uniform`` is the
    same for a uniform draw: images kept divided by images available. A class has at most 60 images, evenly spaced in
    the order of p, and fewer if more than 100 classes are drawn.
    """
    groups = group_of(selection.train_counts, shots)
    ends = np.cumsum(selection.train_counts)
    rows = []
    for number in _first_and_last(selection):
        log_probability, inclusion = selection.log_probability[number], selection.inclusion_probability[number]
        rising = np.lexsort((log_probability, selection.label))
        uniform = _kept_counts(selection, number) / np.maximum(selection.train_counts, 1)
        drawn = np.flatnonzero(_drawn_classes(selection, number))
        points = min(POINTS, max(3, ALL_POINTS // max(1, len(drawn))))
        for label in drawn:
            count = int(selection.train_counts[label])
            shown = min(points, count)  # at least 2: a drawn class has kept and unkept images
            chosen = rising[ends[label] - count + np.arange(shown) * (count - 1) // (shown - 1)]
            rows += [
                (
                    number,
                    int(label),
                    str(groups[label]),
                    _round(p),
                    _round(likely),
                    _round(uniform[label]),
                )
                for p, likely in zip(np.exp(log_probability[chosen]), inclusion[chosen], strict=True)
            ]
    return pd.DataFrame(rows, columns=COLUMNS["ipdpp_inclusion"])


def subset_counts(selection: SelectionFile, names: Sequence[str]) -> pd.DataFrame:
    """Return ``images, rank, class, name, count`` for the ``training set`` and the last round's ``subset``.

    ``rank`` is the one of ``plot_tables.class_profile``.
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
            ("subset", _kept_counts(selection, len(selection.epochs) - 1)),
        )
    ]
    return pd.concat(frames, ignore_index=True)


def diagnostics(
    selection: SelectionFile, table: Predictions, shots: Shots
) -> dict[str, int | float | dict[str, float]]:
    """Return numbers about the last round, each group with a drawn class, and consecutive rounds.

    - images: size of the subset.
    - rounds: number of draws.
    - classes_drawn: number of classes of which some but not all images were kept.
    - overlap_between_rounds: percent of a round's images of drawn classes that the previous round also selected,
      averaged over rounds.
    - overlap_expected: the same for independent uniform draws of these sizes.

    Both overlaps are omitted if there is no second round or no drawn class.

    ``many``, ``medium`` and ``few`` each have these means over the group's drawn classes, with equal weight:

    - probability_all, probability_selected, probability_control: mean p of all training images of the class, of those
      drawn by IP-DPP, and of those drawn by the uniform control. The last differs from the first only by chance.
    - information_all, information_selected, information_control: mean -log p of the same images in nats, at most 708
      per image.
    - inclusion_ratio: largest over smallest inclusion probability in the class.
    """
    last = len(selection.epochs) - 1
    groups = group_of(selection.train_counts, shots)
    drawn = _drawn_classes(selection, last)
    log_probability = selection.log_probability[last]
    probability = np.exp(log_probability)
    information = -np.maximum(log_probability, np.log(np.finfo(np.float64).tiny))
    class_values: dict[str, np.ndarray] = {}
    for images, counted in (
        ("all", np.ones_like(selection.selected[last])),
        ("selected", selection.selected[last]),
        ("control", selection.control[last]),
    ):
        class_values[f"probability_{images}"] = _class_means(selection, probability, counted)
        class_values[f"information_{images}"] = _class_means(selection, information, counted)
    class_values["inclusion_ratio"] = _inclusion_ratio(selection, last)

    group_values: dict[str, dict[str, float]] = {}
    for name, values in class_values.items():
        means = group_means(np.where(drawn, values, np.nan), groups)
        for group in (group for group in GROUPS if group in means):
            group_values.setdefault(group, {})[name] = _round(means[group])
    return {
        "images": int(selection.selected[last].sum()),
        "rounds": len(selection.epochs),
        "classes_drawn": int(drawn.sum()),
        **group_values,
        **_overlaps(selection),
    }


def _first_and_last(selection: SelectionFile) -> list[int]:
    return sorted({0, len(selection.epochs) - 1})


def _kept_counts(selection: SelectionFile, number: int) -> np.ndarray:
    """Return the number of images of each class that a round selected, (C,)."""
    return np.bincount(selection.label[selection.selected[number]], minlength=len(selection.train_counts))


def _drawn_classes(selection: SelectionFile, number: int) -> np.ndarray:
    """Return a mask of the classes of which a round kept some but not all images, (C,) bool."""
    kept = _kept_counts(selection, number)
    return (kept > 0) & (kept < selection.train_counts)


def _class_means(selection: SelectionFile, values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return the mean of (N,) values over the counted images of each class, (C,). NaN for a class without any."""
    label, classes = selection.label[counted], len(selection.train_counts)
    images = np.bincount(label, minlength=classes)
    sums = np.bincount(label, weights=values[counted], minlength=classes)
    return np.divide(sums, images, out=np.full(classes, np.nan), where=images > 0)


def _inclusion_ratio(selection: SelectionFile, number: int) -> np.ndarray:
    """Return the largest over the smallest inclusion probability of each class, (C,).

    NaN if the smallest is 0 or the class is empty.
    """
    classes = len(selection.train_counts)
    largest, smallest = np.zeros(classes), np.ones(classes)
    np.maximum.at(largest, selection.label, selection.inclusion_probability[number])
    np.minimum.at(smallest, selection.label, selection.inclusion_probability[number])
    defined = (selection.train_counts > 0) & (smallest > 0)
    return np.divide(largest, smallest, out=np.full(classes, np.nan), where=defined)


def _overlaps(selection: SelectionFile) -> dict[str, float]:
    found, expected = [], []
    for number in range(1, len(selection.epochs)):
        drawn = _drawn_classes(selection, number)
        if drawn.any():
            kept, before = _kept_counts(selection, number)[drawn], _kept_counts(selection, number - 1)[drawn]
            images = selection.selected[number] & drawn[selection.label]
            found.append(selection.selected[number - 1][images].mean())
            expected.append((kept * before / selection.train_counts[drawn]).sum() / kept.sum())
    if not found:
        return {}
    return {"overlap_between_rounds": percent(np.mean(found)), "overlap_expected": percent(np.mean(expected))}


def _round(value: float) -> float:
    return float(f"{value:.6g}")
