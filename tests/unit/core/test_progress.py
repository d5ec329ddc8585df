"""Progress bars and lines."""

import time

import pytest

from longtail.core.progress import Progress


def report(mode: str, capsys: pytest.CaptureFixture, total: int = 3, done: int = 0) -> str:
    with Progress(total, "reading", mode, done) as progress:
        for _ in range(total - done):
            progress.advance(note="loss 0.5")
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_progress_off_is_silent(capsys):
    assert report("off", capsys) == ""


def test_progress_auto_writes_lines_where_there_is_no_terminal(capsys):
    assert report("auto", capsys) == "reading: 3/3, loss 0.5, 0 s left\n"


def test_progress_bar_shows_label_count_and_note(capsys):
    shown = report("bar", capsys)
    assert "reading" in shown
    assert "3/3" in shown
    assert "loss 0.5" in shown


def test_progress_of_a_resumed_run_counts_what_was_done_before(capsys):
    assert report("lines", capsys, total=5, done=4) == "reading: 5/5, loss 0.5, 0 s left\n"
    assert report("lines", capsys, total=0) == ""


def test_progress_lines_estimate_the_time_left_from_this_run_only(capsys, monkeypatch):
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    Progress(10, "training", "lines", done=4).advance(2)
    assert capsys.readouterr().err == "training: 6/10, 20 s left\n"
