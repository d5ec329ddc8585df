"""Tables behind the plots of ``dvc plots``: tidy, one row per mark, no missing values.

Accuracies, confidences and shares are in percent. The column names ``rev``, ``filename`` and ``field`` belong to DVC
and are never used. DVC leaves out a plot whose table has no rows, for example if no tau was searched.

Shape legend: M test images, C classes, T grid points, E epochs.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from longtail.artifacts.head_files import HeadFile
from longtail.artifacts.predictions import Predictions
from longtail.core.head import LinearHead
from longtail.evaluation.metrics import GROUPS, class_accuracy, group_means, group_of, percent, reliability_bins
from longtail.evaluation.shots import Shots

SPLITS = ("train", "val", "test")


def accuracy_by_group(summary: Mapping[str, Mapping[str, float | int]]) -> pd.DataFrame:
    """``method, group, accuracy``. The groups are ``many, medium, few, macro, all``, without the empty ones."""
    rows = [
        (method, group, row[group])
        for method, row in summary.items()
        for group in (*GROUPS, "macro", "all")
        if group in row
    ]
    return pd.DataFrame(rows, columns=["method", "group", "accuracy"])


def per_class(tables: Sequence[Predictions], names: Sequence[str], counts: np.ndarray, shots: Shots) -> pd.DataFrame:
    """``method, class, name, group, count, test, accuracy``. ``count`` and ``test`` are training and test images."""
    groups = group_of(counts, shots)
    frames = [
        pd.DataFrame(
            {
                "method": table.method,
                "class": np.arange(table.num_classes),
                "name": list(names),
                "group": groups,
                "count": counts,
                "test": np.bincount(table.label, minlength=table.num_classes),
                "accuracy": (100 * class_accuracy(table)).round(2),
            }
        )
        for table in tables
    ]
    return pd.concat(frames, ignore_index=True)


def class_profile(class_counts: pd.DataFrame) -> pd.DataFrame:
    """``split, rank, class, name, count`` from ``label, name, train, val, test``.

    In every split, ``rank`` 1 is the class with the most training images. The lower label wins ties.
    """
    ranked = class_counts.sort_values(["train", "label"], ascending=[False, True]).reset_index(drop=True)
    frames = [
        pd.DataFrame(
            {
                "split": split,
                "rank": np.arange(1, len(ranked) + 1),
                "class": ranked["label"],
                "name": ranked["name"],
                "count": ranked[split],
            }
        )
        for split in SPLITS
    ]
    return pd.concat(frames, ignore_index=True)


def head_curves(heads: Mapping[str, HeadFile]) -> pd.DataFrame:
    """``method, epoch, loss, lr`` of each head that recorded all of ``history/{epoch,loss,lr}``, (E,) each."""
    frames = [
        pd.DataFrame(
            {
                "method": method,
                "epoch": head.extra["history/epoch"].astype(np.int64),
                "loss": _significant(head.extra["history/loss"]),
                "lr": _significant(head.extra["history/lr"]),
            }
        )
        for method, head in heads.items()
        if all(f"history/{column}" in head.extra for column in ("epoch", "loss", "lr"))
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["method", "epoch", "loss", "lr"])


def tau_curve(head: HeadFile | None, counts: np.ndarray, shots: Shots) -> pd.DataFrame:
    """``tau, group, accuracy, selected`` on the selection split. ``selected`` is 1 in the rows of the chosen tau.

    It is read from ``curve/tau`` (T,), ``curve/class_accuracy`` (T, C) in [0, 1], NaN for classes that the split lacks,
    and ``notes["tau"]``, the chosen tau. The groups are those of ``accuracy_by_group`` without ``all``.
    """
    rows = []
    if head is not None and "curve/tau" in head.extra and "curve/class_accuracy" in head.extra:
        taus = head.extra["curve/tau"].astype(np.float64)
        chosen = np.isclose(taus, float(head.notes.get("tau", np.nan)), rtol=0, atol=1e-6)
        groups = group_of(counts, shots)
        for tau, is_chosen, accuracy in zip(taus, chosen, head.extra["curve/class_accuracy"], strict=True):
            rows += [
                (round(float(tau), 6), group, percent(mean), int(is_chosen))
                for group, mean in group_means(accuracy, groups).items()
            ]
    return pd.DataFrame(rows, columns=["tau", "group", "accuracy", "selected"])


def confusion(tables: Sequence[Predictions], names: Sequence[str], counts: np.ndarray) -> pd.DataFrame:
    """``method, actual, predicted, actual_rank, predicted_rank, actual_name, predicted_name, count, share``.

    Nonzero cells only. ``share`` is relative to the test images of the actual class. Ranks are those of
    ``class_profile``, so a heat map over ranks runs from head to tail.
    """
    names_array = np.asarray(names, dtype=object)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(-np.asarray(counts), kind="stable")] = np.arange(1, len(counts) + 1)
    frames = []
    for table in tables:
        classes = table.num_classes
        cells, count = np.unique(table.label * classes + table.predicted, return_counts=True)
        actual, predicted = np.divmod(cells, classes)
        images = np.bincount(table.label, minlength=classes)
        frames.append(
            pd.DataFrame(
                {
                    "method": table.method,
                    "actual": actual,
                    "predicted": predicted,
                    "actual_rank": rank[actual],
                    "predicted_rank": rank[predicted],
                    "actual_name": names_array[actual],
                    "predicted_name": names_array[predicted],
                    "count": count,
                    "share": (100 * count / images[actual]).round(2),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def reliability(tables: Sequence[Predictions]) -> pd.DataFrame:
    """``method, bin, confidence, accuracy, count`` of the bins that hold images. The bins are those of the ECE."""
    frames = []
    for table in tables:
        bins = reliability_bins(table.confidence, table.correct)
        frames.append(
            pd.DataFrame(
                {
                    "method": table.method,
                    "bin": bins.number,
                    "confidence": (100 * bins.confidence).round(2),
                    "accuracy": (100 * bins.accuracy).round(2),
                    "count": bins.images,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def weight_norm(heads: Mapping[str, HeadFile], names: Sequence[str], counts: np.ndarray) -> pd.DataFrame:
    """``method, class, name, count, norm, input`` of each head whose scores are linear in its input.

    ``norm`` is the Euclidean norm of the class's row of the weight that acts on ``input``. That is ``features``, the
    features as they are, also for a head on standardized ones; or ``unit features``, those divided by their norm.
    """
    columns = ["method", "class", "name", "count", "norm", "input"]
    linear = {method: head.head.on_raw() for method, head in heads.items() if isinstance(head.head, LinearHead)}
    frames = [
        pd.DataFrame(
            {
                "method": method,
                "class": np.arange(len(counts)),
                "name": list(names),
                "count": counts,
                "norm": _significant(np.linalg.norm(head.effective_weight().astype(np.float64), axis=1)),
                "input": "unit features" if head.unit_input else "features",
            }
        )
        for method, head in linear.items()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _significant(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
