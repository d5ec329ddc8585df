"""kill -9 at any moment, then the same command: the bytes of an uninterrupted run."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from longtail.errors import ArtifactError
from tests.conftest import write_params

OUTPUTS = ("models/backbone.pt", "metrics/curves/train_backbone.tsv")
EPOCHS = 24
RECIPE = {"train": {"epochs": EPOCHS, "select": "best_val"}, "runtime": {"checkpoint_every": 2}}

# A clean process that has imported torch and is forked for each attempt: seconds become milliseconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "torch._dynamo", "pandas", "h5py", "PIL.Image"])


def train_in(folder: str, kill_at_rename: int = 0) -> None:
    """Run the stage in ``folder``; with ``kill_at_rename`` die by SIGKILL inside the n-th atomic write."""
    from stages import train_backbone

    os.chdir(folder)
    os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    if kill_at_rename:
        replace, calls = Path.replace, []

        def dying(self: Path, target: Path) -> Path:
            calls.append(target)
            if len(calls) == kill_at_rename:
                os.truncate(self, self.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = dying  # type: ignore[method-assign]
    train_backbone.main()
    sys.stdout.flush()


def start(folder: Path, kill_at_rename: int = 0) -> "multiprocessing.process.BaseProcess":
    process = FORKS.Process(target=train_in, args=(str(folder), kill_at_rename))
    process.start()
    return process


@pytest.fixture
def ready(tmp_path, stage) -> Path:
    """A folder in which train_backbone can start, with a recipe of a second or two."""
    write_params(tmp_path, RECIPE)
    for name in ("prepare", "subsample", "pretrain"):
        stage(name)
    return tmp_path


def finish(folder: Path) -> tuple[dict[str, bytes], float]:
    begin = time.monotonic()
    process = start(folder)
    process.join(120)
    assert process.exitcode == 0
    return {name: (folder / name).read_bytes() for name in OUTPUTS}, time.monotonic() - begin


def remove_outputs(folder: Path) -> None:
    """What dvc does before it runs a stage."""
    for name in OUTPUTS:
        (folder / name).unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*.partial") if ".scratch" not in path.parts]


def test_killed_at_random_moments_gives_the_same_bytes(ready):
    whole, _ = finish(ready)
    remove_outputs(ready)
    seconds = finish(ready)[1]  # without what only the first process pays for
    resumed = 0
    for seed in range(6):
        remove_outputs(ready)
        process = start(ready)
        time.sleep(np.random.default_rng(seed).uniform(0.1, 0.95) * seconds)
        process.kill()
        process.join()
        resumed += any((ready / ".scratch/train_backbone").glob("*/checkpoint.pt"))
        assert finish(ready)[0] == whole, f"attempt {seed}"
        assert not leftovers(ready)
        assert not any((ready / ".scratch/train_backbone").glob("*/*")), "scratch is cleared after success"
    assert resumed >= 2, "too few attempts died after a checkpoint for this test to mean anything"


@pytest.mark.parametrize("rename", [1, 2, 7, EPOCHS // 2, EPOCHS // 2 + 1, EPOCHS // 2 + 2])
def test_killed_inside_an_atomic_write_gives_the_same_bytes(ready, rename):
    """Checkpoints are renames 1 to 12, then come backbone.pt and the curves."""
    whole, _ = finish(ready)
    remove_outputs(ready)
    process = start(ready, kill_at_rename=rename)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    for name in OUTPUTS:
        assert not (ready / name).exists() or (ready / name).read_bytes() == whole[name], "half-written output"
    assert finish(ready)[0] == whole


def test_resume_loses_at_most_checkpoint_every_epochs(ready):
    process = start(ready, kill_at_rename=8)
    process.join(120)
    finish(ready)
    assert "resuming after epoch 14" in (ready / "log").read_text()


def test_unfinished_work_of_other_parameters_is_not_resumed(ready):
    process = start(ready, kill_at_rename=8)
    process.join(120)
    write_params(ready, RECIPE, {"train": {"lr": 0.05}})
    changed, _ = finish(ready)
    assert "resuming" not in (ready / "log").read_text()
    remove_outputs(ready)
    assert finish(ready)[0] == changed


def test_second_process_is_refused_while_the_first_still_trains(ready, stage):
    write_params(ready, RECIPE, {"train": {"epochs": 2000}})
    process = start(ready)
    try:
        deadline = time.monotonic() + 60
        while not any((ready / ".scratch/train_backbone").glob("*/checkpoint.pt")):
            assert time.monotonic() < deadline and process.is_alive()
            time.sleep(0.05)
        with pytest.raises(ArtifactError, match=rf"in use by process {process.pid}\b"):
            stage("train_backbone")
    finally:
        process.kill()
        process.join()
