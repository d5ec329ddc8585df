"""Which classes suffer from whom: likeness and confusion of classes, on the features of the last run.

Would more images help, or better features? If accuracy goes with the number of images once likeness to head classes is
held fixed, more images of the tail. If it goes with likeness once the number is held fixed, features that tell these
classes apart.
"""

import argparse
from typing import Any

import numpy as np
import pandas as pd

from longtail.artifacts.tables import write_json
from longtail.core.errors import ConfigError
from longtail.core.params import bind
from longtail.core.yaml import read_yaml
from longtail.evaluation.metrics import class_accuracy, group_of
from longtail.evaluation.shots import Shots
from longtail.evaluation.similarity import (
    Correlation,
    centered_cosine,
    class_means,
    confusion,
    correlations,
    cosine_matrix,
    head_classes,
)
from stages.evaluate import table_rows
from stages.paths import PARAMS
from stages.stored_run import read_row
from stages.studies.page import FOLDER, Page, matrix_figure, scatter_figure

NAME = "similarity"
NEAREST = 3  # head classes that are named for each class
LARGEST_MATRIX = 1000  # classes; the matrices of more are not written out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", default="joint", metavar="ROW", help="row of the table; default: joint")


def main(options: argparse.Namespace) -> None:
    """Read the last run, and write tables, figure and page."""
    rows = {row.name: row.made_by for row in table_rows()}
    if options.method not in rows:
        raise ConfigError(f"--method must be a row of the table ({', '.join(rows)}), got {options.method}")
    if rows[options.method] == "finetune_ipdpp":
        raise ConfigError(f"--method must be a row on the stored features, got {options.method}, which finetunes them")
    shots = bind(Shots, read_yaml(PARAMS).get("shots", {}))
    predictions, train, names = read_row(options.method, rows[options.method])
    counts, accuracy = predictions.train_counts, class_accuracy(predictions)
    groups = group_of(counts, shots)
    means = class_means(train.features, train.labels, predictions.num_classes)
    likeness, plain = centered_cosine(means), cosine_matrix(means)
    confused = confusion(predictions.label, predictions.predicted, predictions.num_classes)
    heads = head_classes(counts, groups)

    found = class_table(names, counts, groups, accuracy, likeness, plain, confused, heads)
    nearest = found["similarity"].to_numpy(float)
    measured = correlations(accuracy, np.log(counts), nearest)
    page = Page(NAME, "Which classes suffer from whom", f"longtail study {NAME} --method {options.method}")
    page.add_text(str(__doc__).split("\n\n")[1])
    page.add_text(verdict(measured, found))
    page.add_table(correlation_table(measured), 2)
    page.add_figure(
        scatter_figure(
            [
                ("training images (log10)", np.log10(counts), 100 * accuracy),
                ("similarity to the nearest head class", nearest, 100 * accuracy),
            ],
            "accuracy, %",
        ),
        "accuracy of each class",
    )
    shares = confused / confused.sum(axis=1, keepdims=True)
    matrices = [("cosine of class means, centered", likeness), ("share of test images", shares)]
    if len(names) <= LARGEST_MATRIX:
        figure = matrix_figure(matrices, names, "class (predicted)", "class")
        page.add_figure(figure, "likeness and confusion of classes, in label order")
    page.add_heading("Classes, fewest images first")
    page.add_table(found.sort_values("train", kind="stable"), 2)
    tables = {NAME: found}
    if len(names) <= LARGEST_MATRIX:
        tables["similarity_pairs"] = pair_table(names, likeness, plain, confused)
    write_json(
        FOLDER / f"{NAME}.json", {key: vars(value) for key, value in measured.items() if np.isfinite(value.value)}
    )
    paths = page.write(tables)
    print(verdict(measured, found))
    print(f"wrote {', '.join(map(str, [*paths, FOLDER / f'{NAME}.json']))}")


def class_table(
    names: list[str],
    counts: np.ndarray,
    groups: np.ndarray,
    accuracy: np.ndarray,
    likeness: np.ndarray,
    plain: np.ndarray,
    confused: np.ndarray,
    heads: np.ndarray,
) -> pd.DataFrame:
    """One row per class: its nearest head classes, and how much of its error goes to them. Percent and cosines.

    ``similarity`` is the centered cosine with the nearest head class other than itself, ``cosine`` the plain one with
    the same class. ``errors_to_nearest`` and ``errors_to_heads`` are shares of the wrongly labeled test images.
    """
    rows = []
    for label, name in enumerate(names):
        others = np.flatnonzero(heads & (np.arange(len(names)) != label))
        nearest = others[np.argsort(-likeness[label, others], kind="stable")][:NEAREST]
        wrong = confused[label].sum() - confused[label, label]
        row: dict[str, Any] = {
            "label": label,
            "name": name,
            "train": int(counts[label]),
            "group": groups[label],
            "accuracy": round(100 * accuracy[label], 2),
            "nearest_heads": ", ".join(names[head] for head in nearest),
            "similarity": round(float(likeness[label, nearest[0]]), 4) if len(nearest) else np.nan,
            "cosine": round(float(plain[label, nearest[0]]), 4) if len(nearest) else np.nan,
            "errors": int(wrong),
            "errors_to_nearest": share_of(confused[label, nearest].sum(), wrong),
            "errors_to_heads": share_of(confused[label, others].sum(), wrong),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def share_of(part: int, whole: int) -> float:
    """In percent; NaN of nothing."""
    return round(100 * float(part) / float(whole), 2) if whole else np.nan


def pair_table(names: list[str], likeness: np.ndarray, plain: np.ndarray, confused: np.ndarray) -> pd.DataFrame:
    """Every pair of different classes: cosine of their means, and test images of the first taken for the second."""
    first, second = np.nonzero(~np.eye(len(names), dtype=bool))
    return pd.DataFrame(
        {
            "class": [names[label] for label in first],
            "other": [names[label] for label in second],
            "similarity": likeness[first, second].round(4),
            "cosine": plain[first, second].round(4),
            "confused": confused[first, second],
        }
    )


def correlation_table(measured: dict[str, Correlation]) -> pd.DataFrame:
    """The coefficients in words."""
    meaning = {
        "count": "accuracy with the number of images",
        "similarity": "accuracy with the similarity to head classes",
        "count_and_similarity": "number of images with the similarity",
        "count_given_similarity": "accuracy with the number, similarity held fixed",
        "similarity_given_count": "accuracy with the similarity, number held fixed",
    }
    rows = [(meaning[key], value.value, value.low, value.high) for key, value in measured.items()]
    return pd.DataFrame(rows, columns=["rank correlation over classes", "value", "95 % from", "to"])


def verdict(measured: dict[str, Correlation], found: pd.DataFrame) -> str:
    """What the partial correlations say, in a sentence."""
    count, similarity = measured["count_given_similarity"], measured["similarity_given_count"]
    tail = found[found["group"] == "few"]
    errors = ""
    if len(tail) and tail["errors"].sum():
        share = (tail["errors_to_nearest"].fillna(0) * tail["errors"]).sum() / tail["errors"].sum()
        errors = f" {share:.0f} % of the errors of few-shot classes go to their {NEAREST} nearest head classes."
    if not (np.isfinite(count.low) and np.isfinite(similarity.low)):
        return f"Too few classes differ in count, accuracy or similarity for a correlation.{errors}"
    by_count, by_similarity = count.low > 0, similarity.high < 0
    advice = {
        (True, True): "More images of the tail and features that tell alike classes apart should both help",
        (
            True,
            False,
        ): "More images of the tail should help; likeness to head classes explains nothing beyond the count",
        (False, True): "Features that tell alike classes apart should help more than more images",
        (False, False): f"With {len(found)} classes, neither count nor likeness stands out",
    }[by_count, by_similarity]
    return (
        f"{advice}: rank correlation of accuracy with the count, similarity held fixed, {count.value:+.2f} "
        f"({count.low:+.2f} to {count.high:+.2f}); with similarity, count held fixed, {similarity.value:+.2f} "
        f"({similarity.low:+.2f} to {similarity.high:+.2f}).{errors}"
    )
