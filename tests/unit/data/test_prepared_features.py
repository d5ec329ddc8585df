"""The prepared form of a dataset that is features."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from longtail.core.head import LinearHead
from longtail.data.manifest import read_info, read_manifest
from longtail.data.own_files import files_table
from longtail.data.prepared_features import prepare_features, read_given_head, read_rows
from longtail.data.sources.base import FeatureSource
from tests.refusals import refused

SOURCE = FeatureSource(
    class_names=("ant", "bee"),
    labels=np.array([0, 1, 0, 1]),
    parts=np.array(["train", "train", "test", "test"]),
    features=np.arange(12, dtype=np.float32).reshape(4, 3),
    head=LinearHead(np.ones((2, 3), np.float32), None, "cosine", 7.0),
    digests={"features_train.h5": "b", "features_test.h5": "a"},
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_prepared_is_read_back(tmp_path):
    info = prepare_features(SOURCE, tmp_path, dataset="features")
    assert read_info(tmp_path) == info == read_manifest(tmp_path).info
    assert (info.storage, info.image_size, info.channels, info.num_classes) == ("features", 0, 0, 2)
    assert info.without_images == "dataset: features has no images"
    manifest = read_manifest(tmp_path)
    assert manifest.labels.tolist() == [0, 1, 0, 1] and manifest.class_names == ("ant", "bee")
    assert manifest.parts.tolist() == SOURCE.parts.tolist() and set(manifest.paths) == set(manifest.sha256) == {""}
    rows, digest = read_rows(tmp_path, manifest.labels)
    np.testing.assert_array_equal(rows, SOURCE.features)
    assert len(digest) == 64
    head = read_given_head(tmp_path)
    assert head is not None and (head.kind, head.scale) == ("cosine", 7.0)
    assert files_table(tmp_path).read_text() == "file,sha256\nfeatures_test.h5,a\nfeatures_train.h5,b\n"


def test_equal_rows_give_equal_bytes_whatever_files_they_come_from(tmp_path):
    prepare_features(SOURCE, tmp_path / "a", dataset="features")
    prepare_features(replace(SOURCE, digests={"features_train.npz": "c"}), tmp_path / "b", dataset="features")
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert {name for name in first if first[name] != second[name]} == {"files.csv"}


def test_head_of_an_earlier_run_does_not_stay(tmp_path):
    prepare_features(SOURCE, tmp_path, dataset="features")
    prepare_features(replace(SOURCE, head=None), tmp_path, dataset="features")
    assert read_given_head(tmp_path) is None


@pytest.mark.parametrize("name", ["features.h5", "head.h5"])
def test_damaged_and_mismatched_files_name_the_stage(tmp_path, name):
    prepare_features(SOURCE, tmp_path, dataset="features")
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1])
    with refused(rf"{name} is damaged", "prepare"):
        read_rows(tmp_path, SOURCE.labels)
        read_given_head(tmp_path)


def test_rows_of_another_manifest_are_refused(tmp_path):
    prepare_features(SOURCE, tmp_path, dataset="features")
    with refused(r"features\.h5 has other rows than the manifest", "prepare"):
        read_rows(tmp_path, np.zeros(4, np.int64))
