"""A folder of pictures of one's own."""

import os

import pytest

from longtail.core.errors import DataError
from longtail.data.manifest import read_manifest
from longtail.data.sources import image_folder
from longtail.data.splits import make_split
from tests.unit.data.helpers import encoded, make_folder, picture, run_prepare


def test_folder_lists_parts_classes_and_files_in_order(tmp_path):
    make_folder(tmp_path, {"b.png": (8, 8), "A.PNG": (8, 8), "c.jpeg": (8, 8)}, parts=("train", "val", "test"))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "README").write_text("no class")
    source = image_folder.load(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.paths[:4] == ("train/cat/A.PNG", "train/cat/b.png", "train/cat/c.jpeg", "train/dog/A.PNG")
    assert source.parts.tolist() == ["train"] * 6 + ["val"] * 6 + ["test"] * 6
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1] * 3
    assert source.root == tmp_path


@pytest.mark.parametrize("part", ["train", "test"])
def test_folder_without_a_part_names_it(tmp_path, part):
    make_folder(tmp_path, parts=tuple({"train", "test"} - {part}))
    expected = rf"data_root must have the folders train/CLASS and test/CLASS .* .*/{part} is missing"
    with pytest.raises(DataError, match=expected):
        image_folder.load(tmp_path)


def test_missing_data_root_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data_root must .*nowhere/train is missing"):
        image_folder.load(tmp_path / "nowhere")


def test_class_that_only_test_has_is_refused_by_name(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "test" / "wolf").mkdir()
    with pytest.raises(DataError, match=r"data_root has the class folder .*test/wolf, but .*train has no such class"):
        image_folder.load(tmp_path)


def test_folder_of_one_class_is_refused(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"at least 2 class folders in .*train, got 1"):
        image_folder.load(tmp_path)


def test_class_without_any_image_is_refused_by_name(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"images of every class, got none of class 2 \(empty\)"):
        run_prepare(image_folder.load(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_class_without_a_test_image_is_refused_by_name(tmp_path):
    make_folder(tmp_path)
    for file in (tmp_path / "test" / "dog").iterdir():
        file.unlink()
    run_prepare(image_folder.load(tmp_path), tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    with pytest.raises(DataError, match=r"class 1 \(dog\) has no test image"):
        make_split(
            manifest.labels,
            manifest.parts,
            manifest.class_names,
            imb_type="natural",
            imb_factor=1,
            val_per_class=0,
            split_seed=0,
        )


def test_file_name_that_is_not_utf_8_is_refused_by_name(tmp_path):
    make_folder(tmp_path)
    name = os.fsencode(tmp_path / "train" / "cat") + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(encoded(picture(8, 8), "PNG"))
    with pytest.raises(DataError, match="caf"):
        run_prepare(image_folder.load(tmp_path), tmp_path / "out")
