"""Head files."""

import numpy as np
import pytest

from longtail.artifacts.hdf5 import write_hdf5
from longtail.artifacts.head_files import HeadFile, read_head, write_head
from longtail.core.errors import ArtifactError


@pytest.mark.parametrize("bias", [None, np.arange(3, dtype=np.float32)])
def test_head_returns_what_was_written(tmp_path, bias):
    head = HeadFile(
        method="tau",
        kind="cosine",
        weight=np.arange(6, dtype=np.float32).reshape(3, 2),
        bias=bias,
        scale=30.0,
        split_digest="s",
        backbone_digest="b",
        extra={"curve/tau": np.linspace(0, 2, 21), "mean": np.zeros(2, np.float32)},
        notes={"tau": 0.7, "selected_on": "val", "epochs": 10, "flag": True},
    )
    write_head(tmp_path / "a.h5", head)
    found = read_head(tmp_path / "a.h5", "rebalance@tau")
    assert found.notes == head.notes
    assert found.extra.keys() == head.extra.keys()
    for name in head.extra:
        np.testing.assert_array_equal(found.extra[name], head.extra[name])
    for name in ("method", "kind", "scale", "split_digest", "backbone_digest"):
        assert getattr(found, name) == getattr(head, name)
    np.testing.assert_array_equal(found.weight, head.weight)
    assert (found.bias is None) == (bias is None)


def test_head_whose_bias_does_not_fit_is_refused(tmp_path):
    head = HeadFile("crt", "linear", np.zeros((3, 2), np.float32), np.zeros(4, np.float32), 1.0, "s", "b")
    write_head(tmp_path / "a.h5", head)
    with pytest.raises(ArtifactError, match=r"bias \(4,\) does not fit weight \(3, 2\)"):
        read_head(tmp_path / "a.h5", "rebalance@crt")


def test_head_without_its_parts_is_refused_with_their_names(tmp_path):
    write_hdf5(tmp_path / "a.h5", {}, {"method": "crt", "kind": "linear"}, schema="longtail/head/1")
    with pytest.raises(ArtifactError, match=r"lacks scale, split_digest, backbone_digest, weight; .*rebalance@crt"):
        read_head(tmp_path / "a.h5", "rebalance@crt")
