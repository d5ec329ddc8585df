"""The stage that measures all methods: what it writes, and which files it refuses."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from longtail.artifacts.head_files import HeadFile, write_head
from longtail.artifacts.predictions import Predictions, build_predictions, write_predictions
from longtail.core.head import ClassMeans, LinearHead
from longtail.methods.dlsa.routing_file import RoutedPart, RoutingFile, write_routing
from longtail.methods.heads import HEADS
from longtail.methods.ipdpp.selection_file import SelectionFile, write_selection
from longtail.methods.stage_methods import STAGE_METHODS
from stages import evaluate
from tests.refusals import refused

COUNTS = np.array([10, 200, 50])


def table(**changes: Any) -> Predictions:
    made = build_predictions(
        "crt",
        np.eye(3)[[0, 1, 1, 1, 2, 0]] * 3,
        np.array([0, 0, 1, 1, 2, 2]),
        np.arange(6),
        likelihood=True,
        selected_on_test=False,
        split_digest="s",
        train_counts=COUNTS,
    )
    return dataclasses.replace(made, **changes)


def head(method: str, split_digest: str = "s") -> HeadFile:
    weight = np.array([[3, 4], [0, 2], [1.2, -0.5]], dtype=np.float32)
    return HeadFile(
        head=ClassMeans(weight, weight[0]) if method == "ncm" else LinearHead(weight, None),
        method=method,
        split_digest=split_digest,
        backbone_digest="b",
        notes={"tau": 0.1} if method == "tau" else {},
    )


def routing(split_digest: str = "s") -> RoutingFile:
    """One flow that keeps the first half of the rows."""
    label = table().label
    rows = len(label)
    part = RoutedPart(np.arange(rows), label, np.arange(rows) // 3 + 1, np.zeros((rows, 1)), label[:, None])
    histories = {f"flow/1/{name}": np.ones(1) for name in ("epoch", "likelihood", "purity", "balance")}
    histories["flow/1/log_likelihood/train"] = np.array([[-1.0, -2.0, np.nan]])
    parts = {"train": part, "test": part}
    notes, of_control = {"head_1_epoch": 5}, {"epoch": 4}
    return RoutingFile(1, 3, split_digest, COUNTS, np.array([-1.5]), parts, histories, notes, of_control)


def selection(split_digest: str = "s", counts: np.ndarray = COUNTS) -> SelectionFile:
    """One round that keeps the first image of each class. Its control keeps the last."""
    label = np.repeat(np.arange(3), counts)
    first = np.cumsum(counts) - counts
    selected, control = np.zeros((2, 1, len(label)), dtype=bool)
    selected[0, first], control[0, first + counts - 1] = True, True
    return SelectionFile(
        split_digest=split_digest,
        train_counts=counts,
        index=np.arange(len(label)),
        label=label,
        epochs=np.array([0]),
        log_probability=np.full((1, len(label)), -0.5),
        inclusion_probability=np.repeat(1 / counts, counts)[None],
        selected=selected,
        control=control,
        notes={"images": 3, "epoch": 7},
        control_notes={"epoch": 6},
    )


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which every stage before ``evaluate`` has run, for all registered methods."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("shots: {many_above: 100, few_below: 20}\n")
    for folder in ("data", "metrics/predictions", "models/heads"):
        Path(folder).mkdir(parents=True)
    Path("data/class_counts.csv").write_text("label,name,train,val,test\n0,007,10,1,2\n1,bee,200,1,2\n2,NA,50,1,2\n")
    for row in evaluate.table_rows():
        made = table(method=row.name, likelihood=row.name not in HEADS or HEADS.get(row.name).likelihood)
        write_predictions(f"metrics/predictions/{row.name}.h5", made)
    for name in HEADS.names():
        write_head(f"models/heads/{name}.h5", head(name))
    write_routing("models/dlsa_routing.h5", routing())
    write_selection("models/ipdpp_selection.h5", selection())
    return tmp_path


def read_outputs() -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in sorted(Path("metrics").rglob("*")) if path.suffix in (".csv", ".json")
    }


def test_stage_writes_finite_numbers_and_the_same_bytes_twice():
    evaluate.main()
    first = read_outputs()
    evaluate.main()
    assert read_outputs() == first
    summary = json.loads(first["metrics/summary.json"])
    assert list(summary) == sorted(row.name for row in evaluate.table_rows())
    assert set(summary["crt"]) == {"all", "many", "medium", "few", "macro", "worst", "ece", "nll"}
    chosen = json.loads(first["metrics/selection.json"])
    assert chosen["tau"] == {"tau": 0.1}
    assert chosen["dlsa"] == {"head_1_epoch": 5} and chosen["dlsa_control"] == {"epoch": 4}
    assert chosen["ipdpp"] == {"images": 3, "epoch": 7} and chosen["ipdpp_uniform"] == {"epoch": 6}
    assert json.loads(first["metrics/ipdpp.json"])["classes_drawn"] == 3
    frame = pd.read_csv("metrics/per_class.csv", dtype=str, keep_default_na=False)
    assert frame["name"].tolist()[:3] == ["007", "bee", "NA"]


def test_methods_whose_scores_are_no_likelihood_are_marked_as_their_entries_declare():
    evaluate.main()
    details = json.loads(Path("metrics/details.json").read_text())
    marked = {name for name, row in details.items() if row.get("uncalibrated")}
    assert marked == {name for name, entry in HEADS.entries().items() if not entry.likelihood}
    assert {"ncm", "tau"} <= marked


def test_method_without_a_control_is_one_row(monkeypatch):
    entries = STAGE_METHODS.entries()
    alone = entries | {"dlsa": dataclasses.replace(entries["dlsa"], rows=("dlsa",))}
    monkeypatch.setattr(STAGE_METHODS, "entries", lambda: alone)
    evaluate.main()
    chosen = json.loads(Path("metrics/selection.json").read_text())
    assert chosen["dlsa"] == {"head_1_epoch": 5} and "dlsa_control" not in chosen
    assert "dlsa_control" not in json.loads(Path("metrics/summary.json").read_text())


def test_missing_table_names_its_stage():
    Path("metrics/predictions/crt.h5").unlink()
    with refused(r"crt\.h5", "rebalance@crt", missing=True):
        evaluate.main()
    assert not Path("metrics/summary.json").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"split_digest": "other"}, "another split"),
        ({"index": np.arange(6) + 1}, "other images"),
        ({"label": np.array([0, 0, 1, 1, 2, 1])}, "other labels"),
        ({"method": "lws"}, "predictions of lws"),
        ({"train_counts": np.array([10, 200, 40])}, "other training rows"),
    ],
)
def test_table_about_other_images_is_refused(change, problem):
    write_predictions("metrics/predictions/tau.h5", table(**({"method": "tau"} | change)))
    with refused(rf"tau\.h5.*{problem}", "rebalance@tau"):
        evaluate.main()


def test_head_of_another_split_is_refused():
    write_head("models/heads/lws.h5", head("lws", split_digest="other"))
    with refused(r"lws\.h5.*another split", "rebalance@lws"):
        evaluate.main()


def test_routes_of_another_split_are_refused():
    write_routing("models/dlsa_routing.h5", routing(split_digest="other"))
    with refused(r"models/dlsa_routing\.h5.*another split", "train_dlsa"):
        evaluate.main()
    assert not Path("metrics/summary.json").exists()


def test_draws_of_another_split_or_other_counts_are_refused():
    for other in (selection("other"), selection(counts=np.array([10, 200, 40]))):
        write_selection("models/ipdpp_selection.h5", other)
        with refused(r"models/ipdpp_selection\.h5.*(another split|other rows)", "finetune_ipdpp"):
            evaluate.main()
    assert not Path("metrics/summary.json").exists()


@pytest.mark.parametrize(
    ("path", "maker"), [("models/dlsa_routing.h5", "train_dlsa"), ("models/ipdpp_selection.h5", "finetune_ipdpp")]
)
def test_missing_artifact_of_a_method_names_its_stage(path, maker):
    Path(path).unlink()
    with refused(path, maker, missing=True):
        evaluate.main()
