"""The stage prepare: bad input is refused by name."""

import pytest

from longtail.core.errors import ConfigError, DataError
from longtail.data.manifest import read_manifest
from longtail.data.own_files import read_files
from stages.paths import PREPARED
from tests.conftest import write_params
from tests.pipeline.helpers import refused


@pytest.mark.parametrize("value", [0.01, 0, -5, "abc", 1e9])
def test_imb_factor_out_of_range_is_refused_before_work(tmp_path, stage, value):
    write_params(tmp_path, {"imb_factor": value})
    refused(ConfigError, lambda: stage("prepare"), "imb_factor")
    assert not (tmp_path / "data").exists()


def test_missing_data_root(tmp_path, stage):
    write_params(tmp_path, {"dataset": "image_folder", "data_root": str(tmp_path / "nowhere")})
    refused(DataError, lambda: stage("prepare"), "nowhere")
    assert not (tmp_path / "data").exists()


def test_unreadable_image_is_named(tmp_path, image_root, stage):
    (image_root / "train/class 1/003.jpg").write_bytes(b"not a picture")
    write_params(tmp_path, {"dataset": "image_folder", "data_root": str(image_root)})
    refused(DataError, lambda: stage("prepare"), "class 1/003.jpg")


def test_unreadable_images_are_listed_and_may_be_left_out(tmp_path, image_root, stage, capsys):
    bad = ["train/class 1/003.jpg", "test/class 0/000.jpg"]
    for name in bad:
        (image_root / name).write_bytes((image_root / name).read_bytes()[:-40])
    settings = {"dataset": "image_folder", "data_root": str(image_root), "resize": "pad"}
    write_params(tmp_path, settings)
    for storage in ("memory", "paths"):
        write_params(tmp_path, settings, {"storage": storage})
        refused(DataError, lambda: stage("prepare"), "2 of ", "data/prepared/bad_images.csv lists them", *bad)
        assert [path.name for path in (tmp_path / "data/prepared").iterdir()] == ["bad_images.csv"]
    write_params(tmp_path, settings, {"bad_images": "skip", "storage": "paths"})
    stage("prepare")
    assert "2 of " in (said := capsys.readouterr().out) and all(name in said for name in bad)
    table = (tmp_path / "data/prepared/bad_images.csv").read_text()
    manifest = (tmp_path / "data/prepared/manifest.csv").read_text()
    assert all(name in table and name not in manifest for name in bad)
    assert '"resize": "pad"' in (tmp_path / "data/prepared/dataset.json").read_text()


@pytest.mark.parametrize("labels", ["0 1 2 7", "0 1 2 -1"])
def test_labels_with_gaps_or_out_of_range_are_refused(tmp_path, list_root, stage, labels):
    new = dict(zip("0123", labels.split(), strict=True))
    for part in ("train", "test"):
        lines = (list_root / f"{part}.txt").read_text().splitlines()
        (list_root / f"{part}.txt").write_text("\n".join(line[:-1] + new[line[-1]] for line in lines))
    settings = {
        "dataset": "file_lists",
        "data_root": str(list_root),
        "lists": {"train": "train.txt", "test": "test.txt"},
    }
    write_params(tmp_path, settings)
    refused(DataError, lambda: stage("prepare"), "train.txt")
    if "7" in labels:
        write_params(tmp_path, settings, {"relabel": True, "image_size": 16})
        stage("prepare")


def test_table_with_groups_is_prepared_with_what_it_says(tmp_path, list_root, stage):
    lines = ["image_id,dx,fold,patient,age"]
    for part in ("train", "test"):
        for number, line in enumerate((list_root / f"{part}.txt").read_text().splitlines()):
            path, label = line.rsplit(maxsplit=1)
            lines.append(f"{path},class {label},{part},{part}{number // 2},{number}")
    (list_root / "table.csv").write_bytes("\r\n".join([*lines, lines[1]]).encode("utf-8-sig"))
    columns = {"path": "image_id", "label": "dx", "split": "fold", "group": "patient"}
    settings = {"dataset": "table", "data_root": str(list_root), "table": "table.csv", "columns": columns}
    write_params(tmp_path, settings, {"image_size": 16})
    stage("prepare")
    manifest = read_manifest(PREPARED)
    rows = [line.split(",") for line in lines[1:]]
    assert manifest.paths.tolist() == [row[0] for row in rows]
    assert [manifest.class_names[label] for label in manifest.labels] == [row[1] for row in rows]
    assert manifest.parts.tolist() == [row[2] for row in rows]
    assert manifest.groups.tolist() == [row[3] for row in rows]
    assert (PREPARED / "columns.csv").read_text().splitlines() == ["path,age", *(f"{row[0]},{row[4]}" for row in rows)]
    assert list(read_files(PREPARED)) == ["table"]
    write_params(tmp_path, {"imb_type": "natural"})
    stage("prepare")
    assert not (PREPARED / "columns.csv").exists() and not read_files(PREPARED), "those of another dataset"
