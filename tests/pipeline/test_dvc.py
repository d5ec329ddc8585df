"""What a user types: dvc repro, exp run -S, metrics diff, plots, push and pull, the queue."""

import json
import re
import shutil
import socket

import yaml

from tests.conftest import HEAD_NAMES, METHODS, write_params
from tests.imports import ROOT
from tests.pipeline.conftest import copy_code, stages_run

ALL_STAGES = ["prepare", "subsample", "pretrain", "train_backbone", "extract_features",
              *(f"rebalance@{m}" for m in HEAD_NAMES), "train_dlsa", "finetune_ipdpp", "evaluate"]  # fmt: skip
AFTER_SUBSAMPLE = set(ALL_STAGES) - {"prepare", "subsample"}


def summary(project):
    return json.loads((project.folder / "metrics/summary.json").read_text())


def test_repro_runs_every_stage_prints_the_table_and_leaves_git_clean(reproduced):
    assert set(stages_run(reproduced.first_output)) == set(ALL_STAGES)
    header = next(line for line in reproduced.first_output.splitlines() if line.startswith("METHOD"))
    assert header.split() == ["METHOD", "all", "many", "medium", "few", "macro", "ECE"]
    assert set(summary(reproduced)) == set(METHODS)
    assert reproduced.call("git", "status", "--porcelain") == ""


def test_second_repro_runs_nothing(reproduced):
    output = reproduced.dvc("repro")
    assert stages_run(output) == []
    assert output.count("Running stage 'check'") == 1


def test_changed_crt_epochs_run_crt_and_evaluate_and_going_back_runs_nothing(reproduced):
    before = summary(reproduced)
    assert stages_run(reproduced.dvc("exp", "run", "-S", "crt.epochs=3")) == ["rebalance@crt", "evaluate"]
    assert {m for m in METHODS if summary(reproduced)[m] != before[m]} <= {"crt"}
    back = reproduced.dvc("exp", "run", "-S", "crt.epochs=2")
    assert stages_run(back) == []
    assert summary(reproduced) == before


def test_changed_dlsa_runs_dlsa_and_evaluate_and_going_back_runs_nothing(reproduced):
    before = summary(reproduced)
    assert stages_run(reproduced.dvc("exp", "run", "-S", "dlsa.depth=3")) == ["train_dlsa", "evaluate"]
    after = summary(reproduced)
    assert {method for method in METHODS if after[method] != before[method]} <= {"dlsa"}
    diff = json.loads(reproduced.dvc("metrics", "diff", "--json"))
    assert diff["metrics/selection.json"]["dlsa.depth"] == {"old": 1, "new": 3, "diff": 2}
    assert {"level_3", "route_4"} <= {name.split(".")[0] for name in diff["metrics/dlsa.json"]}
    latent = reproduced.dvc("exp", "run", "-S", "dlsa.depth=auto", "-S", "dlsa.preset=latent")
    assert stages_run(latent) == ["train_dlsa", "evaluate"]
    selection = json.loads((reproduced.folder / "metrics/selection.json").read_text())
    assert selection["dlsa"]["preset"] == "latent"
    assert stages_run(reproduced.dvc("exp", "run", "-S", "dlsa.preset=small")) == []
    assert summary(reproduced) == before
    assert reproduced.call("git", "status", "--porcelain", "metrics", "dvc.lock") == ""


def test_changed_ipdpp_runs_finetuning_and_evaluate_and_going_back_runs_nothing(reproduced):
    before = summary(reproduced)
    changed = reproduced.dvc("exp", "run", "-S", "ipdpp.k=20*n_min", "-S", "ipdpp.scale=n2")
    assert stages_run(changed) == ["finetune_ipdpp", "evaluate"]
    after = summary(reproduced)
    assert {method for method in METHODS if after[method] != before[method]} <= {"ipdpp", "ipdpp_uniform"}
    diff = json.loads(reproduced.dvc("metrics", "diff", "--json"))
    assert {name.split(".")[0] for name in diff["metrics/summary.json"]} == {"ipdpp", "ipdpp_uniform"}
    assert diff["metrics/selection.json"]["ipdpp.images"]["diff"] > 0
    assert stages_run(reproduced.dvc("exp", "run", "-S", "ipdpp.k=10*n_min", "-S", "ipdpp.scale=n")) == []
    assert summary(reproduced) == before
    assert reproduced.call("git", "status", "--porcelain", "metrics", "dvc.lock") == ""


def test_pretraining_and_its_linear_probe_by_name(reproduced):
    before = summary(reproduced)
    short = ["-S", "pretrain.epochs=2", "-S", "pretrain.warmup_epochs=0", "-S", "pretrain.bns.projector_hidden=32"]
    method = ["-S", "pretrain.method=bns", "-S", "train.trainable=head"]
    output = reproduced.dvc("exp", "run", *method, *short, "rebalance@joint")
    assert stages_run(output) == ["pretrain", "train_backbone", "extract_features", "rebalance@joint"]
    assert "train.per_class: at most 10 images per class, 70 of 304 images" in output
    assert len((reproduced.folder / "metrics/curves/pretrain.tsv").read_text().splitlines()) == 3
    refused = reproduced.dvc("exp", "run", "-S", "pretrain.method=none", check=False)
    assert (
        "error: pretrain.epochs must be 200, its default, since it has no effect with pretrain.method: none" in refused
    )
    reproduced.call("git", "checkout", "-q", "params.yaml")
    assert stages_run(reproduced.dvc("repro")) == []
    assert summary(reproduced) == before
    assert reproduced.call("git", "status", "--porcelain", "metrics", "dvc.lock") == ""


def test_changed_imbalance_runs_subsample_and_what_follows_and_diffs_name_every_method(reproduced):
    output = reproduced.dvc("exp", "run", "-S", "imb_factor=50")
    assert stages_run(output)[0] == "subsample"
    assert set(stages_run(output)) == AFTER_SUBSAMPLE | {"subsample"}
    diff = json.loads(reproduced.dvc("metrics", "diff", "--json"))
    changed = {name.split(".")[0] for name in diff["metrics/summary.json"]}
    assert changed == set(METHODS)
    shown = reproduced.dvc("exp", "show", "--csv")
    assert "joint.few" in shown and "imb_factor" in shown
    assert stages_run(reproduced.dvc("exp", "run", "-S", "imb_factor=100")) == []


def test_changed_shots_run_evaluate_alone(reproduced):
    output = reproduced.dvc("exp", "run", "-S", "shots.many_above=50")
    assert stages_run(output) == ["evaluate"]
    assert stages_run(reproduced.dvc("exp", "run", "-S", "shots.many_above=100")) == []


def test_runtime_changes_run_nothing(reproduced):
    assert stages_run(reproduced.dvc("exp", "run", "-S", "runtime.checkpoint_every=2")) == []
    reproduced.call("git", "checkout", "-q", "params.yaml")


def test_a_bad_value_ends_with_one_sentence_and_keeps_the_results(reproduced):
    before = summary(reproduced)
    output = reproduced.dvc("exp", "run", "-S", "imb_factor=abc", check=False)
    assert "error: imb_factor must be a finite number, got abc" in output
    assert "Traceback" not in output
    reproduced.call("git", "checkout", "-q", ".")
    reproduced.dvc("checkout")
    assert summary(reproduced) == before


def test_any_first_command_works_in_a_fresh_clone(tmp_path):
    """A clone of the repository has no dvc.lock and no cache."""
    project = copy_code(tmp_path / "fresh")
    write_params(project.folder)
    shutil.copy(ROOT / "metrics/summary.json", project.folder / "metrics/summary.json")
    project.commit("code")
    output = project.dvc("exp", "run", "-S", "train.objective=focal", "rebalance@joint")
    assert stages_run(output)[-1] == "rebalance@joint"
    assert project.call("git", "status", "--porcelain").split() == ["M", "params.yaml", "??", "dvc.lock"]
    project.dvc("metrics", "diff")


def test_one_head_runs_just_what_it_needs(reproduced, clone):
    output = clone(reproduced).dvc("repro", "rebalance@tau")
    assert stages_run(output) == [
        "prepare",
        "subsample",
        "pretrain",
        "train_backbone",
        "extract_features",
        "rebalance@tau",
    ]


def test_dlsa_needs_no_head(reproduced):
    output = reproduced.dvc("repro", "--dry", "--force", "train_dlsa")
    assert stages_run(output) == [*ALL_STAGES[:5], "train_dlsa"]


def test_push_and_pull_give_a_second_clone_everything_without_running_a_stage(reproduced, clone, tmp_path):
    reproduced.dvc("remote", "add", "--local", "--default", "--force", "store", str(tmp_path / "remote"))
    reproduced.dvc("push")
    other = clone(reproduced)
    other.dvc("remote", "add", "--local", "--default", "store", str(tmp_path / "remote"))
    other.dvc("pull")
    assert stages_run(other.dvc("repro")) == []
    lock = yaml.safe_load((other.folder / "dvc.lock").read_text())
    for stage in lock["stages"].values():
        for out in stage["outs"]:
            assert (other.folder / out["path"]).exists(), out["path"]
    table = other.call("python", "-m", "stages.table")
    assert {line.split()[0] for line in table.splitlines()} >= {"METHOD", *METHODS}


def test_plots_render_every_plot_of_the_dag(reproduced):
    reproduced.dvc("plots", "show", "-o", "plots_out")
    page = (reproduced.folder / "plots_out/index.html").read_text()
    plots = yaml.safe_load((reproduced.folder / "metrics/dvc.yaml").read_text())["plots"]
    declared = [plot if isinstance(plot, str) else next(iter(plot)) for plot in plots]
    assert len(declared) == 19
    shutil.rmtree(reproduced.folder / "plots_out")
    assert "<DVC_METRIC" not in page
    drawn = set(re.findall(r'<div\s+id ?= ?"([^"]+)"', page))
    names = [f"metrics/{path}" if "." in path else path for path in declared]  # a plot of several files has a name
    assert drawn == {re.sub(r"\W", "_", name) for name in names}


def test_outputs_keep_no_path_time_or_host(reproduced):
    lock = yaml.safe_load((reproduced.folder / "dvc.lock").read_text())
    files = [reproduced.folder / out["path"] for stage in lock["stages"].values() for out in stage["outs"]]
    for path in [f for p in files for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()]:
        content = path.read_bytes()
        assert str(reproduced.folder).encode() not in content, path
        assert len(socket.gethostname()) < 4 or socket.gethostname().encode() not in content, path


def test_the_repositorys_params_survive_a_change_and_back_byte_for_byte(tmp_path):
    """dvc rewrites params.yaml on -S; its comments and its spelling must be what dvc would write."""
    project = copy_code(tmp_path / "project")
    project.commit("code")
    before = (project.folder / "params.yaml").read_bytes()
    for settings in (["imb_factor=50", "runtime.progress=off"], ["imb_factor=100", "runtime.progress=auto"]):
        modify = "from dvc.utils.hydra import apply_overrides as a; import sys; a('params.yaml', sys.argv[1:])"
        project.call("python", "-c", modify, *settings)
    assert (project.folder / "params.yaml").read_bytes() == before


def test_compiled_modules_do_not_count_as_code(reproduced):
    """They differ from clone to clone, so a folder of code must hash the same with and without them."""
    assert reproduced.dvc("status").split() == ["check:", "always", "changed"]
    for package in ("longtail/data", "longtail/models"):
        (reproduced.folder / package / "__pycache__").mkdir(exist_ok=True)
        (reproduced.folder / package / "__pycache__" / "other.cpython-311.pyc").write_bytes(b"compiled elsewhere")
    assert reproduced.dvc("status").split() == ["check:", "always", "changed"]
