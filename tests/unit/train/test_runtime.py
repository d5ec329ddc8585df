import resource
import sys
from types import SimpleNamespace

import pytest
import torch

from longtail.core.errors import ConfigError
from longtail.train.params import RuntimeParams
from longtail.train.runtime import describe, peak_memory, set_up

CPU = torch.device("cpu")


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("linux", 1024)])
def test_peak_memory_is_in_bytes_on_each_platform(monkeypatch, platform, unit):
    """The system counts bytes on macOS and KiB on Linux."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=5000 * (who == 0)))
    assert resource.RUSAGE_SELF == 0
    assert peak_memory(CPU) == 5000 * unit


def test_peak_memory_of_this_process_is_plausible():
    assert 2**25 < peak_memory(CPU) < 2**40


def test_auto_is_the_cpu_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert set_up(RuntimeParams(device="auto")) == CPU
    with pytest.raises(ConfigError, match=r"runtime\.device must be a device that torch sees .*, got cuda:0"):
        set_up(RuntimeParams(device="cuda:0"))


def test_description_names_what_can_change_results_by_rounding():
    found = describe(RuntimeParams(threads=3, compile=True), CPU)
    assert (found["device"], found["threads"], found["compile"]) == ("cpu", 3, 1)
    assert found["torch"].startswith(torch.__version__.partition("+")[0])
