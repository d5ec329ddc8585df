"""The stage train_backbone, and its linear probe: every key matters, and bad input is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from longtail.artifacts.checkpoints import load_checkpoint
from longtail.core.errors import ArtifactError, ConfigError, DataError
from longtail.data.manifest import read_manifest
from longtail.methods.objectives.params import TrainParams
from longtail.models.factory import create_backbone
from longtail.models.stored import save_backbone
from longtail.train.network import train_network
from stages.data import read_split
from stages.paths import PREPARED
from tests.conftest import merged, write_params
from tests.pipeline.helpers import BEFORE, BNS, digests, interrupt_save, pretrained, refused, write_image


def test_another_seed_gives_another_backbone_on_the_same_split(tmp_path, pipeline, stage):
    pipeline("train_backbone")
    first = digests(tmp_path)
    write_params(tmp_path, {"seed": 1})
    stage("pretrain")
    stage("train_backbone")
    second = digests(tmp_path)
    assert {name for name in first if first[name] != second[name]} == {
        "models/pretrained.safetensors", "models/backbone.safetensors", "metrics/curves/train_backbone.tsv"
    }  # fmt: skip


def test_image_that_changed_after_prepare_is_named_by_later_stages(tmp_path, image_root, stage):
    write_params(
        tmp_path,
        {"dataset": "image_folder", "data_root": str(image_root), "imb_type": "natural", "storage": "paths"},
        {"image_size": 16, "train": {"batch_size": 8}, "runtime": {"workers": 2}, "val_per_class": 0},
    )
    for name in ("prepare", "subsample", "pretrain"):
        stage(name)
    write_image(image_root / "train/class 0/005.jpg", 3, 9, (50, 50))
    refused(DataError, lambda: stage("train_backbone"), "class 0/005.jpg", "dvc repro -f prepare")
    (image_root / "train/class 0/005.jpg").unlink()
    refused(DataError, lambda: stage("train_backbone"), "class 0/005.jpg")


def test_best_val_without_val_is_refused_before_training(tmp_path, stage):
    write_params(tmp_path, {"val_per_class": 0, "train": {"select": "best_val"}})
    refused(ConfigError, lambda: stage("prepare"), "train.select", "val_per_class")


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_best_val_without_images_in_a_val_folder_is_refused_before_any_work(image_root, stage, tmp_path, folder):
    own = {"dataset": "image_folder", "data_root": str(image_root), "imb_type": "natural", "val_per_class": 0}
    write_params(tmp_path, own | {"train": {"select": "best_val"}})
    if folder == "empty":
        (image_root / "val").mkdir()
    refused(ConfigError, lambda: stage("prepare"), "train.select", "val_per_class")


def test_a_gpu_that_is_not_there_is_refused(tmp_path, stage):
    for name in ("prepare", "subsample", "pretrain"):
        stage(name)
    write_params(tmp_path, {"runtime": {"device": "cuda:31"}})
    refused(ConfigError, lambda: stage("train_backbone"), "runtime.device", "cuda:31")


def test_unfinished_work_on_other_pixels_is_not_resumed(tmp_path, stage, monkeypatch, capsys):
    """image_size changes neither the manifest nor the split, but it changes what is trained on."""
    for name in ("prepare", "subsample", "pretrain"):
        stage(name)
    with monkeypatch.context() as patch:
        interrupt_save(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            stage("train_backbone")
    write_params(tmp_path, {"image_size": 12})
    stage("prepare")
    stage("train_backbone")
    assert "resuming" not in capsys.readouterr().out
    write_params(tmp_path)
    stage("prepare")
    stage("train_backbone")
    assert "resuming after epoch 1" in capsys.readouterr().out


def test_initial_weights_of_another_backbone_are_refused(tmp_path, stage):
    for name in ("prepare", "subsample", "pretrain"):
        stage(name)
    write_params(tmp_path, {"train": {"backbone": "resnet20"}})
    refused(ArtifactError, lambda: stage("train_backbone"), "resnet8", "resnet20", "pretrain")


OBJECTIVE_CHANGES = {
    "focal": {"objective": "focal"},
    "class_balanced": {"objective": "class_balanced"},
    "ldam": {"objective": "ldam"},
    "balanced_softmax": {"objective": "balanced_softmax"},
    "logit_adjustment": {"objective": "logit_adjustment", "logit_adjustment": {"adjustment": 0.5}},
    "focal_gamma": {"objective": "focal", "focal": {"gamma": 3.0}},
    "focal_released": {"objective": "focal", "focal": {"released": True}, "rule": "reweight"},
    "focal_weighted": {"objective": "focal", "rule": "reweight"},
    "margin": {"objective": "ldam", "ldam": {"margin": 0.1}},
    "scale": {"objective": "ldam", "scale": 10.0},
    "resample": {"rule": "resample"},
    "reweight": {"rule": "reweight"},
    "beta": {"rule": "reweight", "beta": 0.9},
    "drw": {"rule": "drw"},
    "drw_epoch": {"rule": "drw", "drw_epoch": 1},
    "cosine": {"head": "cosine"},
    "plain": {},
}


def test_every_objective_rule_and_key_trains_a_backbone_of_its_own(tmp_path, stage):
    """class_balanced is cross-entropy with reweight; all others differ."""
    weights = {}
    for name, change in OBJECTIVE_CHANGES.items():
        write_params(tmp_path, {"train": {"epochs": 3, "schedule": "constant", "width": 4} | change})
        for before in ("prepare", "subsample", "pretrain") if not weights else ():
            stage(before)
        stage("train_backbone")
        tensors, meta, _ = load_checkpoint(Path("models/backbone.safetensors"), "train_backbone")
        weights[name] = tensors["head.weight"].numpy().tobytes()
        assert meta["head_kind"] == ("cosine" if name in ("ldam", "margin", "scale", "cosine") else "linear")
    assert weights.pop("class_balanced") == weights["reweight"]
    assert len(set(weights.values())) == len(weights)


TWO_VIEW_CHANGES = {
    "paco": {
        "temperature": 0.5, "alpha": 0.5, "beta": 3.0, "gamma": 0.1, "queue": 10, "dim": 5, "momentum": 0.1,
    },
    "fsgl": {
        "gamma": 0.0, "fsm_variant": "uniform", "label_exponent": 0.2, "resample_exponent": 1.0,
        "consistency_weight": 1.0, "rho": 0.0, "freeze_bn_second": True, "cutmix_area_label": True,
        "masked_bce_weight": 0.5,
    },
}  # fmt: skip
OTHER_CHANGES = (
    {},
    {"mix": "mixup"},
    {"mix": "mixup", "mix_alpha": 0.2},
    {"mix": "cutmix"},
    {"augment": "cutout"},
    {"augment": "autoaugment"},
    {"augment": "randaugment"},
    {"augment": "moco"},
    {"augment": "moco", "jitter_strength": 2.0},
    {"augment": "sim"},
    {"objective": "paco", "second_augment": "crop"},
    {"objective": "paco", "second_augment": "sim"},
    {"objective": "fsgl", "second_augment": "simclr"},
)


def test_every_key_of_the_two_view_objectives_and_of_mixing_reaches_the_backbone(tmp_path, stage):
    changes: list[dict] = [*OTHER_CHANGES]
    for name, keys in TWO_VIEW_CHANGES.items():
        changes += [{"objective": name}, *({"objective": name, name: {key: value}} for key, value in keys.items())]
    found = {}
    for change in changes:
        small = {"epochs": 2, "schedule": "constant", "width": 2, "batch_size": 64}
        write_params(tmp_path, {"train": small | change}, {"val_per_class": 30, "imb_factor": 30})
        for before in ("prepare", "subsample", "pretrain") if not found else ():
            stage(before)
        stage("train_backbone")
        tensors, _, _ = load_checkpoint(Path("models/backbone.safetensors"), "train_backbone")
        content = b"".join(tensor.numpy().tobytes() for name, tensor in sorted(tensors.items()))
        assert content not in found, f"{change} gives what {found[content]} gives"
        found[content] = change


STEP_KEYS = {"milestones": [1], "gamma": 0.5}
TRAIN_KEYS = {"optimizer": "adamw", "drop_last": False, "augment": "simclr_noflip", "schedule": "cosine_per_step"}


@pytest.mark.parametrize("key", STEP_KEYS)
@pytest.mark.parametrize("group", ["pretrain", "train", "ipdpp"])
def test_drops_of_the_rate_reach_every_training(trained, stage, group, key):
    """Three epochs: the milestones by default are the second, and the last finds the rate a hundredth of the first."""
    curve = {"pretrain": "pretrain", "train": "train_backbone", "ipdpp": "finetune_ipdpp"}[group]
    step = {"schedule": "step", "epochs": 3, "warmup_epochs": 0, "lr": 1e-3}
    rates = []
    for change in ({}, {key: STEP_KEYS[key]}):
        write_params(
            trained, {"pretrain": {"method": "rotation"}} if group == "pretrain" else {}, {group: step | change}
        )
        stage(curve)
        rates.append(pd.read_csv(f"metrics/curves/{curve}.tsv", sep="\t")["lr"].tolist()[:3])
    plain, changed = (np.array(lr) / 1e-3 for lr in rates)
    assert plain == pytest.approx([1, 1, 1e-4], rel=1e-6)
    assert changed == pytest.approx([1, 0.01, 0.01] if key == "milestones" else [1, 1, 0.25], rel=1e-6)


@pytest.mark.parametrize("key", TRAIN_KEYS)
def test_new_keys_of_training_reach_the_backbone(tmp_path, stage, key):
    found = []
    for change in ({}, {key: TRAIN_KEYS[key]}):
        write_params(tmp_path, {"train": {"epochs": 2} | change})
        for name in BEFORE[:4]:
            stage(name)
        found.append(load_checkpoint(Path("models/backbone.safetensors"), "train_backbone")[0])
    assert any(not torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_strength_of_the_jitter_matters_to_simclr_and_is_refused_elsewhere(tmp_path, stage):
    found = []
    for strength in (1.0, 2.0):
        write_params(tmp_path, {"train": {"epochs": 2, "augment": "simclr_noflip", "jitter_strength": strength}})
        for name in BEFORE[:4]:
            stage(name)
        found.append(Path("models/backbone.safetensors").read_bytes())
    assert found[0] != found[1]
    write_params(tmp_path, {"train": {"epochs": 2, "augment": "crop", "jitter_strength": 2.0}})
    refused(ConfigError, lambda: stage("train_backbone"), "train.jitter_strength", "train.augment")


def test_probe_sees_plain_images_and_every_one_of_them_by_default(tmp_path, stage):
    pretrained(stage, tmp_path, {"train": {"trainable": "head", "epochs": 30, "batch_size": 64}})
    stage("train_backbone")
    assert load_checkpoint(Path("models/backbone.safetensors"), "train_backbone")[1]["transform"]["policy"] == "none"
    dropping = Path("models/backbone.safetensors").read_bytes()
    write_params(tmp_path, BNS, {"train": {"trainable": "head", "epochs": 30, "batch_size": 64, "drop_last": True}})
    stage("train_backbone")
    assert Path("models/backbone.safetensors").read_bytes() != dropping


def test_pretrained_weights_of_another_split_or_other_channels_are_refused(tmp_path, stage):
    pretrained(stage, tmp_path)
    write_params(tmp_path, BNS, {"split_seed": 7})
    stage("subsample")
    refused(ArtifactError, lambda: stage("train_backbone"), "models/pretrained.safetensors", "dvc repro -f pretrain")
    write_params(tmp_path, {"split_seed": 7})
    stage("pretrain")
    meta = load_checkpoint(Path("models/pretrained.safetensors"), "pretrain")[1]
    backbone = create_backbone("resnet8", in_channels=3)
    save_backbone(Path("models/pretrained.safetensors"), backbone, meta | {"channels": 3})
    refused(ArtifactError, lambda: stage("train_backbone"), "models/pretrained.safetensors", "dvc repro -f pretrain")


def test_linear_probe_leaves_the_pretrained_backbone_as_it_is_with_its_statistics(tmp_path, stage, capsys):
    pretrained(stage, tmp_path, {"train": {"trainable": "head"}})
    stage("train_backbone")
    assert "train.per_class: at most 10 images per class, 70 of 304 images" in capsys.readouterr().out
    before = load_checkpoint(Path("models/pretrained.safetensors"), "pretrain")[0]
    after = load_checkpoint(Path("models/backbone.safetensors"), "train_backbone")[0]
    assert all(torch.equal(before[name], after[name]) for name in before)
    write_params(tmp_path, BNS, {"train": {"trainable": "head", "bn_mode": "train"}})
    stage("train_backbone")
    drifted = load_checkpoint(Path("models/backbone.safetensors"), "train_backbone")[0]
    moved = {name for name in before if not torch.equal(before[name], drifted[name])}
    assert moved == {name for name in before if "running" in name or "num_batches" in name}


@pytest.mark.parametrize(
    ("train", "used"),
    [
        ({}, 304),
        ({"trainable": "head"}, 70),
        ({"trainable": "head", "per_class": "all"}, 304),
        ({"per_class": 3}, 27),
        ({"per_class": 1000}, 304),
    ],
    ids=str,
)
def test_per_class_trains_on_a_balanced_subset(tmp_path, stage, monkeypatch, train, used):
    seen = []
    from stages import train_backbone

    def spy(model, objective, images, *rest):
        seen.append(images.labels)
        return train_network(model, objective, images, *rest)

    monkeypatch.setattr(train_backbone, "train_network", spy)
    write_params(tmp_path, {"train": merged({"epochs": 1, "batch_size": 16}, train)})
    for name in BEFORE[:4]:
        stage(name)
    counts = np.bincount(read_manifest(PREPARED).labels[read_split()[0].train])
    size = train.get("per_class", 10 if train.get("trainable") else "all")
    expected = counts if size == "all" else np.minimum(counts, size)
    assert np.array_equal(np.bincount(seen[0]), expected) and len(seen[0]) == used


@pytest.mark.parametrize(
    ("counts", "size", "total"),
    [
        ([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50], 100, 933),
        ([int(500 * 0.01 ** (c / 99)) for c in range(100)], 50, 3446),
    ],
)
def test_probe_is_trained_on_the_published_number_of_images(counts, size, total):
    from stages.train_backbone import draw_subset

    labels = np.repeat(np.arange(len(counts)), counts)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    config = TrainParams(trainable="head", per_class=size)
    chosen = draw_subset(shuffled, labels, config, seed=0)
    assert len(chosen) == len(set(chosen)) == total
    assert np.array_equal(np.bincount(labels[chosen]), np.minimum(counts, size))
    assert not np.array_equal(chosen, draw_subset(shuffled, labels, config, seed=1))
