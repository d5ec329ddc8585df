"""Weights files: nothing of them runs, and what cannot be read is refused by name."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from longtail.models.weight_files import read_file
from longtail.models.weights import load_file
from tests.unit.models.helpers import build, load, refusal, state_of


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("hidden", [False, True])
def test_code_in_a_file_is_refused_by_name_and_never_runs(tmp_path, new, hidden):
    code: Any = _Code(tmp_path / "ran")
    content = {"state_dict": state_of(), "evil": np.array([code], dtype=object) if hidden else code}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=new)
    message = refusal(lambda: load_file(build(), tmp_path / "bad.pth"))
    assert "bad.pth" in message and ("numpy" if hidden else "system") in message and "was not loaded" in message
    assert not (tmp_path / "ran").exists()


def test_whole_module_is_refused_by_name(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    assert "torch.nn.modules.linear.Linear" in refusal(lambda: read_file(tmp_path / "module.pt"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_missing_empty_damaged_and_other_files_are_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"given{suffix}"
    assert "given" in refusal(lambda: read_file(path))
    for content in (b"", b"no weights" * 50):
        path.write_bytes(content)
        assert "given" in refusal(lambda: read_file(path))
    load(tmp_path, state_of(), suffix=suffix)
    path.write_bytes(path.read_bytes()[:-3000])
    assert "given" in refusal(lambda: read_file(path))
    if suffix == ".pth":
        torch.save(torch.ones(3), path)
        assert "holds a Tensor" in refusal(lambda: read_file(path))
