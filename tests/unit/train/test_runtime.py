import resource
import sys

import pytest
import torch

from longtail.train.runtime import peak_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_is_in_bytes_on_every_platform(monkeypatch, platform, unit):
    """``ru_maxrss`` is in kilobytes on Linux and in bytes on macOS."""

    class Usage:
        ru_maxrss = 12_345

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: Usage)
    assert peak_memory(CPU) == 12_345 * unit


def test_peak_memory_of_this_process_is_plausible():
    assert 2**25 < peak_memory(CPU) < 2**40
