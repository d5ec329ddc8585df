"""``dataset: features``: the whole DAG on the user's own features, which are only read."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from longtail.artifacts.feature_set import read_feature_set
from longtail.artifacts.left_out import left_out_reason
from longtail.artifacts.predictions import read_predictions
from longtail.core.errors import ArtifactError, ConfigError, DataError
from longtail.params import check_params, defaults
from tests.conftest import HEAD_NAMES, default_params, merged, run_all, write_params
from tests.imports import ROOT
from tests.pipeline.conftest import Project, copy_code, stages_run
from tests.pipeline.helpers import BEFORE, read_metrics, refused, write_own

COUNTS = {"train": [120, 40, 10], "test": [20, 20, 20], "val": [5, 5, 5]}
IPDPP_ROWS = ("ipdpp_uniform", "ipdpp")
NO_IMAGES = "dataset: features has no images"


def own_params(folder: Path, data_root: Path, *changes: dict, heads: tuple[str, ...] = HEAD_NAMES) -> None:
    """The repository's params.yaml with fast settings of what runs on features, and ``changes``."""
    own = {"dataset": "features", "data_root": str(data_root), "imb_type": "natural"}
    images = {name: default_params()[name] for name in ("pretrain", "train", "ipdpp")}
    write_params(folder, images, own, *changes, heads=heads)


def write_parts(folder: Path, *parts: str, form: str = "h5") -> None:
    for part in parts:
        write_own(folder, part, np.repeat(np.arange(3), COUNTS[part]), form)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def own(tmp_path: Path, stage: Any) -> Path:
    """A folder with train and test, which params.yaml points to."""
    write_parts(tmp_path / "own", "train", "test")
    own_params(tmp_path, tmp_path / "own")
    return tmp_path / "own"


def test_every_method_but_ipdpp_has_its_row_and_ipdpp_a_line(own, stage, capsys):
    before = contents(own)
    run_all(stage)
    assert list(read_metrics("summary")) == sorted([*HEAD_NAMES, "dlsa_control", "dlsa"])
    assert read_metrics("summary")["ncm"]["macro"] > 60
    assert all({"many", "medium", "few"} <= set(row) for row in read_metrics("summary").values())
    assert read_metrics("ipdpp") == {} and len(read_metrics("dlsa"))
    selection = read_metrics("selection")
    assert selection["joint"].keys() == {"l2", "prior", "selected_on"} and "backbone" not in selection
    assert pd.read_csv("metrics/plots/ipdpp_counts.csv").empty
    assert len(pd.read_csv("metrics/plots/dlsa_routes.csv"))
    output = capsys.readouterr().out
    assert f"left out: ipdpp_uniform, ipdpp ({NO_IMAGES})" in output
    assert output.count("left out: ") == 4, "pretrain, train_backbone, finetune_ipdpp and the line of evaluate"
    for path in ("models/pretrained.safetensors", "models/backbone.safetensors", "models/ipdpp.safetensors",
                 "models/ipdpp_selection.h5", *(f"metrics/predictions/{row}.h5" for row in IPDPP_ROWS)):  # fmt: skip
        assert left_out_reason(path) == NO_IMAGES, path
    for path in ("data/ipdpp_subset.csv", *(f"metrics/curves/{name}.tsv" for name in BEFORE[2:4]),
                 "metrics/curves/finetune_ipdpp.tsv"):  # fmt: skip
        assert len(Path(path).read_text().splitlines()) == 1, path
    with Image.open("metrics/ipdpp_images.png") as picture:
        picture.load()
    assert contents(own) == before
    stage("table")


def test_all_forms_give_equal_features_head_and_predictions(own, tmp_path, stage):
    results = []
    for form in ("h5", "npz", "npy"):
        shutil.rmtree(own)
        write_parts(own, *COUNTS, form=form)
        for name in BEFORE:
            stage(name)
        stage("rebalance", "tau")
        files = [*Path("features").iterdir(), Path("metrics/predictions/tau.h5"), Path("data/prepared/features.h5")]
        results.append({str(path): path.read_bytes() for path in files})
    assert results[0] == results[1] == results[2]


def test_val_part_is_used_and_otherwise_val_is_drawn(own, tmp_path, stage):
    for name in BEFORE:
        stage(name)
    drawn = read_feature_set(Path("features"))
    assert (drawn.train_counts.tolist(), len(drawn.val.labels)) == ([110, 32, 8], 20)
    write_parts(own, "val")
    for name in BEFORE:
        stage(name)
    given = read_feature_set(Path("features"))
    assert (given.train_counts.tolist(), len(given.val.labels)) == (COUNTS["train"], 15)


def test_imbalance_is_drawn_as_for_images(own, tmp_path, stage):
    write_own(own, "train", np.repeat(np.arange(3), 50))
    own_params(tmp_path, own, {"imb_type": "exp", "imb_factor": 10, "val_per_class": 0})
    for name in BEFORE:
        stage(name)
    found = read_feature_set(Path("features"))
    assert found.train_counts.tolist() == [50, 15, 5]
    with h5py.File(own / "features_train.h5") as file:
        np.testing.assert_array_equal(found.train.features, file["features"][:][found.train.index])


def test_given_head_is_joint(own, tmp_path, stage):
    weight, bias = np.random.default_rng(0).normal(size=(3, 6)), np.array([5.0, 0, 0])
    np.savez(own / "head.npz", weight=weight, bias=bias)
    for name in BEFORE:
        stage(name)
    stage("rebalance", "joint")
    table = read_predictions("metrics/predictions/joint.h5", "rebalance@joint")
    rows = read_feature_set(Path("features")).test.features
    assert table.predicted.tolist() == (rows @ weight.T + bias).argmax(axis=1).tolist()
    assert read_feature_set(Path("features")).head_notes == {"head": "given file"}


def test_images_after_features_name_the_stage_that_was_left_out(own, tmp_path, stage):
    for name in BEFORE:
        stage(name)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    for name in BEFORE[:2]:
        stage(name)
    message = refused(ArtifactError, lambda: stage("train_backbone"), "models/pretrained.safetensors", NO_IMAGES)
    assert message.endswith("dvc repro -f pretrain`")
    refused(ArtifactError, lambda: stage("extract_features"), "models/backbone.safetensors", NO_IMAGES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 32}, ["image_size must be auto", "no effect", "dataset: features"]),
        ({"storage": "memory"}, ["storage must be auto", "dataset: features"]),
        ({"normalize": "none"}, ["normalize must be auto", "dataset: features, which has no images"]),
        ({"train": {"epochs": 5}}, ["train.epochs must be 60", "dataset: features, which has no images"]),
        ({"pretrain": {"method": "moco"}}, ["pretrain.method must be none", "dataset: features"]),
        ({"ipdpp": {"epochs": 5}}, ["ipdpp.epochs must be 60", "dataset: features"]),
        ({"crt": {"mode": "online"}}, ["crt.mode must be cached with dataset: features", "got online"]),
        ({"lws": {"mode": "online"}}, ["lws.mode must be cached with dataset: features"]),
        ({"data_root": None}, ["data_root must be the folder of the features", "got null"]),
    ],
)
def test_keys_about_images_are_refused_before_any_work(own, tmp_path, stage, changes, words):
    own_params(tmp_path, own, changes)
    refused(ConfigError, lambda: stage("prepare"), *words)
    assert not Path("data").exists()


def test_val_per_class_is_refused_beside_a_val_part_and_best_val_without_val(own, tmp_path, stage):
    own_params(tmp_path, own, {"val_per_class": 0, "crt": {"select": "best_val"}})
    refused(ConfigError, lambda: stage("prepare"), "crt.select", "val_per_class: 0")
    write_parts(own, "val")
    own_params(tmp_path, own, {"val_per_class": 5})
    refused(ConfigError, lambda: stage("prepare"), "val_per_class must be 10", "a val part of its own")
    own_params(tmp_path, own, {"val_per_class": 0})
    stage("prepare")


def test_settings_of_a_method_that_is_switched_off_may_stay():
    base = {"dataset": "features", "data_root": "own"}
    check_params(base | {"ipdpp": {"enabled": False, "epochs": 5, "select": "best_val"}})
    check_params({"val_per_class": 0, "ipdpp": {"enabled": False, "select": "best_val"}})
    check_params({"dlsa": {"enabled": False, "lr": 0.1}})
    assert defaults()["dlsa"]["enabled"] is defaults()["ipdpp"]["enabled"] is True


@pytest.mark.parametrize("folder", ["features", "data/prepared", "models/heads", "metrics"])
def test_folder_that_stages_write_to_is_refused(tmp_path, stage, folder):
    write_parts(tmp_path / folder, "train", "test")
    before = contents(tmp_path / folder)
    for given in (tmp_path / folder, Path(folder)):
        own_params(tmp_path, given)
        refused(ConfigError, lambda: stage("check"), f"data_root must be a folder of your own, got {given}")
    assert contents(tmp_path / folder) == before


def test_missing_part_is_refused_by_prepare_with_nothing_written(own, stage):
    (own / "features_test.h5").unlink()
    refused(DataError, lambda: stage("prepare"), "features_test.h5", "features_test.npz", "labels_test.npy")
    assert not Path("data").exists()


# Methods that are switched off


def test_methods_that_are_switched_off_have_no_rows_and_change_no_other(with_heads, tmp_path, stage, capsys):
    stage("train_dlsa")
    stage("evaluate")
    everything = read_metrics("summary")
    params = yaml.safe_load(Path("params.yaml").read_text())
    off = {"dlsa": {"enabled": False}, "ipdpp": {"enabled": False}}
    Path("params.yaml").write_text(yaml.safe_dump(merged(params, off)))
    for name in ("train_dlsa", "finetune_ipdpp"):
        stage(name)
    assert not Path("metrics/cost/finetune_ipdpp.json").exists()
    stage("evaluate")
    assert read_metrics("summary") == {name: everything[name] for name in HEAD_NAMES}
    assert read_metrics("dlsa") == read_metrics("ipdpp") == {}
    assert set(read_metrics("selection")) == {*HEAD_NAMES, "backbone"}
    assert pd.read_csv("metrics/plots/dlsa_routes.csv").empty
    output = capsys.readouterr().out
    assert "left out: dlsa_control, dlsa (dlsa.enabled: false)" in output
    assert "left out: ipdpp_uniform, ipdpp (ipdpp.enabled: false)" in output


def test_predictions_of_a_method_whose_artifact_is_left_out_are_refused(with_heads, stage):
    stage("train_dlsa")
    kept = Path("metrics/predictions/dlsa.h5").read_bytes()
    params = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(merged(params, {"dlsa": {"enabled": False}})))
    stage("train_dlsa")
    Path("metrics/predictions/dlsa.h5").write_bytes(kept)
    refused(ArtifactError, lambda: stage("evaluate"), "dlsa_routing.h5 is left out", "dvc repro -f train_dlsa")


# Through dvc

HEADS = ("joint", "tau", "softmax_regression")
AFTER = ("evaluate_backbone", "train_dlsa", "finetune_ipdpp", "evaluate")
STAGES = [*BEFORE, *(f"rebalance@{method}" for method in HEADS), *AFTER]


def summary(project: Project) -> dict:
    return json.loads((project.folder / "metrics/summary.json").read_text())


def test_dvc_runs_the_whole_dag_on_features_and_never_writes_to_them(tmp_path):
    project, own = copy_code(tmp_path / "project", HEADS), tmp_path / "own"
    write_parts(own, "train", "test")
    before = contents(own)
    own_params(project.folder, own, heads=HEADS)
    project.commit("code")
    output = project.dvc("repro")
    assert sorted(stages_run(output)) == sorted(STAGES)
    assert f"left out: ipdpp_uniform, ipdpp ({NO_IMAGES})" in output
    project.commit("reproduced")
    assert stages_run(project.dvc("repro")) == []
    first = summary(project)

    assert stages_run(project.dvc("exp", "run", "-S", "tau.value=0.5")) == ["rebalance@tau", "evaluate"]
    assert {name for name in first if summary(project)[name] != first[name]} <= {"tau"}
    off = project.dvc("exp", "run", "-S", "tau.value=auto", "-S", "dlsa.enabled=false")
    assert stages_run(off) == ["train_dlsa", "evaluate"]
    assert set(summary(project)) == set(HEADS)
    project.dvc("plots", "show", "-o", "plots_out")
    assert stages_run(project.dvc("exp", "run", "-S", "dlsa.enabled=true")) == []
    assert summary(project) == first
    assert contents(own) == before

    shutil.rmtree(own)  # other rows under the same names
    write_own(own, "test", np.repeat(np.arange(3), [20, 20, 20]), form="npz")
    write_own(own, "train", np.repeat(np.arange(3), [90, 30, 9]))
    assert {"prepare", "extract_features", "evaluate"} <= set(stages_run(project.dvc("repro")))
    shutil.rmtree(own)  # the results do not need them any more
    assert stages_run(project.dvc("repro")) == []
