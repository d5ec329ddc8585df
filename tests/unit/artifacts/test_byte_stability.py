"""The same bytes for the same content, for every kind of file."""

import time

import numpy as np
import torch

from longtail.artifacts.checkpoints import save_checkpoint
from longtail.artifacts.hdf5 import write_hdf5
from longtail.artifacts.tables import write_json
from tests.unit.artifacts.helpers import ARRAYS, ATTRIBUTES, META, SCHEMA, TENSORS, WRITERS


def test_two_writes_some_time_apart_give_the_same_bytes(tmp_path):
    for kind, write in WRITERS.items():
        write(tmp_path / kind, 1)
    time.sleep(2.1)  # HDF5 stores times in seconds, zip in two seconds
    for kind, write in WRITERS.items():
        write(tmp_path / "other-folder" / f"{kind}-again", 1)
        assert (tmp_path / kind).read_bytes() == (tmp_path / "other-folder" / f"{kind}-again").read_bytes(), kind


def test_order_of_insertion_does_not_change_the_bytes(tmp_path):
    def backwards(mapping):
        return dict(reversed(mapping.items()))

    write_hdf5(tmp_path / "a.h5", ARRAYS, ATTRIBUTES, schema=SCHEMA)
    write_hdf5(tmp_path / "b.h5", backwards(ARRAYS), backwards(ATTRIBUTES), schema=SCHEMA)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    save_checkpoint(tmp_path / "a.pt", TENSORS, META)
    save_checkpoint(tmp_path / "b.pt", backwards(TENSORS), backwards(META))
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    write_json(tmp_path / "a.json", META)
    write_json(tmp_path / "b.json", backwards(META))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_memory_layout_does_not_change_the_bytes(tmp_path):
    array = np.arange(12.0).reshape(3, 4)
    write_hdf5(tmp_path / "a.h5", {"a": array}, {}, schema=SCHEMA)
    write_hdf5(tmp_path / "b.h5", {"a": np.asfortranarray(array)}, {}, schema=SCHEMA)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    tensor = torch.arange(12.0).reshape(3, 4)
    save_checkpoint(tmp_path / "a.pt", {"a": tensor}, {})
    save_checkpoint(tmp_path / "b.pt", {"a": tensor.t().contiguous().t()}, {})
    save_checkpoint(tmp_path / "c.pt", {"a": torch.nn.Parameter(torch.arange(24.0)[:12].reshape(3, 4))}, {})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()
