"""The stage rebalance: cached and online heads, and bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from longtail.artifacts.features import read_features
from longtail.artifacts.head_files import read_head
from longtail.artifacts.predictions import read_predictions
from longtail.core.errors import ArtifactError, ConfigError
from longtail.methods.heads import HEADS
from tests.conftest import write_params
from tests.pipeline.helpers import digests, interrupt_save, refused, write_own


@pytest.mark.parametrize("method", ["crt", "lws"])
@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_online_heads_run_on_images_and_leave_the_backbone_alone(tmp_path, pipeline, stage, method, bn_mode):
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


def test_stored_heads_give_the_predictions_of_their_tables(pipeline, stage):
    pipeline("extract_features")
    test = read_features("features/features_test.h5")
    for method in sorted(set(HEADS.names()) - {"ncm"}):
        stage("rebalance", method)
        scores = read_head(f"models/heads/{method}.h5", f"rebalance@{method}").head.scores(test.features)
        table = read_predictions(f"metrics/predictions/{method}.h5", f"rebalance@{method}")
        np.testing.assert_allclose(table.confidence, softmax(scores, axis=1).max(axis=1), atol=1e-4, err_msg=method)


@pytest.mark.parametrize("method", ["crt", "lws"])
@pytest.mark.parametrize("mode", ["cached", "online"])
def test_interrupted_head_goes_on_and_gives_the_same_bytes(
    tmp_path, pipeline, stage, monkeypatch, capsys, method, mode
):
    write_params(tmp_path, {method: {"mode": mode, "epochs": 3}})
    pipeline("extract_features")
    outputs = [Path(f"models/heads/{method}.h5"), Path(f"metrics/predictions/{method}.h5")]
    stage("rebalance", method)
    whole = [path.read_bytes() for path in outputs]
    for path in outputs:
        path.unlink()
    with monkeypatch.context() as patch:
        interrupt_save(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            stage("rebalance", method)
    assert not any(path.exists() for path in outputs)
    capsys.readouterr()
    stage("rebalance", method)
    assert "resuming after epoch 2" in capsys.readouterr().out
    assert [path.read_bytes() for path in outputs] == whole
    assert not list(Path(".scratch").glob("rebalance_*/*/*")), "scratch is cleared after success"


def test_tau_selected_on_test_is_marked(tmp_path, pipeline, stage):
    pipeline()
    write_params(tmp_path, {"tau": {"select_on": "test"}})
    stage("rebalance", "tau")
    stage("evaluate")
    summary = json.loads(Path("metrics/summary.json").read_text())
    assert summary["tau"]["selected_on_test"] == 1 and "selected_on_test" not in summary["joint"]
    assert json.loads(Path("metrics/selection.json").read_text())["tau"]["selected_on"] == "test"


def test_features_of_others_among_the_outputs_are_refused_with_the_dataset_to_use(pipeline, stage):
    pipeline("extract_features")
    write_own(Path("features"), "train", np.repeat([0, 1, 2], 5))
    refused(ArtifactError, lambda: stage("rebalance", "ncm"), "features_train.h5", "dataset: features")
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
    refused(ArtifactError, lambda: stage("extract_features"), "backbone.safetensors", "another split")


def test_unknown_method_is_refused(stage):
    refused(ConfigError, lambda: stage("rebalance", "magic"), "magic", "joint")


@pytest.mark.parametrize("mode", ["cached", "online"])
def test_head_that_selects_on_val_without_val_is_refused_by_the_first_stage(tmp_path, stage, mode):
    write_params(tmp_path, {"val_per_class": 0, "crt": {"select": "best_val", "mode": mode}})
    refused(ConfigError, lambda: stage("prepare"), "crt.select", "val_per_class")


def test_logit_adjustment_row_is_the_joint_one_less_the_log_prior(pipeline, stage):
    pipeline("extract_features")
    stage("rebalance", "joint")
    stage("rebalance", "logit_adjustment")
    joint, adjusted = (read_head(Path(f"models/heads/{name}.h5"), "x").head for name in ("joint", "logit_adjustment"))
    counts = np.bincount(read_features(Path("features/features_train.h5")).labels)
    assert np.array_equal(joint.weight, adjusted.weight)
    np.testing.assert_allclose(joint.bias - adjusted.bias, np.log(counts / counts.sum()), rtol=1e-5)
