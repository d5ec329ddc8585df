"""Feature files, ours and foreign ones."""

from pathlib import Path

import h5py
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
    assert not found.foreign
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


def foreign(path: Path, **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file[name] = array
    return path


@pytest.mark.parametrize("name", ["labels", "label"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_foreign_features_are_read_under_both_names_of_the_labels(tmp_path, name, dtype):
    rows = np.arange(12, dtype=dtype).reshape(4, 3)
    path = foreign(tmp_path / "a.h5", features=rows, **{name: np.array([[0], [2], [2], [1]], np.uint8)})
    found = read_features(path)
    assert found.foreign
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.features, rows)
    np.testing.assert_array_equal(found.labels, [0, 2, 2, 1])
    np.testing.assert_array_equal(found.index, np.arange(4))
    assert found.labels.dtype == np.int64
    assert (found.num_classes, found.dataset, found.split_digest, found.backbone_digest) == (3, "", "", "")


def test_foreign_features_with_attributes_of_their_own_are_read(tmp_path):
    path = foreign(tmp_path / "a.h5", features=np.ones((2, 3)), labels=np.array([0, 1]))
    with h5py.File(path, "r+") as file:
        file.attrs["author"] = "someone"
    assert read_features(path).foreign


ROWS, LABELS = np.ones((4, 3)), np.array([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("datasets", "expected"),
    [
        ({"features": ROWS}, "no dataset `labels`"),
        (
            {"features": ROWS[0], "labels": LABELS},
            r"must have features \(N, D\) and labels \(N,\), got \(3,\) and \(4,\)",
        ),
        ({"features": ROWS, "labels": LABELS[:3]}, r"got \(4, 3\) and \(3,\)"),
        ({"features": ROWS[None], "labels": LABELS}, r"got \(1, 4, 3\)"),
        ({"features": ROWS.astype(int), "labels": LABELS}, "floats and labels that are integers, got int64 and int64"),
        ({"features": ROWS, "labels": LABELS + 0.5}, "got float64 and float64"),
        ({"features": ROWS, "labels": LABELS - 1}, "must have labels of at least 0, got -1"),
        (
            {"features": ROWS * [[1], [np.nan], [1], [np.inf]], "labels": LABELS},
            "must have finite features, but row 1 is not finite",
        ),
        ({"feats": ROWS, "labels": LABELS}, r"a\.h5"),
        ({"features": ROWS, "labels": np.array([b"a"] * 4)}, "floats and labels that are integers"),
    ],
)
def test_misshapen_foreign_features_are_refused(tmp_path, datasets, expected):
    with pytest.raises(ArtifactError, match=expected):
        read_features(foreign(tmp_path / "a.h5", **datasets))


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
