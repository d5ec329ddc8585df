"""Files that cannot be used are found, all of them, before anything is trained."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtail.artifacts.tables import read_csv
from longtail.core.errors import DataError
from longtail.data import survey
from longtail.data.manifest import read_info, read_manifest, read_picture, read_pixels
from longtail.data.prepare import prepare
from longtail.data.sources import file_lists, image_folder
from longtail.data.sources.base import Source
from tests.unit.data.helpers import encoded, make_folder, picture, run_prepare

KINDS = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]


def bad_images(folder: Path) -> dict[str, str]:
    table = read_csv(folder / "bad_images.csv", made_by="prepare", columns=("path", "reason"), text=("path", "reason"))
    return dict(zip(table["path"], table["reason"], strict=True))


def folder_with(root: Path, broken: dict[str, bytes], number: int = 3, side: int = 32) -> Source:
    make_folder(root, {f"{i}.jpg": (side, side) for i in range(number)})
    for name, content in broken.items():
        (root / name).write_bytes(content)
    return image_folder.load(root)


@pytest.mark.parametrize("storage", ["memory", "paths"])
@pytest.mark.parametrize("content", [b"", b"no picture", encoded(picture(8, 8), "JPEG")[:30]])
def test_unreadable_picture_is_named_and_nothing_else_is_written(tmp_path, storage, content):
    source = folder_with(tmp_path / "in", {"train/dog/1.jpg": content})
    with pytest.raises(DataError, match=r"^1 of 12 images below .*/in cannot be used .*: train/dog/1\.jpg ") as caught:
        run_prepare(source, tmp_path / "out", storage=storage)
    assert "0x" not in str(caught.value), "the address of an object says nothing"
    assert "bad_images: skip" in str(caught.value) and str(tmp_path / "out/bad_images.csv") in str(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bad_images.csv"]


@pytest.mark.parametrize("storage", ["memory", "paths"])
@pytest.mark.parametrize("kind", KINDS)
def test_truncated_file_of_every_format_is_found_for_both_storages(tmp_path, storage, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    whole = encoded(noise, kind)
    source = folder_with(tmp_path / "in", {"train/cat/1.jpg": whole, "test/cat/1.jpg": whole[: len(whole) * 9 // 10]})
    with pytest.raises(DataError, match=r"1 of 12 images"):
        run_prepare(source, tmp_path / "out", storage=storage)
    assert set(bad_images(tmp_path / "out")) == {"test/cat/1.jpg"}


def test_all_are_found_in_one_run_and_the_first_ten_are_named(tmp_path):
    broken = {f"train/{name}/{i}.jpg": b"" if i % 2 else b"<html>" for name in ("cat", "dog") for i in range(7)}
    source = folder_with(tmp_path / "in", broken, number=9)
    with pytest.raises(DataError) as caught:
        run_prepare(source, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith("14 of 36 images below ")
    assert message.count(".jpg ") == 10 and message.endswith("; and 4 more")
    assert "train/cat/0.jpg cannot be decoded: an HTML page; train/cat/1.jpg is empty; " in message
    assert list(bad_images(tmp_path / "out")) == sorted(broken)


@pytest.mark.parametrize("storage", ["memory", "paths"])
def test_skip_leaves_them_out_and_nothing_else_changes(tmp_path, capsys, storage):
    truncated = encoded(picture(32, 32), "JPEG")[:-100]
    names = {"train/cat/0.jpg": truncated, "train/dog/2.jpg": b"", "test/cat/1.jpg": b"x"}
    source = folder_with(tmp_path / "in", names)
    run_prepare(source, tmp_path / "out", storage=storage, bad_images="skip", workers=4)
    said = capsys.readouterr().out
    assert "3 of 12 images are left out (bad_images: skip; " in said and "train/dog/2.jpg is empty" in said
    assert set(bad_images(tmp_path / "out")) == set(names)
    for name in names:
        (tmp_path / "in" / name).unlink()
    run_prepare(image_folder.load(tmp_path / "in"), tmp_path / "clean", storage=storage)
    assert bad_images(tmp_path / "clean") == {}
    for path in (tmp_path / "clean").iterdir():
        same = (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
        assert same == (path.name != "bad_images.csv"), path.name


def test_size_and_storage_do_not_depend_on_images_that_are_left_out(tmp_path):
    """The only images that are not 32 x 32 have a good header and no end."""
    large = encoded(picture(400, 300), "JPEG")[:-50]
    source = folder_with(tmp_path / "in", {"train/cat/0.jpg": large, "test/dog/0.jpg": large})
    info = run_prepare(source, tmp_path / "out", bad_images="skip")
    assert (info.storage, info.image_size) == ("memory", 32)
    assert read_pixels(tmp_path / "out").shape == (10, 32, 32, 3)


def test_class_that_loses_all_its_training_images_is_an_error(tmp_path):
    source = folder_with(tmp_path / "in", {f"train/dog/{i}.jpg": b"" for i in range(3)})
    with pytest.raises(DataError, match=r"^class 1 \(dog\) has no training image left without the 3 .*0\.jpg is empty"):
        run_prepare(source, tmp_path / "out", bad_images="skip")
    assert len(bad_images(tmp_path / "out")) == 3


def test_source_without_a_usable_image_is_an_error(tmp_path):
    names = [f"{part}/{name}/{i}.jpg" for part in ("train", "test") for name in ("cat", "dog") for i in range(3)]
    source = folder_with(tmp_path / "in", dict.fromkeys(names, b""))
    with pytest.raises(DataError, match="12 of 12 images"):
        run_prepare(source, tmp_path / "out")
    with pytest.raises(DataError, match=r"class 0 \(cat\) has no training image left"):
        run_prepare(source, tmp_path / "out", bad_images="skip")


@pytest.mark.parametrize("storage", ["auto", "memory", "paths"])
def test_pipes_folders_and_missing_files_are_bad_images(tmp_path, storage):
    root = tmp_path / "in"
    make_folder(root)
    (root / "train/cat/0.png").unlink()
    (root / "train/cat/0.png").mkdir()
    (root / "train/dog/0.png").unlink()
    os.mkfifo(root / "train/dog/0.png")
    (root / "test/dog/0.png").unlink()
    for part in ("train", "test"):
        lines = [f"{part}/{name}/{i}.png {label}\n" for label, name in enumerate(("cat", "dog")) for i in (0, 1)]
        (tmp_path / f"{part}.txt").write_text("".join(lines))
    source = file_lists.load(root, {part: tmp_path / f"{part}.txt" for part in ("train", "test")}, relabel=False)
    with pytest.raises(DataError, match="3 of 8 images"):
        run_prepare(source, tmp_path / "out", storage=storage)
    assert bad_images(tmp_path / "out") == {
        "train/cat/0.png": "is a folder",
        "train/dog/0.png": "is not a regular file (a pipe, socket or device)",
        "test/dog/0.png": "cannot be read (No such file or directory)",
    }


def test_each_file_is_read_once(tmp_path, monkeypatch):
    source = folder_with(tmp_path / "in", {})
    read: list[Path] = []
    monkeypatch.setattr(survey, "read_file", lambda path: read.append(path) or path.read_bytes())
    for storage in ("auto", "memory", "paths"):
        read.clear()
        run_prepare(source, tmp_path / storage, storage=storage)
        assert sorted(read) == sorted(tmp_path / "in" / path for path in source.paths)


def test_control_characters_of_a_name_do_not_reach_the_terminal(tmp_path):
    source = folder_with(tmp_path / "in", {"train/cat/\x1b[31m\n.jpg": b""})
    with pytest.raises(DataError, match=r"train/cat/\\x1b\[31m\\n\.jpg is empty"):
        run_prepare(source, tmp_path / "out")


def test_groups_of_the_images_that_stay_are_kept():
    source = Source(
        ("a", "b"),
        np.array([0, 1, 0, 1]),
        np.array(["all"] * 4),
        root=Path("/x"),
        paths=("0", "1", "2", "3"),
        groups=("g", "h", "", "i"),
    )
    kept = survey.without(source, {0: "is empty", 3: "is empty"}, Path("t.csv"))
    assert (kept.paths, kept.groups, kept.labels.tolist()) == (("1", "2"), ("h", ""), [1, 0])


# The pixels of prepare and of the stages that read files


def save(root: Path, image: Image.Image, kind: str = "PNG", **options) -> Source:
    make_folder(root)
    for path in root.rglob("*.png"):
        path.write_bytes(encoded(image, kind, **options))
    return image_folder.load(root)


def turned(orientation: int = 6) -> dict:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


DEEP = Image.fromarray(np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32))
FLOATS = Image.fromarray(np.linspace(-3, 90, 64, dtype=np.float32).reshape(8, 8))


@pytest.mark.parametrize(
    ("image", "kind", "options", "rule"),
    [
        (picture(24, 16), "JPEG", turned(), "scale"),
        (picture(16, 16, "CMYK"), "TIFF", {}, "scale"),
        (picture(16, 16, "P"), "PNG", {"transparency": 3}, "scale"),
        (DEEP, "PNG", {}, "scale"),
        (DEEP, "PNG", {}, "window"),
        (FLOATS, "TIFF", {}, "window"),
    ],
)
def test_readers_of_files_see_the_pixels_that_prepare_saw(tmp_path, image, kind, options, rule):
    source = save(tmp_path / "in", image, kind, **options)
    run_prepare(source, tmp_path / "memory", storage="memory", image_size=16, sixteen_bit=rule)
    run_prepare(source, tmp_path / "paths", storage="paths", image_size=16, sixteen_bit=rule)
    manifest, info = read_manifest(tmp_path / "paths"), read_info(tmp_path / "paths")
    assert info.sixteen_bit == rule
    for path, digest, pixels in zip(manifest.paths, manifest.sha256, read_pixels(tmp_path / "memory"), strict=True):
        read = read_picture(tmp_path / "in", str(path), str(digest), info.sixteen_bit)
        small = read if read.size == (16, 16) else read.resize((16, 16), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(np.asarray(small), pixels)


@pytest.mark.parametrize("storage", ["memory", "paths"])
def test_deep_images_are_counted_or_refused(tmp_path, capsys, storage):
    source = save(tmp_path / "in", DEEP)
    run_prepare(source, tmp_path / "out", storage=storage)
    assert (
        "8 of 8 images have more than 8 bits per channel: scaled to 8 bits (sixteen_bit: scale)"
        in capsys.readouterr().out
    )
    with pytest.raises(
        DataError, match=r"8 of 8 images .*/0\.png has 16 bits \(mode I;16\), and sixteen_bit is refuse, not"
    ):
        run_prepare(source, tmp_path / "refused", storage=storage, sixteen_bit="refuse")


@pytest.mark.parametrize(("resize", "expected"), [("squash", (64, 64)), ("crop", (64, 64)), ("pad", (64, 64))])
def test_aspect_ratio_in_memory(tmp_path, resize, expected):
    source = save(tmp_path / "in", Image.new("RGB", (40, 20)))
    info = run_prepare(source, tmp_path / "out", resize=resize)
    assert (info.resize, info.image_size) == (resize, 64)
    pixels = read_pixels(tmp_path / "out")[0]
    assert pixels.shape[:2] == expected
    black = (pixels == 0).all((1, 2))
    assert (
        black.all() if resize != "pad" else black[20:44].all() and (pixels[[*range(14), *range(50, 64)]] == 255).all()
    )


def test_defaults_of_the_function_are_those_of_the_parameters():
    import inspect

    from longtail.data.params import DatasetParams

    signature, declared = inspect.signature(prepare).parameters, DatasetParams()
    for name in ("sixteen_bit", "resize", "bad_images"):
        assert signature[name].default == getattr(declared, name)
