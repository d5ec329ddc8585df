"""Several stages in a row, without dvc: byte-stable outputs, other sources of images, damaged files."""

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm

from longtail.artifacts.features import read_features
from longtail.artifacts.head_files import read_head
from longtail.artifacts.predictions import read_predictions
from longtail.core.errors import ArtifactError
from longtail.evaluation.metrics import summarize
from longtail.evaluation.shots import Shots
from tests.conftest import METHODS, run_all, write_params
from tests.pipeline.helpers import digests, read_metrics, refused


def test_every_stage_writes_the_same_bytes_twice(tmp_path, pipeline, stage):
    pipeline()
    first = digests(tmp_path)
    assert len(first) > 25
    for name in first:
        (tmp_path / name).unlink()
    run_all(stage)
    assert digests(tmp_path) == first


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
        {"train": {"backbone": "test_resnet", "epochs": 1, "batch_size": 8, "lr": 0.001}, "runtime": {"workers": 2}},
    )
    pipeline("extract_features")
    test = read_features("features/features_test.h5")
    assert test.features.shape == (15, timm.create_model("test_resnet").num_features) and test.num_classes == 4
    assert len(read_features("features/features_val.h5").labels) == 0
    stage("rebalance", "tau")
    assert read_head("models/heads/tau.h5", "rebalance@tau").notes["selected_on"] == "fixed"


def test_cosine_head_runs_through_every_head(tmp_path, pipeline):
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


def test_digits_at_100_are_learned_and_rebalanced(tmp_path, pipeline, stage):
    """With the real default recipe: the tail gains from NCM and cRT."""
    write_params(tmp_path, {"train": {"epochs": 60, "batch_size": 64}, "crt": {"epochs": 10, "batch_size": 64}})
    pipeline("extract_features")
    summary = {}
    for method in ("joint", "ncm", "crt"):
        stage("rebalance", method)
        table = read_predictions(f"metrics/predictions/{method}.h5", f"rebalance@{method}")
        summary[method] = summarize(table, table.train_counts, Shots())
    assert summary["joint"]["many"] > 95
    for method in ("ncm", "crt"):
        assert summary[method]["few"] > summary["joint"]["few"], method
        assert summary[method]["macro"] > summary["joint"]["macro"], method


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
        "models/pretrained.safetensors": ("train_backbone", "pretrain"),
        "models/backbone.safetensors": ("extract_features", "train_backbone"),
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
        "error: crt.epoch is not a key (did you mean crt.epochs?); allowed here: batch_size, bn_mode, epochs, lr, "
        "mode, momentum, samples_per_class, select, weight_decay"
    ]


@pytest.mark.parametrize("objective", ["ldam", "fsgl"])
def test_backbone_of_another_objective_runs_through_everything(tmp_path, pipeline, objective):
    write_params(tmp_path, {"train": {"objective": objective, "rule": "drw" if objective == "ldam" else "resample"}})
    pipeline()
    assert set(read_metrics("summary")) == set(METHODS)
