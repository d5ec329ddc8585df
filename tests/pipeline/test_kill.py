"""kill -9 at any moment, then the same command: the bytes of an uninterrupted run."""

import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch._dynamo  # noqa: F401 - optimizers import it at their first step: a second, paid once and not by every fork

from longtail.core.errors import ArtifactError
from tests.conftest import merged, write_params

EPOCHS = 12


@dataclass(frozen=True)
class Work:
    """A stage, what runs before it, a recipe of a second or two, and what it writes."""

    stage: str
    before: tuple[str, ...]
    recipe: dict
    outputs: tuple[str, ...]


BACKBONE = Work(
    "train_backbone",
    ("prepare", "subsample", "pretrain"),
    {"train": {"epochs": EPOCHS, "select": "best_val"}, "runtime": {"checkpoint_every": 2}},
    ("models/backbone.safetensors", "metrics/curves/train_backbone.tsv"),
)
DLSA = Work(
    "train_dlsa",
    (*BACKBONE.before, "train_backbone", "extract_features"),
    {"train": {"epochs": 1}, "dlsa": {"depth": 2, "epochs": 8, "flow_epochs": 4, "patience": 100}},
    (
        "models/dlsa.safetensors",
        "models/dlsa_routing.h5",
        "metrics/predictions/dlsa_control.h5",
        "metrics/predictions/dlsa.h5",
    ),
)

PRETRAIN = Work(
    "pretrain",
    ("prepare", "subsample"),
    {"pretrain": {"method": "bns", "epochs": 6, "bns": {"variant": "paper"}}, "runtime": {"checkpoint_every": 2}},
    ("models/pretrained.safetensors", "metrics/curves/pretrain.tsv"),
)
SMALL = {"train": {"epochs": 6, "width": 4}, "runtime": {"checkpoint_every": 2}}
STATEFUL = {
    # Two passes a step, a partner batch and extra heads; a momentum encoder and a queue; random labels of its own; a
    # predictor whose rate is constant.
    **{name: (BACKBONE, {"train": {"objective": name}}) for name in ("fsgl", "paco")},
    **{name: (PRETRAIN, {"pretrain": {"method": name, "epochs": 6}}) for name in ("moco", "rotation", "simsiam")},
}
OBJECTIVES = {
    name: Work(work.stage, work.before, merged(SMALL, change), work.outputs)
    for name, (work, change) in STATEFUL.items()
}
FINETUNE = Work(
    "finetune_ipdpp",
    DLSA.before,
    {
        "train": {"epochs": 1},
        "ipdpp": {"epochs": 12, "reselect_every": 5, "batch_size": 16, "select": "best_val"},
        "runtime": {"checkpoint_every": 3},
    },
    (
        "models/ipdpp.safetensors",
        "models/ipdpp_selection.h5",
        "data/ipdpp_subset.csv",
        "metrics/curves/finetune_ipdpp.tsv",
        "metrics/ipdpp_images.png",
        "metrics/predictions/ipdpp_uniform.h5",
        "metrics/predictions/ipdpp.h5",
    ),
)

# Forks of this process, which has imported everything, and whose one thread is at rest.
FORKS = multiprocessing.get_context("fork")
_FOLDERS: dict[str, Path] = {}
_UNDISTURBED: dict[str, tuple[dict[str, bytes], float]] = {}


def work_in(folder: str, stage: str, kill_at_rename: int = 0) -> None:
    """Run ``stage`` in ``folder``; with ``kill_at_rename`` die by SIGKILL inside the n-th atomic write.

    Writes of checkpoints and outputs count, and what a stage remembers about code and parameters does not.
    """
    main = importlib.import_module(f"stages.{stage}").main
    os.chdir(folder)
    sys.stdout = open("log", "w", buffering=1)  # noqa: SIM115 - for the rest of this process
    if kill_at_rename:
        replace, calls = Path.replace, []

        def dying(self: Path, target: Path) -> Path:
            if Path(target).parent.name != ".scratch":
                calls.append(target)
            if len(calls) == kill_at_rename:
                os.truncate(self, self.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = dying  # type: ignore[method-assign]
    main()
    sys.stdout.flush()


@dataclass(frozen=True)
class Ready:
    """A folder in which the stage of ``work`` can start."""

    work: Work
    folder: Path

    def start(self, kill_at_rename: int = 0) -> "multiprocessing.process.BaseProcess":
        importlib.import_module(f"stages.{self.work.stage}")
        process = FORKS.Process(target=work_in, args=(str(self.folder), self.work.stage, kill_at_rename))
        process.start()
        return process

    def finish(self) -> tuple[dict[str, bytes], float]:
        begin = time.monotonic()
        process = self.start()
        process.join(120)
        assert process.exitcode == 0
        return {name: (self.folder / name).read_bytes() for name in self.work.outputs}, time.monotonic() - begin

    def undisturbed(self) -> tuple[dict[str, bytes], float]:
        """What ``finish`` gives in a fresh folder, from the first time: stages give the same bytes in every folder."""
        key = repr(self.work)
        if key not in _UNDISTURBED:
            _UNDISTURBED[key] = self.finish()
        return _UNDISTURBED[key]

    def remove_outputs(self) -> None:
        """What dvc does before it runs a stage."""
        for name in self.work.outputs:
            (self.folder / name).unlink(missing_ok=True)

    def checkpoints(self) -> list[Path]:
        return list((self.folder / ".scratch" / self.work.stage).rglob("*.safetensors"))

    def leftovers(self) -> list[Path]:
        return [path for path in self.folder.rglob(".*.partial") if ".scratch" not in path.parts]


@pytest.fixture
def ready(tmp_path, tmp_path_factory, stage, request) -> Ready:
    work = getattr(request, "param", BACKBONE)
    key = repr((work.before, work.recipe))
    if key not in _FOLDERS:
        folder = tmp_path_factory.mktemp("ready")
        write_params(folder, work.recipe)
        with contextlib.chdir(folder):
            for name in work.before:
                stage(name)
        _FOLDERS[key] = folder
    shutil.copytree(_FOLDERS[key], tmp_path, dirs_exist_ok=True)
    return Ready(work, tmp_path)


every_stage = pytest.mark.parametrize(
    "ready", [PRETRAIN, BACKBONE, DLSA, FINETUNE], ids=lambda work: work.stage, indirect=True
)


@every_stage
def test_killed_at_random_moments_gives_the_same_bytes(ready):
    """Two kills, of which the second finds what the first has left, twice. On a busy machine kills may come before any
    checkpoint, so there are more attempts until two came after one."""
    whole, seconds = ready.undisturbed()
    resumed = 0
    for attempt in range(8):
        if attempt >= 2 and resumed >= 2:
            break
        ready.remove_outputs()
        stream = np.random.default_rng(attempt)
        for moment in (stream.uniform(0.1, 0.8), stream.uniform(0.1, 0.5)):
            process = ready.start()
            time.sleep(moment * seconds)
            process.kill()
            process.join()
            resumed += any(ready.checkpoints())
        assert ready.finish()[0] == whole, f"attempt {attempt}"
        assert not ready.leftovers()
        assert not any((ready.folder / ".scratch" / ready.work.stage).glob("*/*")), "scratch is cleared after success"
    assert resumed >= 2, "too few kills came after a checkpoint for this test to mean anything"


def kill_inside_an_atomic_write(ready: Ready, whole: dict[str, bytes], rename: int) -> None:
    process = ready.start(kill_at_rename=rename)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, rename
    for name in ready.work.outputs:
        path = ready.folder / name
        assert not path.exists() or path.read_bytes() == whole[name], f"half-written output at {rename}"


@pytest.mark.parametrize(
    ("ready", "checkpoints", "renames"),
    [
        (BACKBONE, 6, (1, 2, 4, 6, 7, 8)),
        (DLSA, 40, (1, 11, 20, 41, 43, 44)),  # 1 to 8 are of the control, 9 to 16 of flows, 17 to 40 of heads
        (PRETRAIN, 3, (2, 4, 5)),
        (FINETUNE, 8, (2, 3, 7, 9, 15)),  # 1 to 4 are of ipdpp, whose rounds begin with epochs 0, 5 and 10
    ],
    ids=["train_backbone", "train_dlsa", "pretrain", "finetune_ipdpp"],
    indirect=["ready"],
)
def test_killed_inside_atomic_writes_gives_the_same_bytes(ready, checkpoints, renames):
    """Killed in one write after the other: checkpoints come first and are kept, then come the outputs."""
    whole, _ = ready.undisturbed()
    ready.remove_outputs()
    completed = 0
    for rename in renames:
        kill_inside_an_atomic_write(ready, whole, rename - completed)
        completed = min(rename - 1, checkpoints)
    assert ready.finish()[0] == whole


@pytest.mark.parametrize("ready", list(OBJECTIVES.values()), ids=list(OBJECTIVES), indirect=True)
def test_objective_with_a_state_of_its_own_killed_inside_an_atomic_write_gives_the_same_bytes(ready):
    """Renames 1 to 3 are checkpoints, then come the weights and the curves."""
    whole, _ = ready.undisturbed()
    ready.remove_outputs()
    for rename, epoch in ((2, 0), (3, 2)):
        kill_inside_an_atomic_write(ready, whole, rename)
        assert (f"resuming after epoch {epoch}\n" in (ready.folder / "log").read_text()) == bool(epoch)
    assert ready.finish()[0] == whole
    assert "resuming after epoch 6\n" in (ready.folder / "log").read_text()


@pytest.mark.parametrize("ready", [FINETUNE], ids=["finetune_ipdpp"], indirect=True)
def test_killed_finetuning_keeps_the_finished_run_and_goes_on_in_the_open_one(ready):
    process = ready.start(kill_at_rename=7)
    process.join(120)
    ready.finish()
    resumed = [line for line in (ready.folder / "log").read_text().splitlines() if "resuming" in line]
    assert resumed == ["ipdpp: resuming after epoch 12", "ipdpp_uniform: resuming after epoch 6"]


def test_resume_loses_at_most_checkpoint_every_epochs(ready):
    process = ready.start(kill_at_rename=5)
    process.join(120)
    ready.finish()
    assert "resuming after epoch 8" in (ready.folder / "log").read_text()


@pytest.mark.parametrize("ready", [DLSA], ids=["train_dlsa"], indirect=True)
def test_killed_dlsa_keeps_its_finished_parts_and_goes_on_in_the_open_one(ready):
    process = ready.start(kill_at_rename=16)
    process.join(120)
    ready.finish()
    resumed = [line for line in (ready.folder / "log").read_text().splitlines() if "resuming" in line]
    assert resumed == [
        "dlsa_control head 1 of 1: resuming after epoch 8",
        "dlsa flow 1 of 2: resuming after epoch 4",
        "dlsa flow 2 of 2: resuming after epoch 3",
    ]


def test_unfinished_work_of_other_parameters_is_not_resumed(ready):
    process = ready.start(kill_at_rename=5)
    process.join(120)
    write_params(ready.folder, ready.work.recipe, {"train": {"lr": 0.05}})
    changed, _ = ready.finish()
    assert "resuming" not in (ready.folder / "log").read_text()
    ready.remove_outputs()
    assert ready.finish()[0] == changed


@pytest.mark.parametrize(
    ("ready", "endless"),
    [(BACKBONE, {"train": {"epochs": 2000}}), (DLSA, {"dlsa": {"epochs": 100000}})],
    ids=["train_backbone", "train_dlsa"],
    indirect=["ready"],
)
def test_second_process_is_refused_while_the_first_still_trains(ready, endless, stage):
    write_params(ready.folder, ready.work.recipe, endless)
    process = ready.start()
    try:
        deadline = time.monotonic() + 60
        while not ready.checkpoints():
            assert time.monotonic() < deadline and process.is_alive()
            time.sleep(0.05)
        with pytest.raises(ArtifactError, match=rf"in use by process {process.pid}\b"):
            stage(ready.work.stage)
    finally:
        process.kill()
        process.join()
