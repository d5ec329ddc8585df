"""Frozen backbones: one pass over the images, the base head, and what is trained if only a part is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from longtail.artifacts.features import read_features
from longtail.artifacts.head_files import read_head
from longtail.artifacts.tables import read_json
from longtail.core.errors import ConfigError
from longtail.core.head import StandardizedHead
from longtail.methods.heads import Joint, SoftmaxRegression
from longtail.models.stored import load_backbone
from longtail.train.extract import FeatureExtractor
from stages import recipe
from tests.conftest import HEAD_NAMES, write_params
from tests.imports import ROOT
from tests.pipeline.helpers import BEFORE, refused
from tests.pipeline.test_pretrained_weights import given, write_weights

UNTRAINED = {"train": {"epochs": 60, "batch_size": 64}}  # their defaults
FROZEN = {"train": UNTRAINED["train"] | {"frozen": True}}
BACKBONE = Path("models/backbone.safetensors")


def up_to_features(stage):
    for name in BEFORE:
        stage(name)


def test_frozen_backbone_sees_every_image_once_and_gets_the_base_head(tmp_path, stage, monkeypatch, capsys):
    state = write_weights(tmp_path / "a.pth")
    write_params(tmp_path, given(tmp_path / "a.pth"), FROZEN)
    seen = []

    def count(extractor, images, *rest, original=FeatureExtractor.features):
        seen.append(len(images.labels))
        return original(extractor, images, *rest)

    monkeypatch.setattr(FeatureExtractor, "features", count)
    up_to_features(stage)
    parts = {part: read_features(f"features/features_{part}.h5") for part in ("train", "val", "test")}
    assert seen == [len(part.labels) for part in parts.values()]
    backbone, head, meta, _ = load_backbone(BACKBONE, "train_backbone")
    assert head is None and meta["frozen"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state_dict().items())
    stored = read_head("features/head.h5", "extract_features")
    assert isinstance(stored.head, StandardizedHead) and stored.notes == {"selected_on": "val"}
    expected = SoftmaxRegression().fit(
        parts["train"].features, parts["train"].labels, parts["val"].features, parts["val"].labels
    )
    np.testing.assert_array_equal(stored.head.weight, expected.head_.weight)
    assert "fitting the base head on" in capsys.readouterr().out


def test_all_heads_and_methods_run_on_a_frozen_backbone(tmp_path, pipeline):
    write_weights(tmp_path / "a.pth")
    write_params(tmp_path, given(tmp_path / "a.pth"), FROZEN, {"joint": {"prior": "uniform"}})
    pipeline()
    summary = read_json(Path("metrics/summary.json"), made_by="evaluate")
    assert {"joint", "tau", "crt", "lws", "dlsa", "ipdpp"} <= set(summary)
    assert summary["joint"] == summary["logit_adjustment"]  # of one base head
    assert read_json(Path("metrics/selection.json"), made_by="evaluate")["joint"]["prior"] == "uniform"


def test_views_are_stored_and_the_base_head_is_fitted_on_them_too(tmp_path, stage):
    write_params(tmp_path, FROZEN)
    up_to_features(stage)
    plain, head = read_features("features/features_train.h5"), read_head("features/head.h5", "extract_features")
    write_params(tmp_path, FROZEN, {"train": {"views": 2}})
    stage("train_backbone")
    stage("extract_features")
    train = read_features("features/features_train.h5")
    np.testing.assert_array_equal(train.features, plain.features)
    assert train.views.shape == (2, *plain.features.shape)
    assert not np.allclose(train.views[0], train.views[1]) and not np.allclose(train.views[0], plain.features)
    stored = read_head("features/head.h5", "extract_features")
    assert stored.notes == {"selected_on": "val", "views": 2}
    assert stored.head.l2 == head.head.l2 and not np.array_equal(stored.head.weight, head.head.weight)
    rows, labels = train.with_views()
    assert rows.shape == (3 * len(plain.labels), plain.features.shape[1])
    np.testing.assert_array_equal(stored.head.weight, Joint(l2=head.head.l2).fit(rows, labels).head_.weight)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"frozen": True, "epochs": 5},
            "train.epochs must be 60, its default, since it has no effect with train.frozen",
        ),
        ({"frozen": True, "trainable": "norm"}, "train.trainable must be all, its default"),
        ({"frozen": True, "lr": 0.5}, "train.lr must be 0.1, its default"),
        ({"views": 2}, "train.views must be 0, its default"),
        ({"trainable": "head", "backbone_lr_factor": 0.1}, "train.backbone_lr_factor must be 1, its default"),
    ],
)
def test_keys_without_effect_are_refused(tmp_path, stage, train, message):
    write_params(tmp_path, UNTRAINED, {"train": train})
    refused(ConfigError, lambda: stage("prepare"), message)


def test_joint_keys_are_refused_with_a_trained_head(tmp_path, stage):
    write_params(tmp_path, {"joint": {"prior": "uniform"}})
    refused(ConfigError, lambda: stage("prepare"), "joint.prior must be train, its default", "train.frozen: false")


@pytest.mark.parametrize("trainable", ["head", "last_stage", "norm", "bias"])
def test_only_the_chosen_weights_move(tmp_path, stage, trainable):
    state = write_weights(tmp_path / "a.pth")
    write_params(tmp_path, given(tmp_path / "a.pth"), {"train": {"trainable": trainable}})
    for name in BEFORE[:4]:
        stage(name)
    backbone = load_backbone(BACKBONE, "train_backbone")[0]
    moved = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, state[name])}
    parameters = {name for name, _ in backbone.named_parameters()}
    chosen = {
        "head": set(),
        "last_stage": {name for name in parameters if name.startswith("stages.2.")},
        "norm": {name for name in parameters if "bn" in name},
        "bias": {name for name in parameters if name.endswith("bias")},
    }
    assert moved == chosen[trainable]


def test_backbone_trains_at_its_own_rate(tmp_path, stage):
    state = write_weights(tmp_path / "a.pth")
    write_params(tmp_path, given(tmp_path / "a.pth"), {"train": {"backbone_lr_factor": 1e-30, "bn_mode": "eval"}})
    for name in BEFORE[:4]:
        stage(name)
    backbone, head, _, _ = load_backbone(BACKBONE, "train_backbone")
    assert all(
        torch.allclose(tensor, state[name], rtol=0, atol=1e-12) for name, tensor in backbone.state_dict().items()
    )
    assert head is not None and np.abs(head.weight).max() > 0.2


def test_recipe_for_own_images_gives_the_whole_table(tmp_path, image_root, pipeline, capsys):
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "a.pth")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    further = {
        "data_root": str(image_root),
        "image_size": 32,
        "pretrain": {"weights": str(tmp_path / "a.pth")},
        "train": {"backbone": "test_resnet"},
        "runtime": {"progress": "off", "workers": 0},
    }
    recipe.apply("own_images_pretrained", tmp_path / "params.yaml", further=further)
    pipeline()
    output = capsys.readouterr().out
    assert "left out: dlsa.enabled: false" in output and "left out: ipdpp.enabled: false" in output
    summary = read_json(Path("metrics/summary.json"), made_by="evaluate")
    assert set(summary) == set(HEAD_NAMES)
    train, val = (read_features(f"features/features_{part}.h5") for part in ("train", "val"))
    assert (len(train.labels), len(val.labels)) == (44, 0)  # natural counts, nothing held out for good
    selection = read_json(Path("metrics/selection.json"), made_by="evaluate")
    assert selection["joint"]["selected_on"] == "train_slice"
    assert selection["crt"]["selected_on"] == "train_slice"
