"""The stage subsample: counts and blends reach what follows, and bad input is refused by name."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from longtail.augment.transforms import Transform
from longtail.core.errors import ArtifactError, ConfigError, DataError
from longtail.data.blends import blend_pictures
from stages.context import Context
from stages.data import PreparedImages
from tests.conftest import write_params
from tests.pipeline.helpers import refused


def test_imb_factor_that_empties_a_class_says_the_largest_possible_one(tmp_path, stage):
    write_params(tmp_path, {"imb_factor": 500})
    stage("prepare")
    refused(ConfigError, lambda: stage("subsample"), "imb_factor must be at most 124, got 500")
    assert not (tmp_path / "data/split.csv").exists()


def test_class_without_test_image_is_named(tmp_path, image_root, stage):
    for path in (image_root / "test/class 2").iterdir():
        path.unlink()
    write_params(tmp_path, {"dataset": "image_folder", "data_root": str(image_root), "image_size": 16})
    stage("prepare")
    refused(DataError, lambda: stage("subsample"), "class 2", "test")


def test_counts_of_params_yaml_are_the_split(tmp_path, stage):
    write_params(tmp_path, {"imb_type": "counts", "class_counts": [5] * 9 + [3], "val_per_class": 0})
    stage("prepare")
    stage("subsample")
    assert pd.read_csv(tmp_path / "data/class_counts.csv")["train"].tolist() == [5] * 9 + [3]
    assert list(pd.read_csv(tmp_path / "data/split.csv")) == ["part", "index", "label"]


SIMILAR = {"similar": {"head": "class 0", "tail": 2, "share": 0.5, "head_weight": 0.25}, "imb_type": "natural"}
FOLDER = {"dataset": "image_folder", "image_size": 16, "val_per_class": 0, "train": {"augment": "none"}}


@pytest.mark.parametrize("storage", ["memory", "paths"])
def test_blended_images_reach_training_and_pictures_and_no_other_image_does(tmp_path, image_root, stage, storage):
    def images(*changes):
        write_params(tmp_path, FOLDER, {"data_root": str(image_root), "storage": storage}, *changes)
        stage("prepare")
        stage("subsample")
        return PreparedImages(Context("train_backbone"))

    plain, blended = images({"imb_type": "natural"}), images(SIMILAR)
    transform = Transform("none", (0.5,) * 3, (0.5,) * 3, 16)
    rows = blended.split.blends.image
    assert len(rows) == 12 and set(blended.manifest.labels[rows]) == {0}
    assert blended.split_digest != plain.split_digest
    train = plain.split.train
    assert np.array_equal(blended.split.train, train)
    one, other = (
        np.concatenate([batch.numpy() for batch, _ in found.open(train, transform).eval_batches(8)])
        for found in (plain, blended)
    )
    changed = np.isin(train, rows)
    assert np.array_equal(one[~changed], other[~changed])
    assert (np.abs(one[changed] - other[changed]).reshape(len(rows), -1).max(axis=1) > 0).all()

    row, partner = int(rows[0]), int(blended.split.blends.partner[0])
    expected = blend_pictures(*(Image.fromarray(plain.picture(each)) for each in (row, partner)), 0.25)
    assert np.array_equal(blended.picture(row), np.asarray(expected))
    assert np.array_equal(blended.picture(partner), plain.picture(partner))


def test_a_forged_weight_of_blended_images_is_refused(tmp_path, image_root, stage):
    write_params(tmp_path, FOLDER, {"data_root": str(image_root)}, SIMILAR)
    stage("prepare")
    stage("subsample")
    table = pd.read_csv(tmp_path / "data/split.csv")
    table.loc[table.index[table["partner"] >= 0][0], "head_weight"] = 0.9
    stage("pretrain")
    table.to_csv(tmp_path / "data/split.csv", index=False)
    words = ("data/split.csv", "one head_weight", "dvc repro -f subsample")
    refused(ArtifactError, lambda: stage("train_backbone"), *words)
