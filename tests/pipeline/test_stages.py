"""Stages without dvc: byte-stable outputs, image folders and file lists, online repairs, and bad input."""

import contextlib
import dataclasses
import gzip
import hashlib
import importlib
import json
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import softmax

from longtail.artifacts.checkpoints import load_checkpoint
from longtail.artifacts.features import read_features, write_features
from longtail.artifacts.head_files import read_head
from longtail.artifacts.predictions import read_predictions
from longtail.core.errors import ArtifactError, ConfigError, DataError, LongtailError, TrainingError
from longtail.methods.dlsa.routing_file import read_routing
from longtail.methods.dlsa.settings import PUBLISHED, Settings
from stages.common import advice
from tests.conftest import METHODS, REPAIRS, write_params

OUTPUTS = ("data", "models", "features", "metrics")
DLSA_OUTPUTS = ("models/dlsa.pt", "models/dlsa_routing.h5",
                "metrics/predictions/dlsa_control.h5", "metrics/predictions/dlsa.h5")  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    files = [
        path for name in OUTPUTS for path in (folder / name).rglob("*") if path.is_file() and "cost" not in path.parts
    ]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_image(path: Path, label: int, number: int, size: tuple[int, int]) -> None:
    """A noisy picture whose brightness and hue say its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([label, number])
    colour = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [180, 180, 40]])[label]
    Image.fromarray((colour + rng.integers(-30, 30, (*size, 3))).clip(0, 255).astype(np.uint8)).save(path, quality=95)


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """Four classes, naturally long-tailed, files of unequal size, test not balanced."""
    root = tmp_path / "images"
    for label, (train, test) in enumerate([(24, 6), (12, 4), (6, 3), (2, 2)]):
        for part, count in (("train", train), ("test", test)):
            for number in range(count):
                name = root / part / f"class {label}" / f"{number:03d}.jpg"
                write_image(name, label, number + 1000 * (part == "test"), (40 + number % 3, 44))
    return root


@pytest.fixture
def list_root(image_root: Path) -> Path:
    for part in ("train", "test"):
        rows = [
            f"{path.relative_to(image_root).as_posix()} {label}"
            for label in range(4)
            for path in sorted((image_root / part / f"class {label}").iterdir())
        ]
        (image_root / f"{part}.txt").write_text("\n".join(rows) + "\n")
    return image_root


def test_every_stage_writes_the_same_bytes_twice(tmp_path, pipeline, stage):
    pipeline()
    first = digests(tmp_path)
    assert len(first) > 25
    for name in first:
        (tmp_path / name).unlink()
    pipeline()
    assert digests(tmp_path) == first


def test_another_seed_gives_another_backbone_on_the_same_split(tmp_path, pipeline, stage):
    pipeline("train_backbone")
    first = digests(tmp_path)
    write_params(tmp_path, {"seed": 1})
    stage("pretrain")
    stage("train_backbone")
    second = digests(tmp_path)
    assert {name for name in first if first[name] != second[name]} == {
        "models/pretrained.pt", "models/backbone.pt", "metrics/curves/train_backbone.tsv"
    }  # fmt: skip


def test_features_and_head_give_the_networks_own_logits(tmp_path, pipeline):
    pipeline("extract_features")
    import torch

    from longtail.augment.transforms import Transform, normalizer
    from longtail.data.manifest import read_pixels
    from longtail.models.stored import load_backbone

    backbone, head, meta, _ = load_backbone(Path("models/backbone.pt"), "train_backbone")
    test, stored = read_features("features/features_test.h5"), read_head("features/head.h5", "extract_features").head
    pixels = torch.from_numpy(read_pixels(Path("data/prepared"))[test.index]).permute(0, 3, 1, 2)
    images = normalizer(Transform.from_meta(meta["transform"]), torch.device("cpu"))(pixels)
    with torch.no_grad():
        features = backbone.eval()(images)
    np.testing.assert_allclose(test.features, features, atol=1e-5)
    assert (test.features >= 0).all()
    np.testing.assert_array_equal(stored.weight, head.weight)
    np.testing.assert_array_equal(stored.bias, head.bias)


@pytest.mark.parametrize("storage", ["memory", "paths"])
def test_image_folder_with_natural_counts_runs_to_the_table(tmp_path, image_root, pipeline, storage):
    settings = {"dataset": "image_folder", "data_root": str(image_root), "imb_type": "natural", "val_per_class": 1}
    groups = {"shots": {"many_above": 10, "few_below": 4}}
    write_params(tmp_path, settings, groups, {"image_size": 16, "storage": storage, "train": {"batch_size": 8}})
    pipeline()
    counts = pd.read_csv("data/class_counts.csv")
    assert counts["train"].tolist() == [23, 11, 5, 2] and counts["test"].tolist() == [6, 4, 3, 2]
    assert counts["name"].tolist() == [f"class {label}" for label in range(4)]
    summary = json.loads(Path("metrics/summary.json").read_text())
    assert all({"all", "many", "medium", "few", "macro"} <= set(summary[method]) for method in METHODS)


def test_file_lists_train_a_timm_backbone_from_jpegs(tmp_path, list_root, stage, pipeline):
    (list_root / "train.txt.gz").write_bytes(gzip.compress((list_root / "train.txt").read_bytes()))
    write_params(
        tmp_path,
        {"dataset": "file_lists", "data_root": str(list_root), "lists": {"train": "train.txt.gz", "test": "test.txt"}},
        {"imb_type": "natural", "val_per_class": 0, "image_size": 32, "storage": "paths"},
        {"train": {"backbone": "resnet50", "epochs": 1, "batch_size": 8}, "runtime": {"workers": 2}},
    )
    pipeline("extract_features")
    test = read_features("features/features_test.h5")
    assert test.features.shape == (15, 2048) and test.num_classes == 4
    assert len(read_features("features/features_val.h5").labels) == 0
    stage("rebalance", "tau")
    assert read_head("models/heads/tau.h5", "rebalance@tau").notes["selected_on"] == "train_slice"


@pytest.mark.parametrize("method", ["crt", "lws"])
@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_online_repairs_run_on_images_and_leave_the_backbone_alone(tmp_path, pipeline, stage, method, bn_mode):
    pipeline("extract_features")
    before = digests(tmp_path)
    write_params(tmp_path, {method: {"mode": "online", "bn_mode": bn_mode}})
    stage("rebalance", method)
    head = read_head(f"models/heads/{method}.h5", f"rebalance@{method}")
    assert head.notes["mode"] == "online" and head.notes["bn_mode"] == bn_mode
    scores = read_features("features/features_test.h5").features @ head.head.weight.T + head.head.bias
    probability = softmax(scores, axis=1).max(axis=1)
    confidence = read_predictions(f"metrics/predictions/{method}.h5", f"rebalance@{method}").confidence
    # In eval mode the cached features are the ones that the head saw; in train mode the statistics have drifted.
    assert np.allclose(confidence, probability, atol=1e-5) == (bn_mode == "eval")
    assert {name: digest for name, digest in digests(tmp_path).items() if name in before} == before


def test_lws_head_scales_the_stage_1_head(pipeline, stage):
    pipeline("extract_features")
    stage("rebalance", "lws")
    joint, lws = read_head("features/head.h5", "extract_features"), read_head("models/heads/lws.h5", "rebalance@lws")
    np.testing.assert_allclose(lws.head.weight, lws.extra["scales"][:, None] * joint.head.weight, rtol=1e-6)


def test_cosine_head_runs_through_every_repair(tmp_path, pipeline):
    write_params(tmp_path, {"train": {"head": "cosine", "scale": 16.0}})
    pipeline()
    joint = read_predictions("metrics/predictions/joint.h5", "rebalance@joint")
    features, head = read_features("features/features_test.h5"), read_head("features/head.h5", "extract_features").head
    assert head.kind == "cosine" and head.scale == 16.0 and head.bias is None
    unit = features.features / np.linalg.norm(features.features, axis=1, keepdims=True)
    logits = 16 * unit @ head.weight.T
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    np.testing.assert_allclose(joint.confidence, probability.max(1), rtol=1e-4)


def test_tau_selected_on_test_is_marked(tmp_path, pipeline, stage):
    pipeline()
    write_params(tmp_path, {"tau": {"select_on": "test"}})
    stage("rebalance", "tau")
    stage("evaluate")
    summary = json.loads(Path("metrics/summary.json").read_text())
    assert summary["tau"]["selected_on_test"] == 1 and "selected_on_test" not in summary["joint"]
    assert json.loads(Path("metrics/selection.json").read_text())["tau"]["selected_on"] == "test"


def test_digits_at_100_are_learned_and_repaired(tmp_path, pipeline, stage):
    """With the real default recipe: the tail gains from NCM and cRT."""
    write_params(tmp_path, {"train": {"epochs": 60, "batch_size": 64}, "crt": {"epochs": 10, "batch_size": 64}})
    pipeline()
    summary = json.loads(Path("metrics/summary.json").read_text())
    assert summary["joint"]["many"] > 95
    for method in ("ncm", "crt"):
        assert summary[method]["few"] > summary["joint"]["few"], method
        assert summary[method]["macro"] > summary["joint"]["macro"], method


# --- bad input -------------------------------------------------------------------------------------------------------


def refused(error: type[LongtailError], call, *words: str) -> str:
    """The message of the error and the advice that the user sees with it, which hold all ``words``."""
    with pytest.raises(error) as caught:
        call()
    message = f"{caught.value}; {advice(caught.value)}"
    assert all(word in message for word in words), message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("value", [0.01, 0, -5, "abc", 1e9])
def test_imb_factor_out_of_range_is_refused_before_work(tmp_path, stage, value):
    write_params(tmp_path, {"imb_factor": value})
    refused(ConfigError, lambda: stage("prepare"), "imb_factor")
    assert not (tmp_path / "data").exists()


def test_imb_factor_that_empties_a_class_says_the_largest_possible_one(tmp_path, stage):
    write_params(tmp_path, {"imb_factor": 500})
    stage("prepare")
    refused(ConfigError, lambda: stage("subsample"), "imb_factor: 500", "at most 124")
    assert not (tmp_path / "data/split.csv").exists()


def test_missing_data_root(tmp_path, stage):
    write_params(tmp_path, {"dataset": "image_folder", "data_root": str(tmp_path / "nowhere")})
    refused(DataError, lambda: stage("prepare"), "nowhere")
    assert not (tmp_path / "data").exists()


def test_unreadable_image_is_named(tmp_path, image_root, stage):
    (image_root / "train/class 1/003.jpg").write_bytes(b"not a picture")
    write_params(tmp_path, {"dataset": "image_folder", "data_root": str(image_root)})
    refused(DataError, lambda: stage("prepare"), "class 1/003.jpg")


def test_class_without_test_image_is_named(tmp_path, image_root, stage):
    for path in (image_root / "test/class 2").iterdir():
        path.unlink()
    write_params(tmp_path, {"dataset": "image_folder", "data_root": str(image_root), "image_size": 16})
    stage("prepare")
    refused(DataError, lambda: stage("subsample"), "class 2", "test")


@pytest.mark.parametrize("labels", ["0 1 2 7", "0 1 2 -1"])
def test_labels_with_gaps_or_out_of_range_are_refused(tmp_path, list_root, stage, labels):
    new = dict(zip("0123", labels.split(), strict=True))
    for part in ("train", "test"):
        lines = (list_root / f"{part}.txt").read_text().splitlines()
        (list_root / f"{part}.txt").write_text("\n".join(line[:-1] + new[line[-1]] for line in lines))
    settings = {
        "dataset": "file_lists",
        "data_root": str(list_root),
        "lists": {"train": "train.txt", "test": "test.txt"},
    }
    write_params(tmp_path, settings)
    refused(DataError, lambda: stage("prepare"), "train.txt")
    if "7" in labels:
        write_params(tmp_path, settings, {"relabel": True, "image_size": 16})
        stage("prepare")


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


def test_nan_feature_is_refused_with_its_row(pipeline, stage):
    pipeline("extract_features")
    with h5py.File("features/features_train.h5", "r+") as file:
        features = file["features"][()]
        features[17, 3] = np.nan
        del file["features"]
        file["features"] = features
        for name in list(file.attrs):
            del file.attrs[name]
    refused(ArtifactError, lambda: stage("rebalance", "ncm"), "features_train.h5", "row 17")
    assert not Path("models/heads/ncm.h5").exists()


def test_features_of_another_backbone_or_split_are_refused(tmp_path, pipeline, stage):
    pipeline("extract_features")
    old_test, old_head = (Path(f"features/{name}.h5").read_bytes() for name in ("features_test", "head"))
    write_params(tmp_path, {"seed": 3})
    for name in ("pretrain", "train_backbone", "extract_features"):
        stage(name)
    new_test, new_head = (Path(f"features/{name}.h5").read_bytes() for name in ("features_test", "head"))
    Path("features/head.h5").write_bytes(old_head)
    refused(ArtifactError, lambda: stage("rebalance", "joint"), "head.h5", "backbone")
    Path("features/head.h5").write_bytes(new_head)
    Path("features/features_test.h5").write_bytes(old_test)
    refused(ArtifactError, lambda: stage("rebalance", "joint"), "features_test.h5", "backbone")
    Path("features/features_test.h5").write_bytes(new_test)
    stage("rebalance", "joint")
    write_params(tmp_path, {"seed": 3, "imb_factor": 50})
    stage("subsample")
    refused(ArtifactError, lambda: stage("extract_features"), "backbone.pt", "another split")


def damaged(path: str, how: str) -> bytes:
    content = Path(path).read_bytes()
    if how == "truncated":
        return content[: len(content) // 2]
    if how == "half-written":
        return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    if how == "bit-flipped":
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]
    return pickle.dumps({"state_dict": [1, 2, 3]})


@pytest.mark.parametrize("how", ["truncated", "half-written", "bit-flipped", "pickle"])
def test_damaged_artifacts_are_refused_by_name_and_stage(tmp_path, pipeline, stage, how):
    pipeline("extract_features")
    readers = {
        "models/pretrained.pt": ("train_backbone", "pretrain"),
        "models/backbone.pt": ("extract_features", "train_backbone"),
        "features/features_train.h5": ("rebalance joint", "extract_features"),
        "features/head.h5": ("rebalance joint", "extract_features"),
        "features/features_val.h5": ("train_dlsa", "extract_features"),
        "data/prepared/images.h5": ("extract_features", "prepare"),
    }
    for path, (reader, maker) in readers.items():
        whole = Path(path).read_bytes()
        Path(path).write_bytes(damaged(path, how))
        refused(ArtifactError, lambda reader=reader: stage(*reader.split()), path, maker)
        Path(path).write_bytes(whole)
    assert not Path("models/heads").exists() or not list(Path("models/heads").iterdir())


def test_missing_prediction_table_names_its_stage(pipeline, stage):
    pipeline()
    for table, maker in {"crt": "rebalance@crt", "dlsa": "train_dlsa", "ipdpp_uniform": "finetune_ipdpp"}.items():
        path = Path(f"metrics/predictions/{table}.h5")
        content = path.read_bytes()
        path.unlink()
        refused(ArtifactError, lambda: stage("evaluate"), str(path), maker)
        path.write_bytes(content)


def test_unknown_method_is_refused(stage):
    refused(ConfigError, lambda: stage("rebalance", "magic"), "magic", "joint")


def test_best_val_without_val_is_refused_before_training(tmp_path, stage):
    write_params(tmp_path, {"val_per_class": 0, "train": {"select": "best_val"}})
    for name in ("prepare", "subsample", "pretrain"):
        stage(name)
    refused(ConfigError, lambda: stage("train_backbone"), "train.select", "val_per_class")


def test_a_gpu_that_is_not_there_is_refused(tmp_path, stage):
    for name in ("prepare", "subsample", "pretrain"):
        stage(name)
    write_params(tmp_path, {"runtime": {"device": "cuda:31"}})
    refused(ConfigError, lambda: stage("train_backbone"), "runtime.device", "cuda:31")


def test_error_of_a_stage_process_is_one_line_and_exit_status_1(tmp_path, stage):
    import subprocess
    import sys

    from tests.imports import ROOT

    write_params(tmp_path, {"crt": {"epoch": 3}})
    result = subprocess.run(
        [sys.executable, "-m", "stages.prepare"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: crt.epoch: unknown key (did you mean crt.epochs?); allowed here: mode, bn_mode, epochs, batch_size, "
        "lr, momentum, weight_decay, samples_per_class, select"
    ]


@pytest.mark.parametrize("mode", ["cached", "online"])
def test_repair_that_selects_on_val_without_val_is_refused(tmp_path, pipeline, stage, mode):
    write_params(tmp_path, {"val_per_class": 0, "crt": {"select": "best_val", "mode": mode}})
    pipeline("extract_features")
    refused(ConfigError, lambda: stage("rebalance", "crt"), "crt.select", "val_per_class")


def test_size_of_the_trained_network_stands_in_the_metrics(pipeline):
    pipeline()
    size = read_metrics("selection")["backbone"]
    cost = json.loads(Path("metrics/cost/train_backbone.json").read_text())
    assert size == {"backbone": "resnet8", "parameters": cost["parameters"], "macs": cost["macs"]}
    assert read_metrics("selection")["joint"].keys() == {"epoch", "select"}


def test_epoch_selected_on_val_is_reported(tmp_path, pipeline):
    write_params(tmp_path, {"train": {"select": "best_val"}, "lws": {"select": "best_val"}})
    pipeline()
    selection = json.loads(Path("metrics/selection.json").read_text())
    assert selection["joint"]["selected_on"] == selection["lws"]["selected_on"] == "val"
    assert "selected_on" not in selection["crt"]


def test_unfinished_work_on_other_pixels_is_not_resumed(tmp_path, stage, capsys):
    """image_size changes neither the manifest nor the split, but it changes what is trained on."""
    for name in ("prepare", "subsample", "pretrain"):
        stage(name)
    from longtail.train import loop as trainer

    original, calls = trainer._save, []

    def interrupted(*arguments):
        original(*arguments)
        calls.append(arguments)
        raise KeyboardInterrupt

    trainer._save = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            stage("train_backbone")
    finally:
        trainer._save = original
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


def test_counts_of_another_split_are_refused_by_evaluate(tmp_path, pipeline, stage):
    pipeline()
    write_params(tmp_path, {"imb_factor": 10})
    stage("subsample")
    refused(ArtifactError, lambda: stage("evaluate"), "class_counts.csv", "train")


def write_foreign(folder: Path, part: str, labels: np.ndarray, name: str = "labels", width: int = 6) -> None:
    features = np.random.default_rng(len(labels)).normal(size=(len(labels), width)) + 2 * labels[:, None]
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / f"features_{part}.h5", "w") as file:
        file["features"], file[name] = features.astype(np.float32), labels


def test_foreign_features_run_every_repair_and_the_table_without_val_head_or_split(tmp_path, stage):
    write_foreign(tmp_path / "features", "train", np.repeat([0, 1, 2], [120, 40, 10]), "label")
    write_foreign(tmp_path / "features", "test", np.repeat([0, 1, 2], 20))
    for method in REPAIRS:
        stage("rebalance", method)
    stage("evaluate")
    summary = json.loads(Path("metrics/summary.json").read_text())
    assert set(summary) == set(REPAIRS), "DLSA was not run on these features"
    assert all({"many", "medium", "few"} <= set(summary[method]) for method in REPAIRS)
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


# --- DLSA ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repaired_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits with every stage but ``train_dlsa`` and ``evaluate``, made once."""
    folder = tmp_path_factory.mktemp("digits")
    write_params(folder)
    with contextlib.chdir(folder):
        for name in ("prepare", "subsample", "pretrain", "train_backbone", "extract_features"):
            importlib.import_module(f"stages.{name}").main()
        for method in REPAIRS:
            importlib.import_module("stages.rebalance").main(method)
        importlib.import_module("stages.finetune_ipdpp").main()
    return folder


@pytest.fixture
def repaired(tmp_path, stage, repaired_digits: Path) -> Path:
    """The working folder, in which ``train_dlsa`` can start and ``evaluate`` after it."""
    shutil.copytree(repaired_digits, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def foreign(tmp_path, stage) -> Path:
    """The working folder with DLSA's own two files in features/, and nothing else."""
    write_foreign(tmp_path / "features", "train", np.repeat([0, 1, 2], [120, 40, 10]), "label")
    write_foreign(tmp_path / "features", "test", np.repeat([0, 1, 2], 20))
    return tmp_path / "features"


def dlsa_bytes(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in DLSA_OUTPUTS}


def read_metrics(name: str) -> dict:
    return json.loads(Path(f"metrics/{name}.json").read_text())


DLSA_KINDS = {
    "default": {},
    "deep": {"depth": 3},
    "latent": {"preset": "latent"},
    "shared": {"heads": "shared", "depth": 2, "sampler": "class_aware"},
    "cosine": {"classifier": "cosine", "loss": "ce"},
    "random": {"routing": "random", "flow_select": "purity"},
}


@pytest.mark.parametrize("kind", DLSA_KINDS)
def test_dlsa_writes_the_same_bytes_twice_and_no_path(repaired, stage, kind):
    write_params(repaired, {"dlsa": DLSA_KINDS[kind]})
    stage("train_dlsa")
    first = dlsa_bytes(repaired)
    for name in first:
        (repaired / name).unlink()
    stage("train_dlsa")
    assert dlsa_bytes(repaired) == first
    for name, content in first.items():
        assert str(repaired).encode() not in content, name


@pytest.mark.parametrize("kind", DLSA_KINDS)
def test_stored_dlsa_gives_the_routes_and_predictions_of_the_tables(repaired, stage, kind):
    import torch

    from longtail.methods.dlsa.stored import load_chain

    write_params(repaired, {"dlsa": DLSA_KINDS[kind]})
    stage("train_dlsa")
    chain, meta = load_chain("models/dlsa.pt")
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


def test_dlsa_and_its_control_without_an_epoch_are_the_stage_1_head(repaired, stage):
    """Warm start, and a second branch of zeros."""
    write_params(repaired, {"dlsa": {"epochs": 0}})
    stage("train_dlsa")
    joint = read_predictions("metrics/predictions/joint.h5", "rebalance@joint")
    for name in ("dlsa_control", "dlsa"):
        table = read_predictions(f"metrics/predictions/{name}.h5", "train_dlsa")
        np.testing.assert_array_equal(table.predicted, joint.predicted)
        np.testing.assert_allclose(table.confidence, joint.confidence, rtol=1e-4)
        np.testing.assert_array_equal(table.index, joint.index)


@pytest.mark.parametrize("preset", ["small", "latent", "imagenet_lt_paco"])
def test_depth_0_is_the_control_and_evaluate_needs_no_flow(repaired, stage, preset):
    write_params(repaired, {"dlsa": {"preset": preset, "depth": 0}})
    stage("train_dlsa")
    control, dlsa = (read_predictions(DLSA_OUTPUTS[i], "train_dlsa") for i in (2, 3))
    for name in ("index", "label", "top_class", "top_probability", "label_log_probability"):
        np.testing.assert_array_equal(getattr(dlsa, name), getattr(control, name))
    stage("evaluate")
    assert read_metrics("summary")["dlsa"] == read_metrics("summary")["dlsa_control"]
    assert not [key for key in read_metrics("dlsa") if key.startswith("level")]
    for name in ("likelihood", "losses", "clusters"):
        assert pd.read_csv(f"metrics/plots/dlsa_{name}.csv").empty
    routes = pd.read_csv("metrics/plots/dlsa_routes.csv")
    assert set(routes["route"]) == {1} and set(routes["share"]) == {100.0}


def test_dlsa_has_finite_numbers_plots_and_its_selection_in_the_metrics(repaired, stage):
    write_params(repaired, {"dlsa": {"depth": 2}})
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


def test_epoch_of_the_control_is_reported_too(repaired, stage):
    stage("train_dlsa")
    stage("evaluate")
    assert "val" in read_metrics("selection").get("dlsa_control", {}).values()


def test_dlsa_selected_on_test_is_marked(repaired, stage, capsys):
    write_params(repaired, {"dlsa": {"select_on": "test"}})
    stage("train_dlsa")
    stage("evaluate")
    marked = {name for name, row in read_metrics("summary").items() if row.get("selected_on_test") == 1}
    assert marked == {"dlsa", "dlsa_control"}
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["dlsa", "*"] in lines and ["dlsa_control", "*"] in lines
    assert read_metrics("selection")["dlsa"]["head_1_selected_on"] == "test"


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_configuration_runs_on_small_data_with_its_own_values(repaired, stage, preset):
    from longtail.methods.dlsa.stored import load_chain

    write_params(repaired, {"dlsa": {"preset": preset, "epochs": 2, "flow_epochs": 2}})
    stage("train_dlsa")
    chain, meta = load_chain("models/dlsa.pt")
    assert chain.settings == Settings(**{**PUBLISHED[preset], "epochs": 2, "flow_epochs": 2})
    assert chain.depth == PUBLISHED[preset].get("depth", 1) and meta["preset"] == preset
    stage("evaluate")
    assert set(read_metrics("summary")) == set(METHODS)


@pytest.mark.parametrize(("imb_factor", "chosen"), [(100, "last"), (10, "train_slice")])
def test_dlsa_without_val_holds_out_training_rows_where_every_class_has_two(
    tmp_path, pipeline, stage, imb_factor, chosen
):
    write_params(tmp_path, {"val_per_class": 0, "imb_factor": imb_factor})
    pipeline()
    counts = pd.read_csv("data/class_counts.csv")["train"]
    assert (counts.min() == 1) == (chosen == "last")
    selection = read_metrics("selection")["dlsa"]
    assert selection["selected_on"] == chosen  # of the flow; the stage-1 head has seen all training rows
    assert {selection["head_1_selected_on"], selection["head_2_selected_on"]} == {"last"}
    routing = read_routing("models/dlsa_routing.h5", "train_dlsa")
    assert set(routing.parts) == {"train", "test"}
    np.testing.assert_array_equal(np.bincount(routing.parts["train"].label), counts)


def test_routes_and_predictions_of_another_split_are_refused_by_evaluate(tmp_path, pipeline, stage):
    pipeline()
    old = dlsa_bytes(tmp_path)
    write_params(tmp_path, {"imb_factor": 50})
    pipeline()
    for name in ("models/dlsa_routing.h5", "metrics/predictions/dlsa.h5", "metrics/predictions/dlsa_control.h5"):
        new = Path(name).read_bytes()
        Path(name).write_bytes(old[name])
        refused(ArtifactError, lambda: stage("evaluate"), name, "another split", "dvc repro -f train_dlsa")
        Path(name).write_bytes(new)
    stage("evaluate")


# Unfinished work


def interrupt(monkeypatch: pytest.MonkeyPatch, module: str, save: int) -> None:
    """KeyboardInterrupt right after the ``save``-th checkpoint that ``longtail.methods.dlsa.MODULE`` writes."""
    code = importlib.import_module(f"longtail.methods.dlsa.{module}")
    original, calls = code._save, []

    def interrupted(*arguments: object) -> None:
        original(*arguments)
        calls.append(arguments)
        if len(calls) == save:
            raise KeyboardInterrupt

    monkeypatch.setattr(code, "_save", interrupted)


def count_saves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts of which checkpoints are written from now on, one entry for each."""
    saves: list[str] = []
    for module in ("flow_training", "head_training"):
        code = importlib.import_module(f"longtail.methods.dlsa.{module}")

        def counted(run: object, stash: object, part: str, original=code._save) -> None:
            saves.append(part)
            original(run, stash, part)

        monkeypatch.setattr(code, "_save", counted)
    return saves


@pytest.mark.parametrize(
    ("module", "save", "resumed"),
    [
        ("head_training", 1, "dlsa_control head 1 of 1: resuming after epoch 1"),
        ("head_training", 6, "dlsa_control head 1 of 1: resuming after epoch 6"),
        ("flow_training", 2, "dlsa flow 1 of 2: resuming after epoch 2"),
        ("flow_training", 4, "dlsa flow 2 of 2: resuming after epoch 1"),
        ("head_training", 9, "dlsa head 1 of 3: resuming after epoch 3"),
        ("head_training", 24, "dlsa head 3 of 3: resuming after epoch 6"),
    ],
)
def test_interrupted_dlsa_goes_on_and_gives_the_same_bytes(repaired, stage, capsys, monkeypatch, module, save, resumed):
    write_params(repaired, {"dlsa": {"depth": 2}})
    with monkeypatch.context() as patch:
        in_one_go = count_saves(patch)
        stage("train_dlsa")
    whole = dlsa_bytes(repaired)
    for name in whole:
        (repaired / name).unlink()
    with monkeypatch.context() as patch:
        saves = count_saves(patch)
        with patch.context() as inner:
            interrupt(inner, module, save)
            with pytest.raises(KeyboardInterrupt):
                stage("train_dlsa")
        assert not any((repaired / name).exists() for name in DLSA_OUTPUTS)
        capsys.readouterr()
        stage("train_dlsa")
    assert resumed in capsys.readouterr().out
    assert dlsa_bytes(repaired) == whole
    assert saves == in_one_go, "no epoch is trained twice"
    assert not list((repaired / ".scratch/train_dlsa").glob("*/*")), "scratch is cleared after success"


def test_unfinished_dlsa_of_other_parameters_or_features_is_not_resumed(repaired, stage, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, "head_training", 8)
        with pytest.raises(KeyboardInterrupt):
            stage("train_dlsa")
    write_params(repaired, {"dlsa": {"lr": 0.05}})
    stage("train_dlsa")
    write_params(repaired, {"seed": 1})
    stage("train_dlsa")
    write_params(repaired)
    path = repaired / "features/features_train.h5"
    ours = read_features(path)
    write_features(path, dataclasses.replace(ours, features=2 * ours.features))
    stage("train_dlsa")
    write_foreign(repaired / "features", "train", np.repeat([0, 1, 2], [30, 20, 10]))
    write_foreign(repaired / "features", "test", np.repeat([0, 1, 2], 5))
    stage("train_dlsa")
    assert "resuming" not in capsys.readouterr().out


def test_unfinished_dlsa_is_resumed_after_a_change_and_back(repaired, stage, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, "head_training", 8)
        with pytest.raises(KeyboardInterrupt):
            stage("train_dlsa")
    write_params(repaired, {"dlsa": {"lr": 0.05}})
    stage("train_dlsa")
    write_params(repaired)
    stage("train_dlsa")
    assert "dlsa head 1 of 2: resuming after epoch 2" in capsys.readouterr().out


# Features of others


def test_foreign_features_run_dlsa_and_a_table_of_its_two_rows(foreign, stage, capsys):
    stage("train_dlsa")
    stage("evaluate")
    summary = read_metrics("summary")
    assert list(summary) == ["dlsa", "dlsa_control"]
    assert all({"many", "medium", "few"} <= set(row) for row in summary.values())
    assert summary["dlsa_control"]["macro"] > 60
    others = ", ".join((*REPAIRS, "ipdpp_uniform", "ipdpp"))
    assert f"foreign features: {others} not run on them and left out" in capsys.readouterr().out
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
    without = Path("models/dlsa.pt").read_bytes()
    write_foreign(foreign, "val", np.repeat([0, 1, 2], 7))
    stage("train_dlsa")
    assert Path("models/dlsa.pt").read_bytes() != without


def test_foreign_features_take_neither_val_nor_head_of_ours(repaired, stage, capsys):
    write_foreign(repaired / "features", "train", np.repeat([0, 1, 2], [120, 40, 10]), "label")
    write_foreign(repaired / "features", "test", np.repeat([0, 1, 2], 20))
    stage("train_dlsa")
    beside_ours = dlsa_bytes(repaired)
    stage("evaluate")
    assert set(read_metrics("summary")) == {"dlsa_control", "dlsa"}
    assert "joint" in capsys.readouterr().out
    for name in ("features_val.h5", "head.h5"):
        (repaired / "features" / name).unlink()
    stage("train_dlsa")
    assert dlsa_bytes(repaired) == beside_ours


def test_foreign_table_takes_every_method_that_was_run_on_the_same_features(repaired, stage, capsys):
    write_foreign(repaired / "features", "train", np.repeat([0, 1, 2], [120, 40, 10]))
    write_foreign(repaired / "features", "test", np.repeat([0, 1, 2], 20))
    stage("rebalance", "ncm")
    stage("train_dlsa")
    stage("evaluate")
    assert set(read_metrics("summary")) == {"ncm", "dlsa_control", "dlsa"}
    assert (
        "joint, crt, tau, lws, logit_adjustment, ipdpp_uniform, ipdpp not run on them and left out"
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


def test_contradiction_in_dlsa_is_refused_before_training(repaired, stage):
    write_params(repaired, {"dlsa": {"classifier": "cosine", "second_branch": "zero"}})
    refused(ConfigError, lambda: stage("train_dlsa"), "dlsa.second_branch", "dlsa.classifier")
    assert not any((repaired / name).exists() for name in DLSA_OUTPUTS)


def test_diverging_flow_ends_with_the_key_to_lower_and_no_output(repaired, stage):
    write_params(repaired, {"dlsa": {"flow_lr": 1e9, "log_scale_limit": 0}})
    refused(TrainingError, lambda: stage("train_dlsa"), "dlsa.flow_lr", "epoch 1")
    assert not any((repaired / name).exists() for name in DLSA_OUTPUTS)


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


# Objectives and rules of train_backbone

OBJECTIVE_CHANGES = {
    "focal": {"objective": "focal"},
    "class_balanced": {"objective": "class_balanced"},
    "ldam": {"objective": "ldam"},
    "balanced_softmax": {"objective": "balanced_softmax"},
    "logit_adjustment": {"objective": "logit_adjustment", "adjustment": 0.5},
    "focal_gamma": {"objective": "focal", "focal_gamma": 3.0},
    "focal_released": {"objective": "focal", "focal_released": True, "rule": "reweight"},
    "focal_weighted": {"objective": "focal", "rule": "reweight"},
    "margin": {"objective": "ldam", "margin": 0.1},
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
        write_params(tmp_path, {"train": {"epochs": 3, "schedule": "constant"} | change})
        for before in ("prepare", "subsample", "pretrain") if not weights else ():
            stage(before)
        stage("train_backbone")
        tensors, meta, _ = load_checkpoint(Path("models/backbone.pt"), "train_backbone")
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
        tensors, _, _ = load_checkpoint(Path("models/backbone.pt"), "train_backbone")
        content = b"".join(tensor.numpy().tobytes() for name, tensor in sorted(tensors.items()))
        assert content not in found, f"{change} gives what {found[content]} gives"
        found[content] = change


@pytest.mark.parametrize("objective", ["ldam", "fsgl"])
def test_backbone_of_another_objective_runs_through_everything(tmp_path, pipeline, objective):
    write_params(tmp_path, {"train": {"objective": objective, "rule": "drw" if objective == "ldam" else "resample"}})
    pipeline()
    assert set(read_metrics("summary")) == set(METHODS)


def test_logit_adjustment_row_is_the_joint_one_less_the_log_prior(pipeline, stage):
    pipeline("extract_features")
    stage("rebalance", "joint")
    stage("rebalance", "logit_adjustment")
    joint, adjusted = (read_head(Path(f"models/heads/{name}.h5"), "x").head for name in ("joint", "logit_adjustment"))
    counts = np.bincount(read_features(Path("features/features_train.h5")).labels)
    assert np.array_equal(joint.weight, adjusted.weight)
    np.testing.assert_allclose(joint.bias - adjusted.bias, np.log(counts / counts.sum()), rtol=1e-5)
