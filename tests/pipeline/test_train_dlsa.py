"""The stage train_dlsa: byte-stable, resumable, and its numbers in the metrics."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from longtail.artifacts.features import read_features, write_features
from longtail.artifacts.predictions import read_predictions
from longtail.core.errors import ConfigError, TrainingError
from longtail.methods.dlsa.routing_file import read_routing
from longtail.methods.dlsa.settings import PUBLISHED, Settings
from tests.conftest import METHODS, write_params
from tests.pipeline.helpers import (
    DLSA_OUTPUTS,
    dlsa_bytes,
    interrupt_save,
    known,
    read_metrics,
    record_saves,
    refused,
    restore,
)

DLSA_KINDS = {
    "default": {},
    "deep": {"depth": 3},
    "latent": {"preset": "latent"},
    "shared": {"heads": "shared", "depth": 2, "sampler": "class_aware"},
    "cosine": {"classifier": "cosine", "loss": "ce"},
    "random": {"routing": "random", "flow_select": "purity"},
}


def train(stage, folder: Path, kind: str) -> dict[str, bytes]:
    """The outputs of one kind in the folder, trained at the first call."""
    write_params(folder, {"dlsa": DLSA_KINDS[kind]})

    def run() -> dict[str, bytes]:
        stage("train_dlsa")
        return dlsa_bytes(folder)

    return restore(folder, known(f"dlsa {kind}", run))


@pytest.mark.parametrize("kind", DLSA_KINDS)
def test_dlsa_writes_the_same_bytes_twice_and_no_path(with_heads, stage, kind):
    first = train(stage, with_heads, kind)
    for name in first:
        (with_heads / name).unlink()
    stage("train_dlsa")
    assert dlsa_bytes(with_heads) == first
    for name, content in first.items():
        assert str(with_heads).encode() not in content, name


@pytest.mark.parametrize("kind", DLSA_KINDS)
def test_stored_dlsa_gives_the_routes_and_predictions_of_the_tables(with_heads, stage, kind):
    from longtail.methods.dlsa.stored import load_chain

    train(stage, with_heads, kind)
    chain, meta = load_chain("models/dlsa.safetensors")
    test = read_features("features/features_test.h5")
    rows = torch.from_numpy(test.features)
    table = read_predictions("metrics/predictions/dlsa.h5", "train_dlsa")
    scores = chain.scores(rows)
    np.testing.assert_array_equal(scores.argmax(axis=1), table.predicted)
    np.testing.assert_allclose(softmax(scores.astype(np.float64), axis=1).max(axis=1), table.confidence, rtol=1e-5)
    routing, found = read_routing("models/dlsa_routing.h5", "train_dlsa"), chain.routing(rows)
    assert routing.depth == chain.depth == {"deep": 3, "shared": 2}.get(kind, 1)
    np.testing.assert_array_equal(routing.parts["test"].route, found.route)
    np.testing.assert_array_equal(routing.parts["test"].cluster, found.cluster)
    np.testing.assert_array_equal(routing.parts["test"].log_likelihood, found.log_density)
    np.testing.assert_array_equal(routing.thresholds, [level.threshold for level in chain.levels])
    assert {name: part.index.tolist() for name, part in routing.parts.items()} == {
        name: read_features(f"features/features_{name}.h5").index.tolist() for name in ("train", "val", "test")
    }
    assert meta["preset"] == DLSA_KINDS[kind].get("preset", "small")
    assert meta["split_digest"] == routing.split_digest == test.split_digest


def test_dlsa_and_its_control_without_an_epoch_are_the_stage_1_head(with_heads, stage):
    """Warm start, and a second branch of zeros."""
    write_params(with_heads, {"dlsa": {"epochs": 0, "start": "given"}})
    stage("train_dlsa")
    joint = read_predictions("metrics/predictions/joint.h5", "rebalance@joint")
    for name in ("dlsa_control", "dlsa"):
        table = read_predictions(f"metrics/predictions/{name}.h5", "train_dlsa")
        np.testing.assert_array_equal(table.predicted, joint.predicted)
        np.testing.assert_allclose(table.confidence, joint.confidence, rtol=1e-4)
        np.testing.assert_array_equal(table.index, joint.index)


@pytest.mark.parametrize("preset", ["small", "latent", "imagenet_lt_paco"])
def test_depth_0_is_the_control_and_evaluate_needs_no_flow(with_heads, stage, preset):
    write_params(with_heads, {"dlsa": {"preset": preset, "depth": 0, "flow_epochs": "auto"}})
    stage("train_dlsa")
    control, dlsa = (read_predictions(DLSA_OUTPUTS[i], "train_dlsa") for i in (2, 3))
    for name in ("index", "label", "top_class", "top_probability", "label_log_probability"):
        np.testing.assert_array_equal(getattr(dlsa, name), getattr(control, name))
    stage("evaluate")
    assert read_metrics("selection")["dlsa"]["preset"] == preset
    assert read_metrics("summary")["dlsa"] == read_metrics("summary")["dlsa_control"]
    assert not [key for key in read_metrics("dlsa") if key.startswith("level")]
    for name in ("likelihood", "losses", "clusters"):
        assert pd.read_csv(f"metrics/plots/dlsa_{name}.csv").empty
    routes = pd.read_csv("metrics/plots/dlsa_routes.csv")
    assert set(routes["route"]) == {1} and set(routes["share"]) == {100.0}


def test_dlsa_has_finite_numbers_plots_and_its_selection_in_the_metrics(with_heads, stage):
    write_params(with_heads, {"dlsa": {"depth": 2}})
    stage("train_dlsa")
    stage("evaluate")
    assert set(read_metrics("summary")) == set(METHODS)
    assert {"level_1", "level_2", "route_1", "route_2", "route_3", "routing"} == set(read_metrics("dlsa"))
    selection = read_metrics("selection")
    assert selection["dlsa"]["depth"] == 2
    assert [selection["dlsa"][f"flow_{level}_rule"] for level in (1, 2)] == ["held_out"] * 2
    assert [selection["dlsa"][f"head_{route}_selected_on"] for route in (1, 2, 3)] == ["val"] * 3
    for path in Path("metrics/plots").glob("dlsa_*.csv"):
        frame = pd.read_csv(path)
        assert len(frame) and not frame.isna().any().any(), path
    assert set(pd.read_csv("metrics/plots/dlsa_likelihood.csv")["part"]) == {"train", "val", "test"}


def test_epoch_of_the_control_is_reported_too(with_heads, stage):
    stage("train_dlsa")
    stage("evaluate")
    assert "val" in read_metrics("selection").get("dlsa_control", {}).values()


def test_dlsa_selected_on_test_is_marked(with_heads, stage, capsys):
    write_params(with_heads, {"dlsa": {"select_on": "test"}})
    stage("train_dlsa")
    stage("evaluate")
    marked = {name for name, row in read_metrics("summary").items() if row.get("selected_on_test") == 1}
    assert marked == {"dlsa", "dlsa_control"}
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["dlsa", "*"] in lines and ["dlsa_control", "*"] in lines
    assert read_metrics("selection")["dlsa"]["head_1_selected_on"] == "test"


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_configuration_runs_on_small_data_with_its_own_values(with_heads, stage, preset):
    from longtail.methods.dlsa.stored import load_chain

    write_params(with_heads, {"dlsa": {"preset": preset, "epochs": 2, "flow_epochs": 2}})
    stage("train_dlsa")
    chain, meta = load_chain("models/dlsa.safetensors")
    assert chain.settings == Settings(**{**PUBLISHED[preset], "epochs": 2, "flow_epochs": 2})
    assert chain.depth == PUBLISHED[preset].get("depth", 1) and meta["preset"] == preset
    stage("evaluate")
    assert set(read_metrics("summary")) == set(METHODS)


@pytest.mark.parametrize(("imb_factor", "chosen"), [(100, "last"), (10, "train_slice")])
def test_dlsa_without_val_holds_out_training_rows_where_every_class_has_two(
    tmp_path, pipeline, stage, imb_factor, chosen
):
    write_params(tmp_path, {"val_per_class": 0, "imb_factor": imb_factor})
    pipeline("extract_features")
    stage("train_dlsa")
    counts = pd.read_csv("data/class_counts.csv")["train"]
    assert (counts.min() == 1) == (chosen == "last")
    routing = read_routing("models/dlsa_routing.h5", "train_dlsa")
    assert {routing.notes[key] for key in ("selected_on", "head_1_selected_on", "head_2_selected_on")} == {chosen}
    assert set(routing.parts) == {"train", "test"}
    np.testing.assert_array_equal(np.bincount(routing.parts["train"].label), counts)


def test_dlsa_that_is_interrupted_again_and_again_gives_the_same_bytes(with_heads, stage, capsys, monkeypatch):
    write_params(with_heads, {"dlsa": {"depth": 2}})
    with monkeypatch.context() as patch:
        in_one_go = record_saves(patch)
        stage("train_dlsa")
    whole = dlsa_bytes(with_heads)
    for name in whole:
        (with_heads / name).unlink()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        saves = record_saves(patch)
        for of, further, resumed in [
            ("head", 1, ""),
            ("head", 5, "dlsa_control head 1 of 1: resuming after epoch 1"),
            ("flow", 2, "dlsa_control head 1 of 1: resuming after epoch 6"),
            ("flow", 2, "dlsa flow 1 of 2: resuming after epoch 2"),
            ("head", 3, "dlsa flow 2 of 2: resuming after epoch 1"),
            ("head", 15, "dlsa head 1 of 3: resuming after epoch 3"),
        ]:
            with patch.context() as inner:
                interrupt_save(inner, further, of)
                with pytest.raises(KeyboardInterrupt):
                    stage("train_dlsa")
            assert resumed in capsys.readouterr().out
            assert not any((with_heads / name).exists() for name in DLSA_OUTPUTS)
        stage("train_dlsa")
    assert "dlsa head 3 of 3: resuming after epoch 6" in capsys.readouterr().out
    assert dlsa_bytes(with_heads) == whole
    assert saves == in_one_go, "no epoch is trained twice"
    assert not list((with_heads / ".scratch/train_dlsa").glob("*/*")), "scratch is cleared after success"


def test_unfinished_dlsa_of_other_parameters_or_features_is_not_resumed(with_heads, stage, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_save(patch, 8, "head")
        with pytest.raises(KeyboardInterrupt):
            stage("train_dlsa")
    write_params(with_heads, {"dlsa": {"lr": 0.05}})
    stage("train_dlsa")
    write_params(with_heads, {"seed": 1})
    stage("train_dlsa")
    write_params(with_heads)
    path = with_heads / "features/features_train.h5"
    ours = read_features(path)
    write_features(path, dataclasses.replace(ours, features=2 * ours.features))
    stage("train_dlsa")
    assert "resuming" not in capsys.readouterr().out


def test_unfinished_dlsa_is_resumed_after_a_change_and_back(with_heads, stage, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_save(patch, 8, "head")
        with pytest.raises(KeyboardInterrupt):
            stage("train_dlsa")
    write_params(with_heads, {"dlsa": {"lr": 0.05}})
    stage("train_dlsa")
    write_params(with_heads)
    stage("train_dlsa")
    assert "dlsa head 1 of 2: resuming after epoch 2" in capsys.readouterr().out


def test_contradiction_in_dlsa_is_refused_before_training(with_heads, stage):
    write_params(with_heads, {"dlsa": {"classifier": "cosine", "second_branch": "zero"}})
    refused(ConfigError, lambda: stage("train_dlsa"), "dlsa.second_branch", "dlsa.classifier")
    assert not any((with_heads / name).exists() for name in DLSA_OUTPUTS)


def test_diverging_flow_ends_with_the_key_to_lower_and_no_output(with_heads, stage):
    write_params(with_heads, {"dlsa": {"flow_lr": 1e9, "log_scale_limit": 0}})
    refused(TrainingError, lambda: stage("train_dlsa"), "dlsa.flow_lr", "epoch 1")
    assert not any((with_heads / name).exists() for name in DLSA_OUTPUTS)
