"""The whole default DAG through the real dvc: all rows, all plots, and one stage of each kind in a cold process."""

import json
import re
import shutil
import socket

import yaml

from tests.conftest import HEAD_NAMES, METHODS
from tests.pipeline.conftest import stages_run

BEFORE_HEADS = ["prepare", "subsample", "pretrain", "train_backbone", "extract_features"]
AFTER_HEADS = ["evaluate_backbone", "train_dlsa", "finetune_ipdpp", "evaluate"]
ALL_STAGES = [*BEFORE_HEADS, *(f"rebalance@{m}" for m in HEAD_NAMES), *AFTER_HEADS]


def test_repro_runs_every_stage_prints_the_table_and_leaves_git_clean(reproduced):
    assert set(stages_run(reproduced.first_output)) == set(ALL_STAGES)
    header = next(line for line in reproduced.first_output.splitlines() if line.startswith("METHOD"))
    assert header.split() == ["METHOD", "all", "many", "medium", "few", "macro", "ECE"]
    summary = json.loads((reproduced.folder / "metrics/summary.json").read_text())
    assert set(summary) == set(METHODS)
    assert reproduced.call("git", "status", "--porcelain") == ""


def test_dlsa_needs_no_head(reproduced):
    output = reproduced.dvc("repro", "--dry", "--force", "train_dlsa")
    assert stages_run(output) == [*BEFORE_HEADS, "train_dlsa"]


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


def test_plain_commands_run_every_kind_of_stage_and_give_the_bytes_of_warm_ones(reproduced, clone):
    """``dvc`` and one stage of each kind as processes of their own, as users run them: no warm commands."""
    other = clone(reproduced, plain=True)
    dag = yaml.safe_load((other.folder / "dvc.yaml").read_text())["stages"]
    kinds = [f"{name}@{next(iter(stage['foreach']))}" if "foreach" in stage else name for name, stage in dag.items()]
    for made in ("models/heads", "metrics/predictions"):  # what evaluate needs of the other heads
        shutil.copytree(reproduced.folder / made, other.folder / made)
    (other.folder / "metrics/backbone.json").unlink()  # it is in git, so its stage would be up to date
    assert ["check", *stages_run(other.dvc("repro", "--single-item", *kinds))] == kinds
    warm, plain = ((project.folder / "dvc.lock").read_text() for project in (reproduced, other))
    assert plain == warm
