"""The feature files of one folder: what is read together, and which files do not belong together."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from longtail.artifacts.feature_set import features_file, head_file, read_feature_set
from longtail.artifacts.features import Features, write_features
from longtail.artifacts.head_files import HeadFile, NetworkSize, write_head
from longtail.core.head import ClassMeans, LinearHead
from tests.refusals import refused

LABELS = {"train": [0, 0, 1, 2], "val": [1], "test": [2, 1, 0]}
NETWORK = NetworkSize("resnet8", 78_042, 12_500_000)
HEAD = HeadFile("stage1", LinearHead(np.ones((3, 5), np.float32)), "split", "backbone", NETWORK, notes={"epoch": 7})


def part(labels: list[int], width: int = 5) -> Features:
    rows = np.arange(len(labels) * width, dtype=np.float32).reshape(len(labels), width)
    return Features(rows, np.array(labels), np.arange(len(labels)), 3, "digits", "split", "backbone", "{}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, labels in LABELS.items():
        write_features(features_file(tmp_path, name), part(labels))
    write_head(head_file(tmp_path), HEAD)
    return tmp_path


def test_all_parts_the_head_and_the_size_of_the_network_are_read(folder):
    found = read_feature_set(folder)
    assert [found.train.labels.tolist(), found.val.labels.tolist(), found.test.labels.tolist()] == [*LABELS.values()]
    assert np.array_equal(found.head.weight, HEAD.head.weight)
    assert (found.network, found.head_notes) == (NETWORK, {"epoch": 7})
    assert found.train_counts.tolist() == [2, 1, 1]
    assert [path.name for path in found.files] == [
        "features_train.h5",
        "features_val.h5",
        "features_test.h5",
        "head.h5",
    ]


def test_part_without_rows_gives_none(folder):
    write_features(features_file(folder, "val"), part([]))
    assert read_feature_set(folder).rows("val") == (None, None)


@pytest.mark.parametrize("name", ["val", "test"])
@pytest.mark.parametrize("what", ["split", "backbone"])
def test_features_of_another_split_or_backbone_are_refused(folder, name, what):
    path = features_file(folder, name)
    write_features(path, dataclasses.replace(part(LABELS[name]), **{f"{what}_digest": "other"}))
    with refused(rf"{path} belongs to another {what} than .*features_train\.h5$", "extract_features"):
        read_feature_set(folder)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (dataclasses.replace(HEAD, backbone_digest="other"), "belongs to another backbone"),
        (dataclasses.replace(HEAD, head=LinearHead(np.ones((3, 4)))), "has 4 features, but .* has 5"),
        (
            dataclasses.replace(HEAD, head=ClassMeans(np.ones((3, 5)), np.ones(5))),
            "must hold a linear head, got class means",
        ),
    ],
)
def test_head_that_does_not_belong_to_the_features_is_refused(folder, head, message):
    write_head(head_file(folder), head)
    with refused(rf"head\.h5 {message}", "extract_features"):
        read_feature_set(folder)


@pytest.mark.parametrize("name", ["features_train.h5", "features_val.h5", "features_test.h5", "head.h5"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with refused(rf"{name} is missing$", "extract_features", missing=True):
        read_feature_set(folder)


def test_class_without_a_training_row_and_label_without_a_class_are_refused(folder):
    write_features(features_file(folder, "test"), part([0, 3]))
    with refused(r"features_test\.h5 must have labels from 0 to 2, got label 3", "extract_features"):
        read_feature_set(folder)
    write_features(features_file(folder, "train"), part([0, 2]))
    with refused(r"features_train\.h5 must have rows of every class 0 to 2, got none of class 1", "extract_features"):
        read_feature_set(folder)
