"""The stage pretrain: byte-stable, resumable, and every key matters."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from longtail.artifacts.checkpoints import load_checkpoint
from longtail.artifacts.predictions import read_predictions
from longtail.core.errors import TrainingError
from longtail.methods.pretraining import METHODS
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.models.stored import load_backbone
from longtail.train.batches import Batch
from longtail.train.objective import Position, TaskInfo
from tests.conftest import write_params
from tests.pipeline.helpers import BEFORE, interrupt_save, known, pretrained, refused, write_image


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_pretraining_writes_the_same_bytes_twice_and_exports_the_backbone_alone(tmp_path, stage, variant):
    change = {"pretrain": {"bns": {"variant": variant}}}
    first = pretrained(stage, tmp_path, change)
    assert pretrained(stage, tmp_path, change) == first
    tensors, meta, _ = load_checkpoint(Path("models/pretrained.safetensors"), "pretrain")
    assert all(name.startswith("backbone.") for name in tensors)
    assert meta["pretrain"] == "bns"
    table = pd.read_csv("metrics/curves/pretrain.tsv", sep="\t")
    assert list(table["epoch"]) == [1, 2, 3] and {"loss", "positive_similarity"} <= set(table.columns)


def seeded_weights(stage, folder):
    write_params(folder)
    for name in ("prepare", "subsample", "pretrain"):
        stage(name)


def test_pretraining_starts_from_the_seeded_weights_and_moves_them(tmp_path, stage):
    seeded_weights(stage, tmp_path)
    seeded = load_checkpoint(Path("models/pretrained.safetensors"), "pretrain")[0]
    assert Path("metrics/curves/pretrain.tsv").read_text().split() == ["epoch", "lr", "loss"]
    pretrained(stage, tmp_path, {"pretrain": {"lr": 1e-12, "weight_decay": 0.0}})
    still = load_checkpoint(Path("models/pretrained.safetensors"), "pretrain")[0]
    weights = [name for name in seeded if name.endswith("weight")]
    assert all(torch.allclose(seeded[name], still[name], atol=1e-6) for name in weights)
    pretrained(stage, tmp_path)
    moved = load_checkpoint(Path("models/pretrained.safetensors"), "pretrain")[0]
    assert not any(torch.allclose(seeded[name], moved[name], atol=1e-4) for name in weights)


@pytest.mark.parametrize("change", [{"seed": 1}, {"normalize": "none"}], ids=str)
def test_every_choice_beside_the_keys_of_pretraining_reaches_the_weights(tmp_path, stage, change):
    first = pretrained(stage, tmp_path)["models/pretrained.safetensors"]
    assert pretrained(stage, tmp_path, change)["models/pretrained.safetensors"] != first


SMALL = {"train": {"width": 4}}
PRETRAIN_KEYS = {
    "optimizer": "sgd",
    "weight_decay": 0.5,
    "warmup_epochs": 2,
    "schedule": "constant",
    "lr": 0.02,
    "batch_size": 64,
    "epochs": 2,
    "precision": "bf16",
    "augment": "crop",
    "jitter_strength": 0.5,
    "fixed_order": True,
    "drop_last": False,
}
METHOD_KEYS = {
    "bns": {
        "variant": "paper",
        "temperature": 0.7,
        "projector_hidden": 8,
        "projector_dim": 4,
        "extra_positives": 3,
        "negatives": 9,
    },
    "moco": {"temperature": 0.5, "queue": 10, "dim": 5, "momentum": 0.5, "splits": 2},
    "simsiam": {
        "dim": 5,
        "projector_layers": 3,
        "projector_hidden": 7,
        "predictor_hidden": 3,
        "predictor_lr": "scheduled",
    },
}
SELF_SUPERVISED = [name for name in METHODS.names() if name != "bns"]


@pytest.mark.parametrize("key", PRETRAIN_KEYS)
def test_every_key_of_pretraining_reaches_the_weights(tmp_path, stage, key):
    first = known("pretrain", lambda: pretrained(stage, tmp_path, SMALL))["models/pretrained.safetensors"]
    changed = pretrained(stage, tmp_path, SMALL, {"pretrain": {key: PRETRAIN_KEYS[key]}})
    assert changed["models/pretrained.safetensors"] != first


@pytest.mark.parametrize(("method", "key"), [(method, key) for method, keys in METHOD_KEYS.items() for key in keys])
def test_every_key_of_a_method_of_pretraining_reaches_the_weights(tmp_path, stage, method, key):
    of_method = {"variant": "paper"} if key in ("extra_positives", "negatives") else {}
    base = SMALL | {"pretrain": {"method": method, method: of_method}}
    first = known(f"pretrain {base}", lambda: pretrained(stage, tmp_path, base))["models/pretrained.safetensors"]
    changed = pretrained(stage, tmp_path, base, {"pretrain": {method: {key: METHOD_KEYS[method][key]}}})
    assert changed["models/pretrained.safetensors"] != first


@pytest.mark.parametrize("method", SELF_SUPERVISED)
def test_self_supervised_pretraining_moves_every_tensor_of_the_backbone_and_knows_no_label(tmp_path, stage, method):
    """Weights and batch-norm buffers are other ones, the file holds nothing but the backbone, and the head that follows
    starts as it does without pretraining."""
    change = {"pretrain": {"method": method}}
    seeded_weights(stage, tmp_path)
    seeded = load_checkpoint(Path("models/pretrained.safetensors"), "pretrain")[0]
    first = pretrained(stage, tmp_path, change)
    moved, meta, _ = load_checkpoint(Path("models/pretrained.safetensors"), "pretrain")
    assert moved.keys() == seeded.keys() and meta["pretrain"] == method
    assert not [name for name in moved if torch.equal(moved[name], seeded[name])]
    assert pretrained(stage, tmp_path, change) == first
    heads = {}
    for chosen in ("none", method):
        still = {"lr": 1e-30, "weight_decay": 0.0, "epochs": 1}
        epochs = {} if chosen == "none" else {"epochs": 1}
        write_params(tmp_path, {"pretrain": {"method": chosen, **epochs}, "train": still})
        for name in ("pretrain", "train_backbone"):
            stage(name)
        _, heads[chosen], _, _ = load_backbone(Path("models/backbone.safetensors"), "train_backbone")
    for name in ("weight", "bias"):
        np.testing.assert_array_equal(getattr(heads["none"], name), getattr(heads[method], name))


def test_labels_of_the_images_do_not_matter_to_self_supervised_pretraining(tmp_path, stage):
    labels = torch.arange(12) % 3
    images = torch.rand(2, 12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {}
    for name in SELF_SUPERVISED:
        kind = METHODS.get(name).load()
        for order in (labels, labels.flip(0)):
            torch.manual_seed(0)
            objective = kind(TaskInfo(3, np.array([4, 4, 4]), 16, 2, 0))
            model = Classifier(create_backbone("resnet8", in_channels=3, width=4), objective.create_head())
            objective.attach(model)
            batch = Batch(tuple(images[: kind.views]), order, torch.arange(12))
            found.setdefault(name, []).append(objective.loss(model, batch, Position(0, 2, 0, 1))[0].item())
    assert all(one == other for one, other in found.values())


@pytest.mark.parametrize(
    "train",
    [{"trainable": "head", "rule": "reweight"}, {"frozen": True, "epochs": 60, "batch_size": 64}],
    ids=["linear probe", "frozen"],
)
def test_classifier_on_simsiam_leaves_its_backbone_as_it_is(tmp_path, stage, train):
    """Weights and batch-norm statistics. The released script of "Essence of long-tailed recognition" trains so."""
    simsiam = {"pretrain": {"method": "simsiam"}}
    pretrained(stage, tmp_path, simsiam)
    write_params(tmp_path, simsiam, {"train": train})
    for name in BEFORE[3:]:
        stage(name)
    stage("rebalance", "joint")
    start, _, _ = load_checkpoint(Path("models/pretrained.safetensors"), "pretrain")
    backbone, _, _, _ = load_backbone(Path("models/backbone.safetensors"), "train_backbone")
    assert {f"backbone.{name}" for name in backbone.state_dict()} == start.keys()
    assert all(torch.equal(tensor, start[f"backbone.{name}"]) for name, tensor in backbone.state_dict().items())
    probabilities = read_predictions(Path("metrics/predictions/joint.h5"), "rebalance@joint").label_log_probability
    assert np.isfinite(probabilities).all()


def test_momentum_of_pretraining_counts_with_sgd(tmp_path, stage):
    sgd = {"pretrain": {"optimizer": "sgd"}}
    first = pretrained(stage, tmp_path, sgd)["models/pretrained.safetensors"]
    assert pretrained(stage, tmp_path, sgd, {"pretrain": {"momentum": 0.5}})["models/pretrained.safetensors"] != first


def test_interrupted_pretraining_goes_on_and_gives_the_same_bytes(tmp_path, stage, monkeypatch, capsys):
    whole = pretrained(stage, tmp_path)
    with monkeypatch.context() as patch:
        interrupt_save(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            stage("pretrain")
    capsys.readouterr()
    assert pretrained(stage, tmp_path) == whole
    assert "resuming after epoch 2" in capsys.readouterr().out


def test_pretraining_on_image_files(tmp_path, stage):
    root = tmp_path / "pictures"
    for label, count in enumerate((8, 4)):
        for number in range(count):
            write_image(root / f"train/class{label}/{number}.png", label, number, (40, 36))
        write_image(root / f"test/class{label}/0.png", label, 100, (40, 36))
    base = {"dataset": "image_folder", "data_root": str(root), "imb_type": "natural", "val_per_class": 0}
    change = {**base, "image_size": 32, "storage": "paths", "pretrain": {"batch_size": 4, "epochs": 1}}
    first = pretrained(stage, tmp_path, change)
    assert pretrained(stage, tmp_path, change) == first


def test_diverging_pretraining_ends_with_its_name_and_leaves_no_output(tmp_path, stage):
    diverging = {"pretrain": {"lr": 1e30, "optimizer": "sgd", "weight_decay": 1.0}}
    refused(TrainingError, lambda: pretrained(stage, tmp_path, diverging), "pretrain (bns)", "lr")
    assert not Path("models/pretrained.safetensors").exists()
