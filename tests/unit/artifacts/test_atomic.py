"""Writing: a file is whole or absent."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from longtail.artifacts.atomic import atomic_open, atomic_path
from tests.unit.artifacts.helpers import WRITERS, in_child


def kill_at(function: Callable, monkeypatch_target: tuple[object, str]) -> int:
    """Run ``function`` in a child that is killed when it reaches the named attribute."""

    def work() -> None:
        owner, name = monkeypatch_target
        setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        function()

    return in_child(work)


@pytest.fixture(params=list(WRITERS))
def write(request):
    return WRITERS[request.param]


def test_error_in_the_middle_keeps_the_old_file_and_leaves_no_other(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_open(target) as file:
        file.write("new")
        file.flush()
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_error_before_the_first_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", [(Path, "replace"), (os, "fsync")], ids=["rename", "flush"])
def test_kill_in_the_middle_keeps_the_old_file_and_the_next_write_succeeds(tmp_path, write, moment):
    target = tmp_path / "file"
    write(target, 1)
    old = target.read_bytes()
    status = kill_at(lambda: write(target, 2), moment)
    assert os.WIFSIGNALED(status)
    assert target.read_bytes() == old
    write(target, 2)
    assert target.read_bytes() != old
    assert list(tmp_path.iterdir()) == [target]


def test_kill_in_the_first_write_leaves_no_target(tmp_path, write):
    target = tmp_path / "file"
    assert os.WIFSIGNALED(kill_at(lambda: write(target, 1), (Path, "replace")))
    assert not target.exists()


def test_half_written_partial_of_a_killed_process_is_replaced(tmp_path, write):
    target, clean = tmp_path / "file", tmp_path / "clean"
    (tmp_path / ".file.partial").write_bytes(b"left behind" * 10000)
    write(target, 1)
    write(clean, 1)
    assert target.read_bytes() == clean.read_bytes()


def test_missing_folders_are_made(tmp_path, write):
    write(tmp_path / "deep" / "er" / "file", 1)
    assert (tmp_path / "deep" / "er" / "file").is_file()
