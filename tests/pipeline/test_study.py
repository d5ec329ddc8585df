"""Studies through the real dvc: every run is an experiment, nothing runs twice, and a killed study goes on."""

import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

from tests.conftest import write_params
from tests.pipeline.conftest import Project, copy_code

TOY = ["toy_case2", "--steps", "100", "5000", "--jobs", "1"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = copy_code(tmp_path_factory.mktemp("study"))
    write_params(project.folder, {"train": {"epochs": 2}})
    project.commit("code")
    return project


def study(project: Project, *words: str, check: bool = True) -> str:
    return project.call("python", "-m", "stages.study", *words, check=check)


def test_a_killed_study_goes_on_and_nothing_runs_twice(project):
    before = (project.folder / "params.yaml").read_bytes()
    first = subprocess.Popen(
        [sys.executable, "-m", "stages.study", *TOY],
        cwd=project.folder,
        stdout=subprocess.PIPE,
        text=True,
        env=project.environment(),
    )
    for line in first.stdout:
        if "1 of 2" in line:
            break
    os.kill(first.pid, signal.SIGKILL)  # dvc itself goes on with the second run
    first.wait()
    first.stdout.close()

    output = study(project, *TOY)
    assert "toy_case2: 2 runs, " in output and ", 0 finished before" not in output
    experiments = project.dvc("exp", "list", "--name-only").split()
    assert len(experiments) == 2 and all(name.startswith("toy_case2-i") for name in experiments)
    again = study(project, *TOY)
    assert "2 runs, 2 finished before" in again and "of 2," not in again
    assert project.dvc("exp", "list", "--name-only").split() == experiments

    found = pd.read_csv(project.folder / "metrics/studies/toy_case2.csv")
    assert found[["case", "i", "seed", "n_head", "n_tail"]].to_numpy().tolist() == [
        [2, 0, 0, 134, 134],
        [2, 49, 0, 134, 2],
    ]
    accuracies = found[[f"accuracy {digit}" for digit in range(10)]]
    assert accuracies.mean(axis=1).tolist() == pytest.approx(found["top1"].tolist(), abs=0.01)
    assert (found["top5"] >= found["top1"]).all()
    page = (project.folder / "metrics/studies/toy_case2.html").read_text()
    assert "<svg" in page and "published, CIFAR-10" in page and "longtail study toy_case2 --seeds 0" in page

    shown = project.dvc("exp", "show", "--csv", "--only-changed")
    assert all(name in shown for name in experiments) and shown.startswith("Experiment,rev,typ,Created,all,")
    assert (project.folder / "params.yaml").read_bytes() == before
    assert project.call("git", "status", "--porcelain").split() == ["??", "metrics/studies/"]


def test_a_run_that_fails_is_named_and_writes_no_table(project):
    output = study(project, "toy_case1", "--steps", "100", "--set", "train.lr=1.0e+30", check=False)
    assert "error: 1 of 1 runs failed: i00-head2-tail1-seed0 (" in output and "not finite" in output
    assert not (project.folder / "metrics/studies/toy_case1.csv").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["toy_case1", "--tail", "ten"], "--tail must be the name of a class"),
        (["toy_case1", "--set", "train.epoch=2"], "train.epoch is not a key"),
        (["toy_case1", "--set", "epochs"], "--set must be KEY=VALUE"),
        (["toy_case1", "--set", "seed=5"], "--set cannot change seed, which the study toy_case1 sets itself"),
        (["virtual_similar", "--set", "pretrain.method=moco"], "--set cannot change pretrain.method"),
        (["toy_case1", "--seeds", "-1"], "--seeds must be at least 0 and below 2^32, got -1"),
        (["toy_case1", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["virtual_similar", "--head", "9"], "--tail must be another class than --head, got 9"),
        (["architectures", "--only", "resnet9*"], "--only must match a run, such as resnet8-ce-imb10"),
        (["similarity", "--method", "svm"], "--method must be a row of the table"),
        (["similarity"], "metrics/predictions/joint.h5 is missing"),
    ],
)
def test_bad_options_end_in_one_sentence_before_any_run(project, words, message):
    output = study(project, *words, check=False)
    assert f"error: {message}" in output and "Traceback" not in output
