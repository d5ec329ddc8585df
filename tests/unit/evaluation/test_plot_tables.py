"""Plot tables: columns, groups, ranks, no missing values; and the stage that writes them."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from longtail.artifacts.head_files import HeadFile, write_head
from longtail.artifacts.predictions import Predictions, build_predictions, write_predictions
from longtail.core.errors import ArtifactError
from longtail.core.head import ClassMeans, LinearHead
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
from longtail.methods.dlsa.routing_file import RoutedPart, RoutingFile, write_routing
from longtail.methods.heads import HEADS
from longtail.methods.ipdpp.selection_file import SelectionFile, write_selection
from stages import evaluate
from stages.context import advice

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


def test_weight_norms_are_those_of_linear_and_cosine_heads_only() -> None:
    frame = weight_norm({"joint": head(), "ncm": head("ncm"), "lws": head("cosine")}, NAMES, COUNTS)
    assert frame["method"].unique().tolist() == ["joint", "lws"]
    assert frame["norm"].tolist() == [5.0, 2.0, 1.3] * 2


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


def read_outputs() -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in sorted(Path("metrics").rglob("*")) if path.suffix in (".csv", ".json")
    }


def routing(table: Predictions, split_digest: str = "s") -> RoutingFile:
    """One flow that keeps the first half of the rows."""
    rows = len(table.label)
    part = RoutedPart(table.index, table.label, np.arange(rows) // 3 + 1, np.zeros((rows, 1)), table.label[:, None])
    histories = {f"flow/1/{name}": np.ones(1) for name in ("epoch", "likelihood", "purity", "balance")}
    histories["flow/1/log_likelihood/train"] = np.array([[-1.0, -2.0, np.nan]])
    parts = {"train": part, "test": part}
    return RoutingFile(
        1, 3, split_digest, COUNTS, np.array([-1.5]), parts, histories, {"head_1_epoch": 5}, {"head_1_epoch": 4}
    )


@pytest.fixture
def project(tmp_path: Path, table: Predictions, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which every stage before ``evaluate`` has run."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("shots: {many_above: 100, few_below: 20}\n")
    for folder in ("data", "metrics/predictions", "models/heads"):
        Path(folder).mkdir(parents=True)
    Path("data/class_counts.csv").write_text("label,name,train,val,test\n0,007,10,1,2\n1,bee,200,1,2\n2,NA,50,1,2\n")
    for row in evaluate.table_rows():
        write_predictions(
            f"metrics/predictions/{row.name}.h5",
            dataclasses.replace(table, method=row.name, likelihood=row.name != "ncm"),
        )
        if row.name in HEADS:
            write_head(f"models/heads/{row.name}.h5", dataclasses.replace(head(), method=row.name))
    write_routing("models/dlsa_routing.h5", routing(table))
    write_selection("models/ipdpp_selection.h5", selection(table))
    return tmp_path


def selection(table: Predictions, split_digest: str = "s") -> SelectionFile:
    """One round that keeps the first image of each class, its control the last."""
    label = np.repeat(np.arange(3), table.train_counts)
    first = np.cumsum(table.train_counts) - table.train_counts
    selected, control = np.zeros((2, 1, len(label)), dtype=bool)
    selected[0, first], control[0, first + table.train_counts - 1] = True, True
    return SelectionFile(
        split_digest=split_digest,
        train_counts=table.train_counts,
        index=np.arange(len(label)),
        label=label,
        epochs=np.array([0]),
        log_probability=np.full((1, len(label)), -0.5),
        inclusion_probability=np.repeat(1 / table.train_counts, table.train_counts)[None],
        selected=selected,
        control=control,
        notes={"images": 3, "epoch": 7},
        control_notes={"epoch": 6},
    )


@contextlib.contextmanager
def refused(pattern: str) -> Iterator[None]:
    """The block ends in an ArtifactError whose line for the user matches ``pattern``."""
    with pytest.raises(ArtifactError) as caught:
        yield
    assert re.search(pattern, advice(caught.value)), advice(caught.value)


def test_stage_writes_finite_numbers_and_the_same_bytes_twice(project: Path) -> None:
    evaluate.main()
    first = read_outputs()
    evaluate.main()
    assert read_outputs() == first
    summary = json.loads(first["metrics/summary.json"])
    assert set(summary["crt"]) == {"all", "many", "medium", "few", "macro", "worst", "ece", "nll"}
    assert json.loads(first["metrics/details.json"])["ncm"]["uncalibrated"] == 1
    selection = json.loads(first["metrics/selection.json"])
    assert selection["tau"] == {"tau": 0.1} and selection["dlsa"] == {"head_1_epoch": 5}
    assert selection["dlsa_control"] == {"head_1_epoch": 4}
    assert selection["ipdpp"] == {"images": 3, "epoch": 7} and selection["ipdpp_uniform"] == {"epoch": 6}
    assert json.loads(first["metrics/ipdpp.json"])["classes_drawn"] == 3
    frame = pd.read_csv("metrics/per_class.csv", dtype=str, keep_default_na=False)
    assert frame["name"].tolist()[:3] == ["007", "bee", "NA"]


def test_missing_table_names_its_stage(project: Path) -> None:
    Path("metrics/predictions/crt.h5").unlink()
    with refused(r"crt\.h5.*rebalance@crt"):
        evaluate.main()
    assert not Path("metrics/summary.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split_digest": "other"}, "another split"),
        ({"index": np.arange(6) + 1}, "other images"),
        ({"label": np.array([0, 0, 1, 1, 2, 1])}, "other labels"),
        ({"method": "lws"}, "predictions of lws"),
    ],
)
def test_table_about_other_images_is_refused(
    project: Path, table: Predictions, change: dict[str, Any], message: str
) -> None:
    write_predictions("metrics/predictions/tau.h5", dataclasses.replace(table, **({"method": "tau"} | change)))
    with refused(rf"tau\.h5.*{message}.*rebalance@tau"):
        evaluate.main()


def test_head_of_another_split_is_refused(project: Path) -> None:
    write_head("models/heads/lws.h5", dataclasses.replace(head(), split_digest="other"))
    with refused(r"lws\.h5.*another split.*rebalance@lws"):
        evaluate.main()


def test_routes_of_another_split_are_refused(project: Path, table: Predictions) -> None:
    write_routing("models/dlsa_routing.h5", routing(table, split_digest="other"))
    with refused(r"models/dlsa_routing\.h5.*another split.*train_dlsa"):
        evaluate.main()
    assert not Path("metrics/summary.json").exists()


def test_draws_of_another_split_or_other_counts_are_refused(project: Path, table: Predictions) -> None:
    write_selection("models/ipdpp_selection.h5", selection(table, split_digest="other"))
    with refused(r"models/ipdpp_selection\.h5.*another split.*finetune_ipdpp"):
        evaluate.main()
    fewer = selection(dataclasses.replace(table, train_counts=np.array([10, 200, 40])))
    write_selection("models/ipdpp_selection.h5", fewer)
    with refused(r"models/ipdpp_selection\.h5.*other rows.*finetune_ipdpp"):
        evaluate.main()
    Path("models/ipdpp_selection.h5").unlink()
    with refused(r"models/ipdpp_selection\.h5.*finetune_ipdpp"):
        evaluate.main()
    assert not Path("metrics/summary.json").exists()


def test_missing_routes_name_their_stage(project: Path) -> None:
    Path("models/dlsa_routing.h5").unlink()
    with refused(r"models/dlsa_routing\.h5.*train_dlsa"):
        evaluate.main()


def test_templates_are_json_that_takes_data_and_separates_revisions() -> None:
    templates = sorted(TEMPLATES.glob("*.json"))
    assert templates
    for path in templates:
        text = path.read_text(encoding="utf-8")
        assert json.loads(text)["data"]["values"] == "<DVC_METRIC_DATA>"
        assert '"field": "rev"' in text or "<DVC_METRIC_COLOR>" in text, path.name
