"""Head files."""

import numpy as np
import pytest

from longtail.artifacts.hdf5 import write_hdf5
from longtail.artifacts.head_files import HeadFile, NetworkSize, read_head, write_head
from longtail.core.head import CenteredCosineHead, ClassMeans, LinearHead, Neighbors, StandardizedHead
from tests.refusals import refused
from tests.unit.artifacts.helpers import same

WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)
HEADS = [
    LinearHead(WEIGHT),
    LinearHead(WEIGHT, np.arange(3, dtype=np.float32), "unit"),
    LinearHead(WEIGHT, None, "cosine", 30.0),
    StandardizedHead(WEIGHT, np.ones(3, np.float32), center=np.ones(2), spread=np.ones(2), l2=0.01, prior="uniform"),
    StandardizedHead(WEIGHT, None, center=np.ones(2), spread=np.full(2, 3.0)),
    ClassMeans(WEIGHT, np.zeros(2)),
    CenteredCosineHead(WEIGHT, np.ones(2), 25.0),
    Neighbors(WEIGHT, np.array([0, 1, 1]), np.ones(2), np.full(2, 3.0), 2, 0.1),
]

NETWORKS = [None, NetworkSize("resnet8", 78_042, 12_500_000), NetworkSize("resnet50", 2, 3, "a.pth", "photos", "mit")]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "head", HEADS, ids=["linear", "unit", "cosine", "base", "changed", "ncm", "centered cosine", "neighbors"]
)
def test_head_returns_what_was_written(tmp_path, head, network):
    content = HeadFile(
        method="tau",
        head=head,
        split_digest="s",
        backbone_digest="b",
        network=network,
        extra={"curve/tau": np.linspace(0, 2, 21), "mean": np.zeros(2, np.float32)},
        notes={"tau": 0.7, "selected_on": "val", "epochs": 10, "flag": True},
    )
    write_head(tmp_path / "a.h5", content)
    found = read_head(tmp_path / "a.h5", "rebalance@tau")
    assert found.extra.keys() == content.extra.keys()
    for name in content.extra:
        np.testing.assert_array_equal(found.extra[name], content.extra[name])
    for name in ("method", "split_digest", "backbone_digest", "network", "notes"):
        assert getattr(found, name) == getattr(content, name)
    assert type(found.head) is type(head)
    assert same(found.head, head)


def test_head_whose_bias_does_not_fit_is_refused(tmp_path):
    attributes = {"method": "crt", "kind": "linear", "scale": 1.0, "split_digest": "s", "backbone_digest": "b"}
    arrays = {"weight": np.zeros((3, 2), np.float32), "bias": np.zeros(4, np.float32)}
    write_hdf5(tmp_path / "a.h5", arrays, attributes, schema="longtail/head/2")
    with refused(r"a\.h5 is unusable: a head's bias must be \(3,\).*got \(4,\)", "rebalance@crt"):
        read_head(tmp_path / "a.h5", "rebalance@crt")
    write_hdf5(tmp_path / "a.h5", arrays, attributes | {"kind": "quadratic"}, schema="longtail/head/2")
    with refused("kind must be one of linear, cosine, unit, standardized, got 'quadratic'", "rebalance@crt"):
        read_head(tmp_path / "a.h5", "rebalance@crt")


def test_head_without_its_parts_is_refused_with_their_names(tmp_path):
    attributes = {"method": "crt", "kind": "linear", "network:macs": 1}
    write_hdf5(tmp_path / "a.h5", {}, attributes, schema="longtail/head/2")
    missing = "split_digest, backbone_digest, scale, weight, network:backbone, network:parameters"
    with refused(rf"a\.h5 lacks {missing}$", "rebalance@crt"):
        read_head(tmp_path / "a.h5", "rebalance@crt")
    write_hdf5(tmp_path / "a.h5", {}, {"kind": "ncm"}, schema="longtail/head/2")
    with refused(r"lacks method, split_digest, backbone_digest, centroids, mean$", "rebalance@ncm"):
        read_head(tmp_path / "a.h5", "rebalance@ncm")
