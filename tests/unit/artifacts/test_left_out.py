"""Outputs that are left out: recognized, refused where they are needed, and verified."""

import numpy as np
import pytest

from longtail.artifacts.checkpoints import load_checkpoint, save_checkpoint
from longtail.artifacts.hdf5 import read_hdf5, write_hdf5
from longtail.artifacts.left_out import LARGEST, left_out_reason, write_left_out
from tests.refusals import refused

REASON = "dlsa.enabled: false"


def test_reason_is_read_back_and_equal_reasons_give_equal_bytes(tmp_path):
    for name in ("a.h5", "b.safetensors"):
        write_left_out(tmp_path / name, REASON)
        assert left_out_reason(tmp_path / name) == REASON
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert (tmp_path / "a.h5").stat().st_size < LARGEST


def test_other_files_and_no_file_have_no_reason(tmp_path):
    write_hdf5(tmp_path / "a.h5", {"x": np.ones(3)}, {}, schema="s")
    save_checkpoint(tmp_path / "b.safetensors", {}, {})
    for name, content in (("c", b"{}"), ("d", b"[1]"), ("e", b"{"), ("f", b"\xff"), ("g", b"")):
        (tmp_path / name).write_bytes(content)
    for path in [*tmp_path.iterdir(), tmp_path / "missing"]:
        assert left_out_reason(path) is None, path


def test_changed_reason_is_refused(tmp_path):
    write_left_out(tmp_path / "a.h5", REASON)
    (tmp_path / "a.h5").write_text((tmp_path / "a.h5").read_text().replace("dlsa", "ipdpp"))
    with refused(r"a\.h5 is damaged", "train_dlsa"):
        left_out_reason(tmp_path / "a.h5", "train_dlsa")


@pytest.mark.parametrize("size", [10, 60])
def test_truncated_file_is_refused_by_the_reader_of_its_kind(tmp_path, size):
    write_left_out(tmp_path / "a.h5", REASON)
    (tmp_path / "a.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:size])
    with refused(r"a\.h5 is damaged or truncated", "train_dlsa"):
        read_hdf5(tmp_path / "a.h5", schema="s", made_by="train_dlsa")


def test_readers_of_what_is_left_out_name_the_reason_and_the_stage(tmp_path):
    write_left_out(tmp_path / "a", REASON)
    with refused(r"a is left out \(dlsa\.enabled: false\)$", "train_dlsa"):
        read_hdf5(tmp_path / "a", schema="s", made_by="train_dlsa")
    with refused(r"a is left out \(dlsa\.enabled: false\)$", "train_dlsa"):
        load_checkpoint(tmp_path / "a", "train_dlsa")
