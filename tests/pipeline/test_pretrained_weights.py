"""``pretrain.method: weights`` through the stages: what later stages get of it, and what runs again."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from longtail.artifacts.checkpoints import load_checkpoint
from longtail.artifacts.features import read_features
from longtail.artifacts.predictions import read_predictions
from longtail.artifacts.tables import read_json
from longtail.augment.transforms import Transform, normalizer, path_transform
from longtail.core.errors import ConfigError
from longtail.core.head import LinearHead
from longtail.models.factory import create_backbone
from longtail.models.stored import load_backbone
from stages.check import entry_modules, fingerprint
from stages.fingerprints import Sources
from tests.conftest import write_params
from tests.pipeline.conftest import copy_code, stages_run
from tests.pipeline.helpers import digests, read_metrics, refused

BACKBONE = Path("models/backbone.safetensors")
HEADS = ("joint", "softmax_regression")  # of the repository that dvc reproduces up to the backbone


def write_weights(path: Path, seed: int = 0, classes: int = 10, cosine: bool = False) -> dict[str, torch.Tensor]:
    """A checkpoint of resnet8 with the names of released code; the state and the classifier that it holds."""
    torch.manual_seed(seed)
    state = dict(create_backbone("resnet8", in_channels=1).state_dict())
    head = {"weight": torch.randn(64, classes)} if cosine else {"weight": torch.randn(classes, 64)}
    head |= {} if cosine else {"bias": torch.randn(classes)}
    named = {re.sub(r"^stages\.(\d)", lambda one: f"layer{int(one[1]) + 1}", name): t for name, t in state.items()}
    weights = {
        f"module.{name}": tensor for name, tensor in (named | {f"linear.{n}": t for n, t in head.items()}).items()
    }
    torch.save({"state_dict": weights, "epoch": np.int64(3), "optimizer": {"state": {}}}, path)
    return state | {f"head.{name}": tensor for name, tensor in head.items()}


def given(path: Path | str, **pretrain: Any) -> dict:
    return {"pretrain": {"method": "weights", "weights": str(path), **pretrain}}


def run(stage, *names: str) -> None:
    for name in names or ("prepare", "subsample", "pretrain", "train_backbone", "extract_features"):
        stage(name)


def test_weights_of_a_file_reach_the_metrics_and_their_origin_the_table(tmp_path, pipeline, stage, capsys):
    state = write_weights(tmp_path / "released.pth.tar")
    write_params(tmp_path, given(tmp_path / "released.pth.tar"))
    pipeline()
    text = capsys.readouterr().out
    assert f"weights of released.pth.tar: {len(state) - 2} tensors loaded" in text
    assert "left out, classifier: 2 (module.linear.weight, module.linear.bias)" in text
    tensors, meta, _ = load_checkpoint(Path("models/pretrained.safetensors"), "pretrain")
    assert all(torch.equal(tensors[f"backbone.{n}"], t) for n, t in state.items() if not n.startswith("head."))
    assert meta["input"] is None and meta["weights"]["source"] == "released.pth.tar"
    assert load_checkpoint(BACKBONE, "train_backbone")[1]["weights"] == meta["weights"]
    origin = "unknown (given file released.pth.tar)"
    size = read_metrics("selection")["backbone"]
    assert {name: size[name] for name in ("weights", "trained_on", "license")} == {
        "weights": "released.pth.tar",
        "trained_on": origin,
        "license": origin,
    }
    assert f"pretrained weights: released.pth.tar; trained on {origin}; license {origin}" in text
    stage("table")
    assert f"trained on {origin}" in capsys.readouterr().out


def test_stages_write_the_same_bytes_twice_wherever_the_file_lies(tmp_path, stage):
    found = []
    for folder in (tmp_path / "one", tmp_path / "another place"):
        folder.mkdir()
        write_weights(folder / "a.pth")
        write_params(tmp_path, given(folder / "a.pth", head="file"))
        run(stage)
        found.append(digests(tmp_path))
    assert found[0] == found[1]


def test_head_of_a_file_is_the_head_that_training_starts_from(tmp_path, stage):
    state = write_weights(tmp_path / "a.pth")
    still = {"train": {"lr": 1e-30, "weight_decay": 0.0, "epochs": 1, "bn_mode": "eval"}}
    write_params(tmp_path, given(tmp_path / "a.pth", head="file"), still)
    run(stage, "prepare", "subsample", "pretrain", "train_backbone")
    _, head, _, _ = load_backbone(BACKBONE, "train_backbone")
    assert isinstance(head, LinearHead)
    np.testing.assert_array_equal(head.weight, state["head.weight"])
    np.testing.assert_array_equal(head.bias, state["head.bias"])
    write_params(tmp_path, given(tmp_path / "a.pth", head="file"), still, {"train": {"head": "cosine"}})
    refused(ConfigError, lambda: stage("train_backbone"), "pretrain.head must be none", "train.head: cosine")
    write_weights(tmp_path / "a.pth", classes=7)
    refused(ConfigError, lambda: stage("pretrain"), "pretrain.head must be none", "(7, 64)", "(10, 64)")


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_released_model_is_evaluated_without_training(tmp_path, stage, capsys, kind):
    state = write_weights(tmp_path / "a.pth", cosine=kind == "cosine")
    write_params(
        tmp_path, given(tmp_path / "a.pth", head="file"), {"train": {"frozen": True, "epochs": 60, "batch_size": 64}}
    )
    run(stage)
    stage("rebalance", "joint")
    assert "nothing is trained; the head of a.pth is kept" in capsys.readouterr().out
    backbone, head, meta, _ = load_backbone(BACKBONE, "train_backbone")
    assert all(torch.equal(backbone.state_dict()[n], t) for n, t in state.items() if not n.startswith("head."))
    assert head is not None and head.kind == kind and meta["chosen_epoch"] == 0
    test = read_features("features/features_test.h5")
    table = read_predictions("metrics/predictions/joint.h5", "rebalance@joint")
    np.testing.assert_array_equal(table.predicted, head.scores(test.features).argmax(axis=1))
    assert Path("metrics/curves/train_backbone.tsv").read_text().split() == ["epoch", "lr", "loss"]


def test_images_in_memory_are_resized_for_the_network_and_prepared_once(tmp_path, stage, capsys):
    write_weights(tmp_path / "a.pth")
    write_params(tmp_path, given(tmp_path / "a.pth"))
    run(stage)
    prepared = (tmp_path / "data/prepared/images.h5").read_bytes()
    small = read_features("features/features_test.h5").features
    write_params(tmp_path, given(tmp_path / "a.pth"), {"image_size": 12, "normalize": "none"})
    run(stage)
    assert (tmp_path / "data/prepared/images.h5").read_bytes() == prepared
    meta = load_checkpoint(BACKBONE, "train_backbone")[1]
    assert meta["image_size"] == meta["transform"]["image_size"] == 12
    assert not np.allclose(read_features("features/features_test.h5").features, small)
    assert read_json(Path("data/prepared/dataset.json"), made_by="prepare")["image_size"] == 8


def test_files_are_read_as_the_model_of_timm_expects_them(tmp_path, image_root, stage):
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=4).eval()
    torch.save({"model": theirs.state_dict()}, tmp_path / "a.bin")
    base = {"dataset": "image_folder", "data_root": str(image_root), "imb_type": "natural", "val_per_class": 0}
    train = {"train": {"backbone": "test_resnet", "batch_size": 8, "epochs": 1, "lr": 1e-30, "bn_mode": "eval"}}
    write_params(tmp_path, base, train, given(tmp_path / "a.bin"))
    run(stage)
    assert not Path("data/prepared/images.h5").exists()
    transform = load_checkpoint(BACKBONE, "train_backbone")[1]["transform"]
    assert transform["image_size"] == 160 and transform["crop_pct"] == 0.95
    assert transform["mean"] == transform["std"] == [0.5] * 3
    rows = read_features("features/features_test.h5")
    picture = Image.open(image_root / "test/class 0/000.jpg")
    look = Transform("none", (0.5,) * 3, (0.5,) * 3, 160, crop_pct=0.95)
    with torch.no_grad():
        pixels = normalizer(look, torch.device("cpu"))(path_transform(look, False)(picture)[None])
        expected = theirs.forward_head(theirs.forward_features(pixels), pre_logits=True)
    np.testing.assert_allclose(rows.features[0], expected[0], rtol=1e-3, atol=1e-4)
    write_params(tmp_path, base, train, given(tmp_path / "a.bin"), {"crop": "none", "image_size": 96})
    run(stage)
    transform = load_checkpoint(BACKBONE, "train_backbone")[1]["transform"]
    assert transform["image_size"] == 96 and transform["crop_pct"] is None


@pytest.mark.parametrize(("given_size", "expected"), [({}, 160), ({"image_size": 48}, 48)])
def test_files_in_memory_have_the_size_of_the_network_before_it_sees_them(
    tmp_path, image_root, stage, given_size, expected
):
    base = {"dataset": "image_folder", "data_root": str(image_root), "imb_type": "natural", "storage": "memory"}
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "a.bin")
    train = {"train": {"backbone": "test_resnet"}}
    write_params(tmp_path, base, train, given(tmp_path / "a.bin"), {"val_per_class": 0}, given_size)
    run(stage, "prepare", "subsample", "pretrain")
    info = read_json(Path("data/prepared/dataset.json"), made_by="prepare")
    assert (info["storage"], info["image_size"]) == ("memory", expected)
    assert load_checkpoint(Path("models/pretrained.safetensors"), "pretrain")[1]["image_size"] == expected


def test_files_in_memory_have_their_usual_size_for_a_network_of_ours(tmp_path, image_root, stage):
    base = {"dataset": "image_folder", "data_root": str(image_root), "imb_type": "natural", "storage": "memory"}
    write_params(tmp_path, base, given(tmp_path / "a.pth"), {"val_per_class": 0})
    write_weights(tmp_path / "a.pth")
    stage("prepare")
    assert read_json(Path("data/prepared/dataset.json"), made_by="prepare")["image_size"] == 64


@pytest.mark.parametrize(
    ("images", "counts"),
    [({"storage": "memory"}, True), ({}, False), ({"storage": "memory", "image_size": 48}, False)],
)
def test_backbone_counts_for_prepare_only_where_it_sizes_the_images(tmp_path, images, counts):
    (tmp_path / "a.pth").touch()
    content = {"dataset": "image_folder", "data_root": str(tmp_path), **images, **given(tmp_path / "a.pth")}
    found = [
        fingerprint(Sources(None), "prepare", "", content | {"train": {"backbone": name}})
        for name in ("test_resnet", "test_vit")
    ]
    assert (found[0] != found[1]) == counts
    assert ("stages.network_size" in entry_modules("prepare", "", content)) == counts


def test_missing_file_is_an_error_of_check_before_work_starts(tmp_path, stage):
    from tests.imports import ROOT

    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    write_params(tmp_path, given("nowhere/a.pth"))
    refused(ConfigError, lambda: stage("check"), "pretrain.weights must be an existing file", "nowhere/a.pth")
    assert not (tmp_path / ".fingerprints/prepare").exists()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory):
    made = copy_code(tmp_path_factory.mktemp("project"), HEADS)
    write_weights(made.folder / "a.pth")
    write_params(made.folder, given("a.pth"), heads=HEADS)
    made.first_output = made.dvc("repro", "train_backbone")
    return made


def test_changed_file_and_only_its_content_runs_pretraining_again(project):
    assert stages_run(project.first_output) == ["prepare", "subsample", "pretrain", "train_backbone"]
    (project.folder / "a.pth").touch()
    assert stages_run(project.dvc("repro", "train_backbone")) == []
    before = (project.folder / "a.pth").read_bytes()
    write_weights(project.folder / "a.pth", seed=1)
    assert stages_run(project.dvc("repro", "train_backbone")) == ["pretrain", "train_backbone"]
    (project.folder / "a.pth").write_bytes(before)
    assert stages_run(project.dvc("repro", "train_backbone")) == [], "the old results come from the run cache"


def test_missing_file_runs_nothing_again_until_pretraining_needs_it(project):
    """As in a clone that has only pulled the results."""
    (project.folder / "a.pth").unlink()
    assert stages_run(project.dvc("repro", "train_backbone")) == []
    write_params(project.folder, given("a.pth"), {"seed": 1}, heads=HEADS)
    for _ in range(2):  # the first one removes the old weights, and with them the digest
        output = project.dvc("repro", "train_backbone", check=False)
        assert "pretrain.weights must be an existing file, got a.pth" in output
    write_params(project.folder, given("a.pth"), heads=HEADS)
    project.dvc("checkout", "pretrain")
    assert stages_run(project.dvc("repro", "train_backbone")) == []


def test_other_size_runs_pretraining_but_prepares_the_same_images(project):
    write_weights(project.folder / "a.pth")
    project.dvc("repro", "train_backbone")
    write_params(project.folder, given("a.pth"), {"image_size": 12}, heads=HEADS)
    ran = stages_run(project.dvc("repro", "train_backbone"))
    assert ran == ["prepare", "pretrain", "train_backbone"]
