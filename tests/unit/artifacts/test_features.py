"""Feature files: what is written, read and refused."""

import numpy as np
import pytest

from longtail.artifacts.features import Features, read_features, write_features
from longtail.core.errors import ArtifactError
from tests.refusals import refused
from tests.unit.artifacts.helpers import FEATURES, same


def test_features_return_what_was_written(tmp_path):
    write_features(tmp_path / "a.h5", FEATURES)
    found = read_features(tmp_path / "a.h5")
    assert same(found, FEATURES)
    assert found.features.dtype == np.float32
    assert found.labels.dtype == found.index.dtype == np.int64


def test_features_of_an_empty_part_are_kept(tmp_path):
    empty = Features(np.zeros((0, 5), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64), 3, "d", "s", "b", "{}")
    write_features(tmp_path / "a.h5", empty)
    assert same(read_features(tmp_path / "a.h5"), empty)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_with_their_first_row_and_not_written(tmp_path, bad):
    features = np.zeros((5, 3), np.float32)
    features[2, 1] = features[4, 0] = bad
    content = Features(features, np.arange(5), np.arange(5), 5, "d", "s", "b", "{}")
    with pytest.raises(ArtifactError, match=r"a\.h5 must have finite features, but row 2 is not finite"):
        write_features(tmp_path / "a.h5", content)
    assert list(tmp_path.iterdir()) == []


def test_missing_features_name_file_and_stage(tmp_path):
    with refused(r"features_val\.h5 is missing$", "extract_features", missing=True):
        read_features(tmp_path / "features_val.h5")


def test_truncated_features_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    write_features(path, FEATURES)
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with refused(r"a\.h5", "extract_features"):
            read_features(path)
