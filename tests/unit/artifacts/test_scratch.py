"""Scratch folders: held by one process, found again by the same identity only."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from longtail.artifacts.scratch import Scratch
from longtail.core.errors import ArtifactError


def hold(base: Path, ready: int, then: Callable[[], None]) -> None:
    with Scratch(base, {}):
        os.write(ready, b"x")
        then()


def start_holder(base: Path, then: Callable[[], None]) -> int:
    """A child that holds the scratch folder and then does ``then``; returns once it holds it."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        hold(base, sender, then)
        os._exit(0)
    os.close(sender)
    assert os.read(receiver, 1) == b"x"
    os.close(receiver)
    return child


def test_scratch_held_by_another_process_is_refused_with_its_id_and_free_after_its_death(tmp_path):
    child = start_holder(tmp_path / "s", lambda: time.sleep(60))
    try:
        with pytest.raises(ArtifactError, match=rf"s is in use by process {child}, "), Scratch(tmp_path / "s", {}):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with Scratch(tmp_path / "s", {}):
        pass


def test_scratch_of_a_killed_process_is_free_while_its_loader_workers_still_end(tmp_path):
    """Loader workers are forks of the stage, and outlive its kill by seconds."""
    receiver, sender = os.pipe()

    def fork_a_worker() -> None:
        worker = os.fork()
        if worker == 0:
            signal.alarm(60)
            time.sleep(60)
            os._exit(0)
        os.write(sender, str(worker).encode())
        time.sleep(60)

    child = start_holder(tmp_path / "s", fork_a_worker)
    worker = int(os.read(receiver, 20))
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with Scratch(tmp_path / "s", {}):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(receiver)
        os.close(sender)


def test_scratch_is_found_again_by_the_same_identity_only(tmp_path):
    with Scratch(tmp_path, {"a": 1, "b": [2]}) as scratch:
        (scratch.folder / "work").write_text("unfinished")
    with Scratch(tmp_path, {"b": [2], "a": 1}) as scratch:
        assert (scratch.folder / "work").read_text() == "unfinished"
    for other in ({"a": 2, "b": [2]}, {"a": 1}, {"a": 1, "b": ["2"]}):
        with Scratch(tmp_path, other) as scratch:
            assert list(scratch.folder.iterdir()) == []


def test_scratch_clear_removes_its_own_work_and_keeps_that_of_other_identities(tmp_path):
    with Scratch(tmp_path, {"a": 1}) as other:
        (other.folder / "work").write_text("unfinished")
    with Scratch(tmp_path, {"a": 2}) as scratch:
        scratch.clear()
    assert not scratch.folder.exists()
    assert (other.folder / "work").read_text() == "unfinished"


def test_scratch_is_released_by_an_error(tmp_path):
    with pytest.raises(RuntimeError), Scratch(tmp_path, {}):
        raise RuntimeError
    with Scratch(tmp_path, {}):
        pass
