"""The stage subsample: bad input is refused by name."""

from longtail.core.errors import ConfigError, DataError
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
