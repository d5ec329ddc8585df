"""What a user types: dvc repro, exp run -S, metrics diff, push and pull, in a repository with a few heads."""

import json
import shutil

import yaml
from dvc.utils.hydra import apply_overrides

from tests.conftest import write_params
from tests.imports import ROOT
from tests.pipeline.conftest import FEW_HEADS, copy_code, stages_run
from tests.pipeline.helpers import BEFORE

ROWS = {*FEW_HEADS, "dlsa_control", "dlsa", "ipdpp_uniform", "ipdpp"}


def summary(project):
    return json.loads((project.folder / "metrics/summary.json").read_text())


def test_second_repro_runs_nothing(few_heads):
    output = few_heads.dvc("repro")
    assert stages_run(output) == []
    assert output.count("Running stage 'check'") == 1


def test_a_changed_method_runs_itself_and_evaluate_and_going_back_runs_nothing(few_heads):
    before = last = summary(few_heads)
    for settings, stage, rows in (
        (["crt.epochs=3"], "rebalance@crt", {"crt"}),
        (["dlsa.depth=3"], "train_dlsa", {"dlsa"}),
        (["ipdpp.k=20*n_min", "ipdpp.scale=n2"], "finetune_ipdpp", {"ipdpp", "ipdpp_uniform"}),
        (["shots.many_above=50"], "evaluate_backbone", ROWS),
    ):
        output = few_heads.dvc("exp", "run", *(word for setting in settings for word in ("-S", setting)))
        assert sorted(stages_run(output)) == sorted([stage, "evaluate"])
        assert {row for row in ROWS if summary(few_heads)[row] != last[row]} <= rows
        last = summary(few_heads)
    diff = json.loads(few_heads.dvc("metrics", "diff", "--json"))
    assert diff["metrics/selection.json"]["dlsa.depth"] == {"old": 1, "new": 3, "diff": 2}
    assert {"level_3", "route_4"} <= {name.split(".")[0] for name in diff["metrics/dlsa.json"]}
    assert diff["metrics/selection.json"]["ipdpp.images"]["diff"] > 0
    assert {"ipdpp", "ipdpp_uniform"} <= {name.split(".")[0] for name in diff["metrics/summary.json"]}
    back = ["crt.epochs=2", "dlsa.depth=auto", "ipdpp.k=10*n_min", "ipdpp.scale=n"]
    back.append("shots.many_above=100")
    assert stages_run(few_heads.dvc("exp", "run", *(word for setting in back for word in ("-S", setting)))) == []
    assert summary(few_heads) == before
    assert few_heads.call("git", "status", "--porcelain", "metrics", "dvc.lock") == ""


def test_pretraining_and_its_linear_probe_by_name(few_heads):
    before = summary(few_heads)
    short = ["-S", "pretrain.epochs=2", "-S", "pretrain.warmup_epochs=0", "-S", "pretrain.bns.projector_hidden=32"]
    method = ["-S", "pretrain.method=bns", "-S", "train.trainable=head"]
    output = few_heads.dvc("exp", "run", *method, *short, "rebalance@joint")
    assert stages_run(output) == ["pretrain", "train_backbone", "extract_features", "rebalance@joint"]
    assert "train.per_class: at most 10 images per class, 70 of 304 images" in output
    assert len((few_heads.folder / "metrics/curves/pretrain.tsv").read_text().splitlines()) == 3
    refused = few_heads.dvc("exp", "run", "-S", "pretrain.method=none", check=False)
    assert (
        "error: pretrain.epochs must be 200, its default, since it has no effect with pretrain.method: none" in refused
    )
    few_heads.call("git", "checkout", "-q", "params.yaml")
    assert stages_run(few_heads.dvc("repro")) == []
    assert summary(few_heads) == before
    assert few_heads.call("git", "status", "--porcelain", "metrics", "dvc.lock") == ""


def test_changed_imbalance_runs_subsample_and_what_follows_and_diffs_name_every_method(few_heads):
    output = few_heads.dvc("exp", "run", "-S", "imb_factor=50")
    assert stages_run(output)[0] == "subsample"
    heads = [f"rebalance@{head}" for head in FEW_HEADS]
    after = [*BEFORE[1:], *heads, "evaluate_backbone", "train_dlsa", "finetune_ipdpp", "evaluate"]
    assert sorted(stages_run(output)) == sorted(after)
    diff = json.loads(few_heads.dvc("metrics", "diff", "--json"))
    changed = {name.split(".")[0] for name in diff["metrics/summary.json"]}
    assert changed == ROWS
    shown = few_heads.dvc("exp", "show", "--csv")
    assert "joint.few" in shown and "imb_factor" in shown
    assert stages_run(few_heads.dvc("exp", "run", "-S", "imb_factor=100")) == []


def test_runtime_changes_run_nothing(few_heads):
    assert stages_run(few_heads.dvc("exp", "run", "-S", "runtime.checkpoint_every=2")) == []
    few_heads.call("git", "checkout", "-q", "params.yaml")


def test_a_bad_value_ends_with_one_sentence_and_keeps_the_results(few_heads):
    before = summary(few_heads)
    output = few_heads.dvc("exp", "run", "-S", "imb_factor=abc", check=False)
    assert "error: imb_factor must be a finite number, got abc" in output
    assert "Traceback" not in output
    few_heads.call("git", "checkout", "-q", ".")
    few_heads.dvc("checkout")
    assert summary(few_heads) == before


def test_any_first_command_works_in_a_fresh_clone_and_one_head_runs_just_what_it_needs(tmp_path):
    """A clone of the repository has no dvc.lock and no cache."""
    project = copy_code(tmp_path / "fresh", FEW_HEADS)
    write_params(project.folder, heads=FEW_HEADS)
    shutil.copy(ROOT / "metrics/summary.json", project.folder / "metrics/summary.json")
    project.commit("code")
    output = project.dvc("exp", "run", "-S", "train.objective=focal", "rebalance@tau")
    assert stages_run(output) == [*BEFORE, "rebalance@tau"]
    assert project.call("git", "status", "--porcelain").split() == ["M", "params.yaml", "??", "dvc.lock"]
    project.dvc("metrics", "diff")


def test_push_and_pull_give_a_second_clone_everything_without_running_a_stage(few_heads, clone, tmp_path):
    few_heads.dvc("remote", "add", "--local", "--default", "--force", "store", str(tmp_path / "remote"))
    few_heads.dvc("push")
    other = clone(few_heads)
    other.dvc("remote", "add", "--local", "--default", "store", str(tmp_path / "remote"))
    other.dvc("pull")
    assert stages_run(other.dvc("repro")) == []
    lock = yaml.safe_load((other.folder / "dvc.lock").read_text())
    for stage in lock["stages"].values():
        for out in stage["outs"]:
            assert (other.folder / out["path"]).exists(), out["path"]
    table = other.call("python", "-m", "stages.table")
    assert {line.split()[0] for line in table.splitlines()} >= {"METHOD", *ROWS}


def test_the_repositorys_params_survive_a_change_and_back_byte_for_byte(tmp_path):
    """dvc rewrites params.yaml on -S; its comments and its spelling must be what dvc would write."""
    before = (ROOT / "params.yaml").read_bytes()
    (tmp_path / "params.yaml").write_bytes(before)
    for settings in (["imb_factor=50", "runtime.progress=off"], ["imb_factor=100", "runtime.progress=auto"]):
        apply_overrides(tmp_path / "params.yaml", settings)
    assert (tmp_path / "params.yaml").read_bytes() == before


def test_compiled_modules_do_not_count_as_code(few_heads):
    """They differ from clone to clone, so a folder of code must hash the same with and without them."""
    assert few_heads.dvc("status").split() == ["check:", "always", "changed"]
    for package in ("longtail/data", "longtail/models"):
        (few_heads.folder / package / "__pycache__").mkdir(exist_ok=True)
        (few_heads.folder / package / "__pycache__" / "other.cpython-311.pyc").write_bytes(b"compiled elsewhere")
    assert few_heads.dvc("status").split() == ["check:", "always", "changed"]
