"""The stage finetune_ipdpp: byte-stable, resumable, its draws, and every key matters."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from longtail.artifacts.checkpoints import load_checkpoint
from longtail.artifacts.features import read_features, write_features
from longtail.artifacts.head_files import read_head
from longtail.artifacts.predictions import read_predictions
from longtail.augment.transforms import Transform
from longtail.core.errors import ArtifactError, ConfigError, DataError, TrainingError
from longtail.data.manifest import read_manifest
from longtail.methods.ipdpp.finetuning import label_log_probability
from longtail.methods.ipdpp.information import Information
from longtail.methods.ipdpp.selection_file import read_selection
from longtail.methods.ipdpp.structured import RankOneKDPP
from longtail.models.classifier import Classifier, build_layer
from longtail.models.stored import load_backbone
from longtail.train.batches import open_part
from longtail.train.extract import outputs
from stages.data import read_split
from stages.paths import PREPARED
from tests.conftest import write_params
from tests.pipeline.helpers import BEFORE, interrupt_save, known, refused, restore, write_image

CPU = torch.device("cpu")


IPDPP_OUTPUTS = (
    "models/ipdpp.safetensors",
    "models/ipdpp_selection.h5",
    "data/ipdpp_subset.csv",
    "metrics/curves/finetune_ipdpp.tsv",
    "metrics/ipdpp_images.png",
    "metrics/predictions/ipdpp_uniform.h5",
    "metrics/predictions/ipdpp.h5",
)
KINDS: dict[str, dict] = {
    "default": {},
    "encoder": {"freeze": "encoder", "epochs": 6},
    "released kernel": {"scale": "n2"},
    "released draws": {"sampler": "uniform_official", "p_source": "model", "k": 12},
    "features": {"sampler": "feature_kdpp", "beta": 1.0},
    "head": {"p_source": "head", "bn_mode": "eval"},
    "best_val": {"select": "best_val", "augment": "simclr_noflip"},
}


def finetune(stage, folder: Path, **changes) -> dict[str, bytes]:
    write_params(folder, {"train": {"epochs": 10}, "ipdpp": changes})
    stage("finetune_ipdpp")
    return {name: (folder / name).read_bytes() for name in IPDPP_OUTPUTS}


def finetuned(stage, folder: Path, **changes) -> dict[str, bytes]:
    """What ``finetune`` gives in the folder of ``trained``, from the first time."""
    write_params(folder, {"train": {"epochs": 10}, "ipdpp": changes})
    return restore(folder, known(f"ipdpp {sorted(changes.items())}", lambda: finetune(stage, folder, **changes)))


def draws(folder: Path):
    return read_selection(folder / "models/ipdpp_selection.h5", "finetune_ipdpp")


@pytest.mark.parametrize("kind", KINDS)
def test_finetuning_writes_the_same_bytes_twice_and_no_path(trained, stage, kind):
    first = finetuned(stage, trained, **KINDS[kind])
    for name in IPDPP_OUTPUTS:
        (trained / name).unlink()
    assert finetune(stage, trained, **KINDS[kind]) == first
    assert not any(str(trained).encode() in content for content in first.values())


@pytest.mark.parametrize("kind", KINDS)
def test_subset_holds_min_k_and_n_c_images_of_each_class_in_every_round(trained, stage, kind):
    finetuned(stage, trained, **KINDS[kind])
    table, split = pd.read_csv("data/ipdpp_subset.csv"), read_split()[0]
    assert list(table.columns) == ["round", "class", "index", "probability", "inclusion_probability"]
    labels = read_manifest(PREPARED).labels
    counts = np.bincount(labels[split.train])
    k = KINDS[kind].get("k", 10 * counts.min())
    rounds = KINDS[kind].get("epochs", 4) // 2
    assert sorted(set(table["round"])) == list(range(rounds))
    for _, one in table.groupby("round"):
        assert set(one["index"]) <= set(split.train) and one["index"].is_unique
        assert np.array_equal(one["class"], labels[one["index"]])
        assert np.array_equal(np.bincount(one["class"]), np.minimum(k, counts))
        whole = one["class"].isin(np.flatnonzero(counts <= k))
        assert (one.loc[whole, "inclusion_probability"] == 1).all()
    assert table["probability"].between(0, 1).all()


def test_round_0_is_drawn_by_the_backbones_own_head(trained, stage):
    finetuned(stage, trained)
    features, head = read_features(Path("features/features_train.h5")), read_head(Path("features/head.h5"), "x").head
    logits = features.features.astype(np.float64) @ head.weight.T + head.bias
    log_p = torch.log_softmax(torch.from_numpy(logits), dim=1).numpy()[np.arange(len(logits)), features.labels]
    stored = draws(trained)
    np.testing.assert_allclose(stored.log_probability[0], log_p, rtol=1e-4, atol=1e-6)
    for c, count in enumerate(stored.train_counts):
        members, k = stored.label == c, 10 * stored.train_counts.min()
        if count > k:
            known = Information.from_log_probability(stored.log_probability[0][members])
            exact = RankOneKDPP(known.d, known.r, int(k)).inclusion_probability()
            np.testing.assert_allclose(stored.inclusion_probability[0][members], exact, rtol=1e-12)


def test_later_rounds_are_drawn_by_the_model_of_that_moment(trained, stage):
    """With as many epochs as a round the stored model is that moment's; another round begins there with one more."""
    finetuned(stage, trained, epochs=3, reselect_every=2, schedule="constant")
    second = draws(trained).log_probability[1]
    finetuned(stage, trained, epochs=2, reselect_every=2, schedule="constant")
    model, _ = stored_model()
    images = part_images(read_split()[0].train)
    now = label_log_probability(outputs(model, images, 10, "p", "off"), images.labels)
    assert np.array_equal(second, now)


@pytest.mark.parametrize(("source", "fixed"), [("auto", False), ("model", False), ("head", True)])
def test_p_source_says_whose_probabilities_count(trained, stage, source, fixed):
    finetuned(stage, trained, p_source=source)
    own = draws(trained).log_probability
    finetuned(stage, trained, p_source="head")
    of_head = draws(trained).log_probability
    assert np.array_equal(own[0], of_head[0]) == (source != "model")
    assert np.array_equal(own[1], of_head[1]) == fixed
    assert np.array_equal(of_head[0], of_head[1])


def part_images(index: np.ndarray):
    manifest = read_manifest(PREPARED)
    meta = load_checkpoint(Path("models/ipdpp.safetensors"), "finetune_ipdpp")[1]
    return open_part(manifest, PREPARED, None, index, Transform.from_meta(meta["transform"]), CPU, 0)


def stored_model():
    backbone, head, _, _ = load_backbone(Path("models/ipdpp.safetensors"), "finetune_ipdpp")
    return Classifier(backbone, build_layer(head)), part_images(read_split()[0].test)


@pytest.mark.parametrize("kind", ["default", "encoder", "best_val"])
def test_stored_model_gives_the_predictions_of_the_table(trained, stage, kind):
    finetuned(stage, trained, **KINDS[kind])
    model, test = stored_model()
    logits = outputs(model, test, 10, "test", "off")
    table = read_predictions(Path("metrics/predictions/ipdpp.h5"), "finetune_ipdpp")
    assert np.array_equal(logits.argmax(axis=1), table.predicted)
    np.testing.assert_allclose(label_log_probability(logits, test.labels), table.label_log_probability, atol=1e-4)


def test_frozen_encoder_stays_and_a_free_one_moves_in_all_its_weights(trained, stage):
    before = load_checkpoint(Path("models/backbone.safetensors"), "train_backbone")[0]

    def moved() -> set[str]:
        after = load_checkpoint(Path("models/ipdpp.safetensors"), "finetune_ipdpp")[0]
        return {name for name in before if name.startswith("backbone.") and not torch.equal(before[name], after[name])}

    finetuned(stage, trained, freeze="encoder")
    assert moved() == set()
    finetuned(stage, trained)
    assert moved() == {name for name in before if name.startswith("backbone.")}
    finetuned(stage, trained, bn_mode="eval")
    assert not any("running" in name for name in moved()) and moved()


def test_control_is_uniform_of_the_same_size_and_does_not_know_the_kernel(trained, stage):
    first = finetuned(stage, trained)
    other = finetuned(stage, trained, scale="n2", p_source="head")
    assert first["metrics/predictions/ipdpp_uniform.h5"] == other["metrics/predictions/ipdpp_uniform.h5"]
    assert first["metrics/predictions/ipdpp.h5"] != other["metrics/predictions/ipdpp.h5"]
    stored = draws(trained)
    for selected, control in zip(stored.selected, stored.control, strict=True):
        assert np.array_equal(np.bincount(stored.label[selected]), np.bincount(stored.label[control]))
    assert not np.array_equal(stored.control[0], stored.control[1]), "redrawn each round"


@pytest.mark.parametrize("freeze", ["none", "encoder"])
def test_method_and_control_are_the_same_run_where_nothing_is_drawn(trained, stage, freeze):
    finetuned(stage, trained, k=1000, freeze=freeze)
    method, control = (
        read_predictions(Path(f"metrics/predictions/{name}.h5"), "x") for name in ("ipdpp", "ipdpp_uniform")
    )
    assert np.array_equal(method.label_log_probability, control.label_log_probability)
    curves = pd.read_csv("metrics/curves/finetune_ipdpp.tsv", sep="\t")
    losses = {name: list(rows["loss"]) for name, rows in curves.groupby("method")}
    assert losses["ipdpp"] == losses["ipdpp_uniform"]
    assert draws(trained).selected.all()


def test_released_draws_are_those_of_the_released_code_in_every_round(trained, stage):
    finetuned(stage, trained, **KINDS["released draws"])
    stored = draws(trained)
    assert np.array_equal(stored.selected[0], stored.selected[1])


def test_finetuning_lowers_the_loss(trained, stage):
    finetuned(stage, trained, epochs=15)
    curves = pd.read_csv("metrics/curves/finetune_ipdpp.tsv", sep="\t")
    for name, rows in curves.groupby("method"):
        assert rows["loss"].iloc[-5:].mean() < 0.5 * rows["loss"].iloc[0], name
        assert len(rows) == 15


def test_picture_is_a_png_of_all_classes(trained, stage):
    finetuned(stage, trained)
    with Image.open("metrics/ipdpp_images.png") as picture:
        assert picture.format == "PNG" and picture.size[0] > 400 and picture.size[1] > 400


def test_summary_selection_and_diagnostics_name_both_rows(tmp_path, pipeline, stage):
    pipeline()
    write_params(tmp_path, {"ipdpp": {"select": "best_val"}})
    stage("finetune_ipdpp")
    stage("evaluate")
    summary, selection, found = (
        json.loads(Path(f"metrics/{name}.json").read_text()) for name in ("summary", "selection", "ipdpp")
    )
    assert {"ipdpp", "ipdpp_uniform"} <= summary.keys()
    assert selection["ipdpp"]["selected_on"] == selection["ipdpp_uniform"]["selected_on"] == "val"
    assert selection["ipdpp"]["rounds"] == found["rounds"] == 2
    assert selection["ipdpp"]["images"] == found["images"] == 70
    assert 1 <= selection["ipdpp"]["epoch"] <= 4 and selection["ipdpp"]["scale"] == "n"
    assert 0 <= found["overlap_between_rounds"] <= 100
    for name in ("ipdpp_probability", "ipdpp_inclusion", "ipdpp_counts"):
        assert len(pd.read_csv(f"metrics/plots/{name}.csv")) > 10
    details = json.loads(Path("metrics/details.json").read_text())
    assert not details["ipdpp"].get("uncalibrated")


@pytest.mark.parametrize("freeze", ["none", "encoder"])
def test_image_files_are_finetuned(tmp_path, stage, freeze):
    root = tmp_path / "pictures"
    for label, count in enumerate((14, 6, 2)):
        for number in range(count):
            write_image(root / f"train/class{label}/{number}.png", label, number, (40, 36))
        for number in range(3):
            write_image(root / f"test/class{label}/{number}.png", label, 100 + number, (40, 36))
    augment = {} if freeze == "encoder" else {"augment": "simclr"}
    write_params(
        tmp_path,
        {"dataset": "image_folder", "data_root": str(root), "imb_type": "natural", "val_per_class": 0},
        {"image_size": 32, "storage": "paths", "train": {"batch_size": 8}},
        {"ipdpp": {"freeze": freeze, "k": "2*n_min", "batch_size": 4} | augment},
    )
    for name in (*BEFORE, "finetune_ipdpp"):
        stage(name)
    stored = draws(tmp_path)
    assert np.array_equal(stored.selected.sum(axis=1), [10, 10])
    assert len(read_predictions(Path("metrics/predictions/ipdpp.h5"), "x").label) == 9


def test_features_of_another_backbone_are_refused_by_finetuning(trained, stage):
    write_params(trained, {"train": {"epochs": 1}})
    stage("train_backbone")
    refused(ArtifactError, lambda: stage("finetune_ipdpp"), "backbone", "dvc repro -f extract_features")


def test_best_val_without_val_is_refused_by_the_first_stage(tmp_path, stage):
    write_params(tmp_path, {"val_per_class": 0, "ipdpp": {"select": "best_val"}})
    refused(ConfigError, lambda: stage("prepare"), "ipdpp.select", "val_per_class")


def test_policy_of_files_is_refused_by_name(trained, stage):
    write_params(trained, {"train": {"epochs": 10}, "ipdpp": {"augment": "resized_crop"}})
    refused(ConfigError, lambda: stage("finetune_ipdpp"), "ipdpp.augment", "resized_crop", "simclr")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "feature_kdpp", "ridge": 0.0, "k": 80}, ("class 0", "rank", "ridge")),
        (
            {"sampler": "uniform_official", "k": 5, "batch_size": 1},
            ("ipdpp", "batch_size must be at least 2, got 1", "bn_mode"),
        ),
    ],
)
def test_contradiction_in_ipdpp_is_refused_before_training(trained, stage, change, words):
    write_params(trained, {"train": {"epochs": 10}, "ipdpp": change})
    refused(ConfigError, lambda: stage("finetune_ipdpp"), *words)
    assert not list((trained / ".scratch").rglob("*.safetensors"))


def test_feature_kernel_of_huge_information_and_tiny_ridge_still_draws_k(trained, stage):
    finetuned(stage, trained, sampler="feature_kdpp", beta=100.0)
    finetuned(stage, trained, sampler="feature_kdpp", ridge=1e-300, k=100)
    assert draws(trained).selected.sum(axis=1).tolist() == [np.minimum(draws(trained).train_counts, 100).sum()] * 2


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_image_files_that_are_gone_are_named_before_training_also_with_a_frozen_encoder(tmp_path, stage, damage):
    root = tmp_path / "pictures"
    for label, count in enumerate((6, 3)):
        for number in range(count):
            write_image(root / f"train/class{label}/{number}.png", label, number, (40, 36))
        write_image(root / f"test/class{label}/0.png", label, 100, (40, 36))
    write_params(
        tmp_path,
        {"dataset": "image_folder", "data_root": str(root), "imb_type": "natural", "val_per_class": 0},
        {"image_size": 32, "storage": "paths", "train": {"batch_size": 4}, "ipdpp": {"freeze": "encoder"}},
    )
    for name in BEFORE:
        stage(name)
    for path in root.rglob("*.png"):
        path.unlink() if damage == "removed" else path.write_bytes(path.read_bytes() + b"0")
    refused(DataError, lambda: stage("finetune_ipdpp"), "class0", "data_root" if damage == "removed" else "changed")
    assert not list((tmp_path / ".scratch").rglob("*.safetensors"))
    assert not any((tmp_path / name).exists() for name in IPDPP_OUTPUTS)


def test_diverging_finetuning_ends_with_its_name_and_leaves_no_output(trained, stage):
    write_params(trained, {"train": {"epochs": 10}, "ipdpp": {"lr": 1e30, "optimizer": "sgd"}})
    refused(TrainingError, lambda: stage("finetune_ipdpp"), "ipdpp: loss or weights", "lr")
    assert not any((trained / name).exists() for name in IPDPP_OUTPUTS)


@pytest.mark.parametrize("freeze", ["none", "encoder"])
def test_finetuning_that_is_interrupted_again_and_again_gives_the_same_bytes(
    trained, stage, monkeypatch, capsys, freeze
):
    """Four epochs each of ipdpp (saves 1 to 4) and of its control (5 to 8), two a round."""
    whole = finetuned(stage, trained, freeze=freeze)
    for name in IPDPP_OUTPUTS:
        (trained / name).unlink()
    last = 0
    for save in (1, 3, 4, 6, 7, 8):
        with monkeypatch.context() as patch:
            interrupt_save(patch, save - last)
            with pytest.raises(KeyboardInterrupt):
                stage("finetune_ipdpp")
        if last:
            assert f"resuming after epoch {(last - 1) % 4 + 1}" in capsys.readouterr().out
        assert not any((trained / name).exists() for name in IPDPP_OUTPUTS)
        last = save
    assert finetune(stage, trained, freeze=freeze) == whole
    assert "resuming after epoch 4" in capsys.readouterr().out
    assert not list((trained / ".scratch/finetune_ipdpp").glob("*/*")), "scratch is cleared after success"


def test_damaged_checkpoint_of_one_run_names_the_stage_and_is_computed_anew(trained, stage, monkeypatch, capsys):
    whole = finetuned(stage, trained)
    with monkeypatch.context() as patch:
        interrupt_save(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            stage("finetune_ipdpp")
    (path,) = (trained / ".scratch/finetune_ipdpp").rglob("ipdpp.safetensors")
    path.write_bytes(path.read_bytes()[:-300])
    capsys.readouterr()
    assert finetune(stage, trained) == whole
    output = capsys.readouterr().out
    assert "starting over" in output and ".scratch/finetune_ipdpp/" in output
    assert output.count("resuming") == 1


def test_unfinished_finetuning_of_other_parameters_or_features_is_not_resumed(trained, stage, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_save(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            finetune(stage, trained)
    finetune(stage, trained, k="11*n_min")
    path = trained / "features/features_train.h5"
    ours = read_features(path)

    write_features(path, dataclasses.replace(ours, features=2 * ours.features))
    finetune(stage, trained)
    assert "resuming" not in capsys.readouterr().out


SHORT = {"epochs": 2, "reselect_every": 1}
IPDPP_KEYS = {
    "scale": "n2",
    "k": 5,
    "reselect_every": 2,
    "p_source": "model",
    "freeze": "encoder",
    "bn_mode": "eval",
    "augment": "none",
    "epochs": 1,
    "batch_size": 8,
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 0.5,
    "schedule": "constant",
    "warmup_epochs": 1,
    "select": "best_val",
    "precision": "bf16",
    "sampler": "feature_kdpp",
    "drop_last": True,
}


@pytest.mark.parametrize("key", IPDPP_KEYS)
def test_every_key_of_finetuning_reaches_the_predictions(trained, stage, key):
    tables = [f"metrics/predictions/{name}.h5" for name in ("ipdpp", "ipdpp_uniform")]
    base = {} if key == "select" else SHORT  # the best of two epochs is the last
    base = base | ({} if key in ("bn_mode", "augment", "freeze") else {"augment": "simclr_noflip"})
    first = finetuned(stage, trained, **base)
    changed = finetune(stage, trained, **base | {key: IPDPP_KEYS[key]})
    own_draw = key in ("scale", "p_source", "sampler")
    assert changed[tables[0]] != first[tables[0]]
    if key != "select":  # whose epoch may be the last in the control
        assert (changed[tables[1]] != first[tables[1]]) != own_draw


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({"augment": "simclr_noflip"}, {"jitter_strength": 2.0}),
        ({"optimizer": "sgd"}, {"momentum": 0.5}),
        ({"sampler": "feature_kdpp"}, {"beta": 3.0}),
        ({"sampler": "feature_kdpp", "beta": 3.0}, {"epsilon": 10.0}),
        ({"sampler": "feature_kdpp", "k": 100}, {"ridge": 100.0}),
    ],
    ids=str,
)
def test_keys_of_finetuning_that_need_another_key_reach_the_predictions(trained, stage, base, change):
    first = finetuned(stage, trained, **SHORT, **base)
    changed = finetuned(stage, trained, **SHORT, **base, **change)
    assert changed["metrics/predictions/ipdpp.h5"] != first["metrics/predictions/ipdpp.h5"]
