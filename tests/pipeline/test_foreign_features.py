"""Features of others: the stages that run on them, and what is refused."""

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from longtail.artifacts.features import read_features
from longtail.artifacts.predictions import read_predictions
from longtail.core.errors import ArtifactError, DataError
from longtail.methods.dlsa.routing_file import read_routing
from tests.conftest import HEAD_NAMES, write_params
from tests.pipeline.helpers import dlsa_bytes, read_metrics, refused, write_foreign


def test_foreign_features_run_every_head_and_the_table_without_val_head_or_split(tmp_path, stage):
    write_foreign(tmp_path / "features", "train", np.repeat([0, 1, 2], [120, 40, 10]), "label")
    write_foreign(tmp_path / "features", "test", np.repeat([0, 1, 2], 20))
    for method in HEAD_NAMES:
        stage("rebalance", method)
    stage("evaluate")
    summary = json.loads(Path("metrics/summary.json").read_text())
    assert set(summary) == set(HEAD_NAMES), "DLSA was not run on these features"
    assert all({"many", "medium", "few"} <= set(summary[method]) for method in HEAD_NAMES)
    assert summary["ncm"]["macro"] > 60
    assert json.loads(Path("metrics/dlsa.json").read_text()) == {}
    assert pd.read_csv("metrics/plots/dlsa_routes.csv").empty


@pytest.mark.parametrize(
    ("train", "test", "word"), [([0, 0, 2, 2], [0, 1], "class 1"), ([0, 1, 1, 0], [0, 2], "label 2")]
)
def test_foreign_labels_with_gaps_are_refused(tmp_path, stage, train, test, word):
    write_foreign(tmp_path / "features", "train", np.array(train))
    write_foreign(tmp_path / "features", "test", np.array(test))
    refused(ArtifactError, lambda: stage("rebalance", "ncm"), word, "features_t")


@pytest.fixture
def foreign(tmp_path, stage) -> Path:
    """The working folder with DLSA's own two files in features/, and nothing else."""
    write_foreign(tmp_path / "features", "train", np.repeat([0, 1, 2], [120, 40, 10]), "label")
    write_foreign(tmp_path / "features", "test", np.repeat([0, 1, 2], 20))
    return tmp_path / "features"


def test_foreign_features_run_dlsa_and_a_table_of_its_two_rows(foreign, stage, capsys):
    stage("train_dlsa")
    stage("evaluate")
    summary = read_metrics("summary")
    assert list(summary) == ["dlsa", "dlsa_control"]
    assert all({"many", "medium", "few"} <= set(row) for row in summary.values())
    assert summary["dlsa_control"]["macro"] > 60
    others = ", ".join((*HEAD_NAMES, "ipdpp_uniform", "ipdpp"))
    assert f"third-party features: left out since not run on them: {others}" in capsys.readouterr().out
    assert pd.read_csv("metrics/plots/tau_curve.csv").empty
    assert len(pd.read_csv("metrics/plots/dlsa_routes.csv"))


@pytest.mark.parametrize("with_val", [False, True])
def test_foreign_val_chooses_where_it_is_there_and_a_slice_of_train_where_not(foreign, stage, with_val):
    if with_val:
        write_foreign(foreign, "val", np.repeat([0, 1, 2], 7))
    stage("train_dlsa")
    stage("evaluate")
    chosen = {key: value for key, value in read_metrics("selection")["dlsa"].items() if key.startswith("head")}
    assert {value for key, value in chosen.items() if key.endswith("selected_on")} == {
        "val" if with_val else "train_slice"
    }
    parts = read_routing("models/dlsa_routing.h5", "train_dlsa").parts
    assert {name: len(part.label) for name, part in parts.items()} == {
        "train": 170, "test": 60, **({"val": 21} if with_val else {})
    }  # fmt: skip


def test_foreign_val_changes_what_is_kept(foreign, stage):
    stage("train_dlsa")
    without = Path("models/dlsa.safetensors").read_bytes()
    write_foreign(foreign, "val", np.repeat([0, 1, 2], 7))
    stage("train_dlsa")
    assert Path("models/dlsa.safetensors").read_bytes() != without


def test_foreign_features_take_neither_val_nor_head_of_ours(with_heads, stage, capsys):
    write_foreign(with_heads / "features", "train", np.repeat([0, 1, 2], [120, 40, 10]), "label")
    write_foreign(with_heads / "features", "test", np.repeat([0, 1, 2], 20))
    stage("train_dlsa")
    beside_ours = dlsa_bytes(with_heads)
    stage("evaluate")
    assert set(read_metrics("summary")) == {"dlsa_control", "dlsa"}
    assert "joint" in capsys.readouterr().out
    for name in ("features_val.h5", "head.h5"):
        (with_heads / "features" / name).unlink()
    stage("train_dlsa")
    assert dlsa_bytes(with_heads) == beside_ours


def test_foreign_table_takes_every_method_that_was_run_on_the_same_features(with_heads, stage, capsys):
    write_foreign(with_heads / "features", "train", np.repeat([0, 1, 2], [120, 40, 10]))
    write_foreign(with_heads / "features", "test", np.repeat([0, 1, 2], 20))
    stage("rebalance", "ncm")
    stage("train_dlsa")
    stage("evaluate")
    assert set(read_metrics("summary")) == {"ncm", "dlsa_control", "dlsa"}
    assert (
        "left out since not run on them: joint, crt, tau, lws, logit_adjustment, ipdpp_uniform, ipdpp"
        in capsys.readouterr().out
    )


def test_foreign_tables_of_other_training_rows_are_refused(foreign, stage):
    stage("train_dlsa")
    write_foreign(foreign, "train", np.repeat([0, 1, 2], [60, 30, 30]))
    stage("rebalance", "ncm")
    refused(ArtifactError, lambda: stage("evaluate"), "metrics/predictions/")


def test_routes_of_other_foreign_features_are_refused(foreign, stage):
    stage("train_dlsa")
    routing = Path("models/dlsa_routing.h5")
    old = routing.read_bytes()
    write_foreign(foreign, "test", np.repeat([0, 1, 2], 10))
    stage("train_dlsa")
    routing.write_bytes(old)
    refused(ArtifactError, lambda: stage("evaluate"), str(routing), "train_dlsa")


@pytest.mark.parametrize("part", ["test", "val"])
def test_features_of_another_width_are_refused_by_dlsa(foreign, stage, part):
    write_foreign(foreign, part, np.repeat([0, 1, 2], 20), width=5)
    refused(ArtifactError, lambda: stage("train_dlsa"), f"features/features_{part}.h5", "has 5 features", "has 6")
    assert not Path("models").exists()


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_foreign_features_that_are_not_finite_are_refused_by_dlsa(foreign, stage, part, bad):
    with h5py.File(foreign / f"features_{part}.h5", "r+") as file:
        file["features"][7, 3] = bad
    refused(ArtifactError, lambda: stage("train_dlsa"), f"features/features_{part}.h5", "finite", "row 7")
    assert not Path("models").exists()


def test_single_feature_is_refused_by_dlsa(foreign, stage):
    for part in ("train", "test"):
        write_foreign(foreign, part, np.repeat([0, 1, 2], 20), width=1)
    refused(DataError, lambda: stage("train_dlsa"), "n_features = 1", "at least 2")
    assert not Path("models").exists()


def test_foreign_head_is_what_warm_starts_take_and_a_misshapen_one_is_refused(tmp_path, stage):
    write_foreign(tmp_path / "features", "train", np.repeat([0, 1, 2], [120, 40, 10]), "label")
    write_foreign(tmp_path / "features", "test", np.repeat([0, 1, 2], 20))
    weight = np.random.default_rng(0).normal(size=(3, 6))
    with h5py.File(tmp_path / "features/head.h5", "w") as file:
        file["weight"], file["bias"] = weight, np.array([5.0, 0.0, 0.0])
    write_params(tmp_path, {"dlsa": {"epochs": 0}})
    stage("train_dlsa")
    table = read_predictions("metrics/predictions/dlsa.h5", "train_dlsa")
    rows = read_features("features/features_test.h5").features
    assert table.predicted.tolist() == (rows @ weight.T + [5, 0, 0]).argmax(axis=1).tolist()
    with h5py.File(tmp_path / "features/head.h5", "w") as file:
        file["weight"] = weight[:2]
    refused(ArtifactError, lambda: stage("train_dlsa"), "features/head.h5", "(2, 6)", "(3, 6)")
    with h5py.File(tmp_path / "features/head.h5", "w") as file:
        file["weight"], file["bias"] = weight, np.ones(2)
    refused(ArtifactError, lambda: stage("train_dlsa"), "features/head.h5", "(2,)", "(C,)")
