"""Plot tables: columns, groups, ranks, no missing values."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from longtail.artifacts.head_files import HeadFile
from longtail.artifacts.predictions import Predictions, build_predictions
from longtail.core.head import ClassMeans, LinearHead, StandardizedHead
from longtail.evaluation.plot_tables import (
    accuracy_by_group,
    class_profile,
    confusion,
    head_curves,
    per_class,
    reliability,
    tau_curve,
    weight_norm,
)
from longtail.evaluation.shots import Shots

TEMPLATES = Path(__file__).parents[3] / ".dvc" / "plots"
COUNTS = np.array([10, 200, 50])
NAMES = ["ant", "bee", "cow"]


@pytest.fixture
def table() -> Predictions:
    scores = np.eye(3)[[0, 1, 1, 1, 2, 0]] * 3
    return build_predictions(
        "crt",
        scores,
        np.array([0, 0, 1, 1, 2, 2]),
        np.arange(6),
        likelihood=True,
        selected_on_test=False,
        split_digest="s",
        train_counts=COUNTS,
    )


def head(kind: str = "linear", extra: dict[str, np.ndarray] | None = None) -> HeadFile:
    weight = np.array([[3, 4], [0, 2], [1.2, -0.5]], dtype=np.float32)
    return HeadFile(
        head=ClassMeans(weight, weight[0]) if kind == "ncm" else LinearHead(weight, None, kind),
        method="tau",
        split_digest="s",
        backbone_digest="b",
        extra=extra or {},
        notes={"tau": 0.1},
    )


def test_accuracy_by_group_leaves_empty_groups_out() -> None:
    frame = accuracy_by_group({"crt": {"all": 60.0, "many": 70.0, "macro": 61.0, "ece": 1.0}})
    assert frame.to_records(index=False).tolist() == [
        ("crt", "many", 70.0),
        ("crt", "macro", 61.0),
        ("crt", "all", 60.0),
    ]


def test_per_class_holds_group_counts_and_accuracy(table: Predictions) -> None:
    frame = per_class([table], NAMES, COUNTS, Shots())
    assert frame.to_records(index=False).tolist() == [
        ("crt", 0, "ant", "few", 10, 2, 50.0),
        ("crt", 1, "bee", "many", 200, 2, 100.0),
        ("crt", 2, "cow", "medium", 50, 2, 50.0),
    ]


def test_profile_ranks_every_split_by_training_images() -> None:
    counts = pd.DataFrame({"label": [0, 1, 2], "name": NAMES, "train": COUNTS, "val": [1, 2, 3], "test": [5, 5, 5]})
    frame = class_profile(counts)
    assert frame["name"].tolist() == ["bee", "cow", "ant"] * 3
    assert frame[frame["split"] == "val"]["count"].tolist() == [2, 3, 1]
    assert frame["rank"].tolist() == [1, 2, 3] * 3


def test_confusion_holds_nonzero_cells_that_sum_to_the_class(table: Predictions) -> None:
    frame = confusion([table], NAMES, COUNTS)
    cells = frame[["actual", "predicted", "count", "share"]].to_records(index=False).tolist()
    assert cells == [(0, 0, 1, 50.0), (0, 1, 1, 50.0), (1, 1, 2, 100.0), (2, 0, 1, 50.0), (2, 2, 1, 50.0)]
    assert frame["actual_rank"].tolist() == [3, 3, 1, 2, 2]
    assert frame["predicted_name"].tolist() == ["ant", "bee", "bee", "ant", "cow"]


def test_reliability_counts_every_image_once(table: Predictions) -> None:
    frame = reliability([table])
    assert frame["count"].sum() == 6
    assert frame["accuracy"].tolist() == [66.67]


def test_tau_curve_skips_absent_classes_and_marks_the_chosen_tau() -> None:
    curve = np.array([[0.2, 0.9, np.nan], [0.4, 0.8, np.nan]])
    frame = tau_curve(head(extra={"curve/tau": np.array([0.0, 0.1]), "curve/class_accuracy": curve}), COUNTS, Shots())
    assert frame.to_records(index=False).tolist() == [
        (0.0, "many", 90.0, 0),
        (0.0, "few", 20.0, 0),
        (0.0, "macro", 55.0, 0),
        (0.1, "many", 80.0, 1),
        (0.1, "few", 40.0, 1),
        (0.1, "macro", 60.0, 1),
    ]


def test_weight_norms_are_those_of_weights_that_act_on_the_features() -> None:
    raw = head()
    spread = np.array([0.5, 4.0])
    weight = raw.head.weight * spread  # type: ignore[union-attr]
    standardized = StandardizedHead(weight, np.zeros(3), center=np.ones(2), spread=spread)
    heads = {"joint": raw, "ncm": head("ncm"), "crt": replace(raw, head=standardized)}
    frame = weight_norm(heads, NAMES, COUNTS)
    assert frame["method"].unique().tolist() == ["joint", "crt"]
    assert frame["norm"].tolist() == [5.0, 2.0, 1.3] * 2
    assert frame["input"].unique().tolist() == ["features"]


def test_weight_norms_of_heads_on_unit_features_say_so() -> None:
    cosine = replace(head(), head=LinearHead(np.array([[3.0, 4], [0, 2], [1.2, -0.5]]), None, "cosine", 16.0))
    frame = weight_norm({"joint": cosine, "lws": head("unit")}, NAMES, COUNTS)
    assert frame["norm"].tolist() == [16.0] * 3 + [5.0, 2.0, 1.3]
    assert frame["input"].unique().tolist() == ["unit features"]


def test_head_curves_come_from_the_recorded_history() -> None:
    history = {"history/epoch": np.array([1, 2]), "history/loss": np.array([0.5, 0.25])}
    frame = head_curves({"joint": head(), "crt": head(extra=history | {"history/lr": np.array([0.1, 0.0])})})
    assert frame.to_records(index=False).tolist() == [("crt", 1, 0.5, 0.1), ("crt", 2, 0.25, 0.0)]


def test_tables_without_rows_keep_their_columns() -> None:
    assert list(head_curves({"ncm": head("ncm")}).columns) == ["method", "epoch", "loss", "lr"]
    assert list(weight_norm({"ncm": head("ncm")}, NAMES, COUNTS).columns) == [
        "method",
        "class",
        "name",
        "count",
        "norm",
        "input",
    ]
    assert list(tau_curve(head(), COUNTS, Shots()).columns) == ["tau", "group", "accuracy", "selected"]


def test_no_table_has_missing_values_or_columns_of_dvc(table: Predictions) -> None:
    frames = [
        per_class([table], NAMES, COUNTS, Shots()),
        confusion([table], NAMES, COUNTS),
        reliability([table]),
        weight_norm({"joint": head()}, NAMES, COUNTS),
    ]
    for frame in frames:
        assert not frame.isna().any().any()
        assert not {"rev", "filename", "field"} & set(frame.columns)


def test_templates_are_json_that_takes_data_and_separates_revisions() -> None:
    templates = sorted(TEMPLATES.glob("*.json"))
    assert templates
    for path in templates:
        text = path.read_text(encoding="utf-8")
        assert json.loads(text)["data"]["values"] == "<DVC_METRIC_DATA>"
        assert '"field": "rev"' in text or "<DVC_METRIC_COLOR>" in text, path.name
