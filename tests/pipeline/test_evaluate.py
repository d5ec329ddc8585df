"""The stage evaluate: what it reports, and which tables it refuses."""

import json
from pathlib import Path

from longtail.core.errors import ArtifactError
from tests.conftest import write_params
from tests.pipeline.helpers import dlsa_bytes, read_metrics, refused


def test_missing_prediction_table_names_its_stage(pipeline, stage):
    pipeline()
    for table, maker in {"crt": "rebalance@crt", "dlsa": "train_dlsa", "ipdpp_uniform": "finetune_ipdpp"}.items():
        path = Path(f"metrics/predictions/{table}.h5")
        content = path.read_bytes()
        path.unlink()
        refused(ArtifactError, lambda: stage("evaluate"), str(path), maker)
        path.write_bytes(content)


def test_size_of_the_trained_network_stands_in_the_metrics(pipeline):
    pipeline()
    size = read_metrics("selection")["backbone"]
    cost = json.loads(Path("metrics/cost/train_backbone.json").read_text())
    assert size == {"backbone": "resnet8", "parameters": cost["parameters"], "macs": cost["macs"]}
    assert read_metrics("selection")["joint"].keys() == {"epoch", "select"}


def test_epoch_selected_on_val_is_reported(tmp_path, pipeline):
    last = {"lr": 0.2, "select": "last"}
    write_params(tmp_path, {"train": {"select": "best_val"}, "lws": {"select": "best_val"}, "crt": last})
    pipeline()
    selection = json.loads(Path("metrics/selection.json").read_text())
    assert selection["joint"]["selected_on"] == selection["lws"]["selected_on"] == "val"
    assert "selected_on" not in selection["crt"]


def test_counts_of_another_split_are_refused_by_evaluate(tmp_path, pipeline, stage):
    pipeline()
    write_params(tmp_path, {"imb_factor": 10})
    stage("subsample")
    refused(ArtifactError, lambda: stage("evaluate"), "class_counts.csv", "train")


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


def test_selection_and_predictions_of_another_split_are_refused_by_evaluate(tmp_path, pipeline, stage):
    pipeline()
    names = ("models/ipdpp_selection.h5", "metrics/predictions/ipdpp.h5", "metrics/predictions/ipdpp_uniform.h5")
    old = {name: Path(name).read_bytes() for name in names}
    write_params(tmp_path, {"imb_factor": 50})
    pipeline()
    for name in names:
        new = Path(name).read_bytes()
        Path(name).write_bytes(old[name])
        refused(ArtifactError, lambda: stage("evaluate"), name, "another split", "dvc repro -f finetune_ipdpp")
        Path(name).write_bytes(new)
    stage("evaluate")
