"""Sources in their common form."""

import hashlib
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtail.core.errors import ConfigError, DataError
from longtail.data.manifest import ChangedImageError, read_manifest, read_pixels, read_verified
from longtail.data.sources import digits, image_folder
from longtail.data.sources.base import Source
from tests.refusals import refused
from tests.unit.data.helpers import make_folder, picture, run_prepare


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_small_squares_of_one_size_keep_it_and_their_pixels(tmp_path):
    make_folder(tmp_path / "in", {"0.png": (12, 12), "1.png": (12, 12)})
    source = image_folder.load(tmp_path / "in")
    info = run_prepare(source, tmp_path / "out")
    assert (info.storage, info.image_size, info.channels, info.num_classes) == ("memory", 12, 3, 2)
    pixels = read_pixels(tmp_path / "out")
    assert pixels.shape == (8, 12, 12, 3)
    for row, path in enumerate(source.paths):
        np.testing.assert_array_equal(pixels[row], np.asarray(Image.open(tmp_path / "in" / path)))


def test_pictures_of_several_sizes_are_resized_to_64_in_memory(tmp_path, capsys):
    make_folder(tmp_path / "in", {"0.jpg": (30, 20), "1.jpg": (120, 90), "2.jpg": (64, 64)})
    info = run_prepare(image_folder.load(tmp_path / "in"), tmp_path / "out")
    assert (info.storage, info.image_size) == ("memory", 64)
    assert "64 x 64" in capsys.readouterr().out
    expected = Image.open(tmp_path / "in/train/cat/1.jpg").resize((64, 64), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_pixels(tmp_path / "out")[1], np.asarray(expected))


def test_pictures_of_several_modes_share_one_array(tmp_path):
    make_folder(tmp_path / "in")
    picture(8, 8, "L").save(tmp_path / "in/train/cat/2.png")
    picture(8, 8, "RGBA").save(tmp_path / "in/train/cat/3.png")
    picture(8, 8, "P").save(tmp_path / "in/train/cat/4.png")
    run_prepare(image_folder.load(tmp_path / "in"), tmp_path / "out")
    pixels = read_pixels(tmp_path / "out")
    assert pixels.shape == (11, 8, 8, 3)
    assert (pixels[2, ..., 0] == pixels[2, ..., 1]).all()
    np.testing.assert_array_equal(pixels[3], np.asarray(picture(8, 8)))


@pytest.mark.parametrize(
    ("side", "image_size", "storage", "expected"),
    [
        (16, None, "auto", ("memory", 16)),
        (64, None, "auto", ("memory", 64)),
        (65, None, "auto", ("memory", 64)),
        (128, None, "auto", ("memory", 64)),
        (129, None, "auto", ("paths", 224)),
        (129, None, "memory", ("memory", 64)),
        (129, 48, "auto", ("paths", 48)),
        (16, None, "paths", ("paths", 224)),
        (16, 32, "paths", ("paths", 32)),
        (16, 32, "auto", ("memory", 32)),
        (129, 20, "memory", ("memory", 20)),
    ],
)
def test_storage_and_size_follow_the_pictures(tmp_path, side, image_size, storage, expected):
    make_folder(tmp_path / "in", {"0.png": (side, side)})
    info = run_prepare(image_folder.load(tmp_path / "in"), tmp_path / "out", image_size=image_size, storage=storage)
    assert (info.storage, info.image_size) == expected
    assert (tmp_path / "out" / "images.h5").exists() == (expected[0] == "memory")
    assert read_manifest(tmp_path / "out").info == info


def test_pictures_beyond_the_memory_budget_stay_files(tmp_path, monkeypatch):
    make_folder(tmp_path / "in", {"0.png": (16, 16)})
    monkeypatch.setattr("longtail.data.prepare.MEMORY_BUDGET", 4 * 16 * 16 * 3)
    assert run_prepare(image_folder.load(tmp_path / "in"), tmp_path / "fits").storage == "memory"
    monkeypatch.setattr("longtail.data.prepare.MEMORY_BUDGET", 4 * 16 * 16 * 3 - 1)
    assert run_prepare(image_folder.load(tmp_path / "in"), tmp_path / "big").storage == "paths"


def test_array_keeps_its_size_or_is_resized(tmp_path):
    source = digits.load()
    assert run_prepare(source, tmp_path / "a").image_size == 8
    np.testing.assert_array_equal(read_pixels(tmp_path / "a"), source.images)
    info = run_prepare(source, tmp_path / "b", image_size=16)
    assert (info.image_size, info.channels) == (16, 1)
    assert read_pixels(tmp_path / "b").shape == (1797, 16, 16, 1)


def test_array_cannot_be_stored_as_paths(tmp_path):
    with pytest.raises(DataError, match=r"storage must be auto or memory for dataset: digits, .* got paths"):
        run_prepare(digits.load(), tmp_path, dataset="digits", storage="paths")


def test_array_that_image_size_makes_too_large_is_refused_before_it_is_allocated(tmp_path):
    """CIFAR's 60,000 images at 224 pixels."""
    images = np.broadcast_to(np.zeros((1, 32, 32, 3), np.uint8), (60_000, 32, 32, 3))
    labels = np.arange(60_000) % 2
    source = Source(("a", "b"), labels, np.full(60_000, "train"), images=images)
    tracemalloc.start()
    expected = "image_size must be at most 77 for 60000 images in memory, got 224, which needs 9031680000 bytes where"
    with pytest.raises(ConfigError, match=rf"^{expected} 1073741824 are allowed"):
        run_prepare(source, tmp_path / "out", image_size=224)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert not (tmp_path / "out").exists()


def test_resized_array_is_allocated_once_and_storage_memory_allows_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr("longtail.data.prepare.MEMORY_BUDGET", 1000)
    source = digits.load()
    with pytest.raises(ConfigError, match="set storage: memory"):
        run_prepare(source, tmp_path / "out", image_size=32)
    tracemalloc.start()
    monkeypatch.setattr("longtail.data.prepare.write_hdf5", lambda *_, **__: None)
    assert run_prepare(source, tmp_path / "out", image_size=32, storage="memory").storage == "memory"
    size = len(source.labels) * 32 * 32
    assert tracemalloc.get_traced_memory()[1] < 2 * size
    tracemalloc.stop()


def test_manifest_has_a_row_an_image_with_digest_and_relative_path(tmp_path):
    make_folder(tmp_path / "in")
    source = image_folder.load(tmp_path / "in")
    run_prepare(source, tmp_path / "out", dataset="image_folder", storage="paths")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.class_names == source.class_names
    assert manifest.paths.tolist() == list(source.paths)
    np.testing.assert_array_equal(manifest.labels, source.labels)
    np.testing.assert_array_equal(manifest.parts, source.parts)
    for path, digest in zip(manifest.paths, manifest.sha256, strict=True):
        assert digest == hashlib.sha256((tmp_path / "in" / path).read_bytes()).hexdigest()
    assert not any(str(tmp_path).encode() in content for content in contents(tmp_path / "out").values())


def test_awkward_class_and_file_names_survive(tmp_path):
    root = tmp_path / "in"
    for part in ("train", "test"):
        for name in ("NA", "1.0", 'a, "b"', "Möwe 海"):
            (root / part / name).mkdir(parents=True)
            picture(8, 8).save(root / part / name / "1, 2.png")
    source = image_folder.load(root)
    run_prepare(source, tmp_path / "out", storage="paths")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.class_names == ("1.0", "Möwe 海", "NA", 'a, "b"')
    assert manifest.paths.tolist() == list(source.paths)


@pytest.mark.parametrize("storage", ["memory", "paths"])
def test_prepare_twice_gives_the_same_bytes_with_any_number_of_workers(tmp_path, storage):
    make_folder(tmp_path / "in", {f"{i}.jpg": (20 + i, 20) for i in range(6)})
    for workers, name in ((1, "a"), (5, "b")):
        run_prepare(image_folder.load(tmp_path / "in"), tmp_path / name, storage=storage, workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == {"manifest.csv", "classes.csv", "dataset.json", "bad_images.csv"} | (
        {"images.h5"} if storage == "memory" else set()
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2], "must have labels from 0 to 1, got 2"),
        ([0, -1], "must have labels from 0 to 1, got -1"),
        ([0, 0], r"must have images of every class, got none of class 1 \(b\)"),
    ],
)
def test_labels_that_do_not_fit_the_classes_are_refused(tmp_path, labels, message):
    source = Source(("a", "b"), np.array(labels), np.array(["train"] * 2), images=np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(DataError, match=f"dataset: x {message}"):
        run_prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_source_without_an_image_is_refused(tmp_path):
    source = Source(("a", "b"), np.zeros(0, np.int64), np.array([]), root=tmp_path)
    with pytest.raises(DataError, match="must have images, got none"):
        run_prepare(source, tmp_path / "out")


def test_changed_or_missing_file_is_detected_and_named(tmp_path):
    make_folder(tmp_path / "in")
    run_prepare(image_folder.load(tmp_path / "in"), tmp_path / "out", storage="paths")
    manifest = read_manifest(tmp_path / "out")
    path, digest = manifest.paths[0], manifest.sha256[0]
    file = tmp_path / "in" / path
    assert read_verified(tmp_path / "in", path, digest) == file.read_bytes()
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ChangedImageError, match=r"cat/0\.png has changed since it was prepared$") as caught:
        read_verified(tmp_path / "in", path, digest)
    assert caught.value.maker == "prepare"
    file.unlink()
    with pytest.raises(DataError, match=r"cat/0\.png cannot be read \(No such file.*\); if it moved, set data_root"):
        read_verified(tmp_path / "in", path, digest)


@pytest.mark.parametrize("file", ["manifest.csv", "classes.csv", "dataset.json"])
def test_damaged_prepared_table_is_refused_with_its_stage(tmp_path, file):
    run_prepare(digits.load(), tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    with refused(file, "prepare"):
        read_manifest(tmp_path)
    path.unlink()
    with refused(rf"{file} is missing$", "prepare", missing=True):
        read_manifest(tmp_path)


def test_real_archives_are_prepared_as_they_are(tmp_path, shared_data):
    """A few pictures of the plankton archive (sizes differ) and of CIFAR-10 (32 x 32)."""
    for archive, size in (("cifar10-images.tar.gz", 32), ("plankton-images.tar.gz", 64)):
        root = tmp_path / archive.split("-")[0]
        wanted: dict[str, int] = {}
        with tarfile.open(shared_data / archive) as members:
            for member in members:
                parts = member.name.split("/")
                if len(parts) == 4 and wanted.setdefault("/".join(parts[1:3]), 0) < 3:
                    target = root.joinpath(*parts[1:])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(members.extractfile(member).read())  # type: ignore[union-attr]
                    wanted["/".join(parts[1:3])] += 1
                if sum(count == 3 for count in wanted.values()) == 3:
                    break
        for part in {"train", "test"} - {path.name for path in root.iterdir()}:
            (root / part).mkdir()
            for name in next(path for path in root.iterdir() if path.name != part).iterdir():
                (root / part / name.name).mkdir()
                (root / part / name.name / "1.jpg").write_bytes(next(name.iterdir()).read_bytes())
        source = image_folder.load(root)
        info = run_prepare(source, tmp_path / "out")
        assert (info.storage, info.image_size) == ("memory", size)
        assert read_pixels(tmp_path / "out").shape == (len(source.paths), size, size, 3)


# Resized later, by the network that reads them


def test_files_that_are_resized_later_stay_files_and_an_array_keeps_its_size(tmp_path):
    later = {"resize_later": True}
    make_folder(tmp_path / "in", {"0.jpg": (30, 20), "1.jpg": (120, 90)})
    source = image_folder.load(tmp_path / "in")
    info = run_prepare(source, tmp_path / "out", **later)
    assert (info.storage, info.image_size) == ("paths", 224) and not (tmp_path / "out/images.h5").exists()
    assert run_prepare(source, tmp_path / "out2", image_size=96, **later).image_size == 96
    given = run_prepare(source, tmp_path / "out3", image_size=32, storage="memory", **later)
    assert (given.storage, given.image_size) == ("memory", 32)
    array = Source(("a", "b"), np.arange(4) % 2, np.full(4, "train"), np.zeros((4, 8, 8, 1), np.uint8))
    info = run_prepare(array, tmp_path / "out4", image_size=128, **later)
    assert (info.storage, info.image_size) == ("memory", 8)
    assert read_pixels(tmp_path / "out4").shape == (4, 8, 8, 1)


def test_small_squares_that_are_resized_later_keep_their_size_as_the_networks(tmp_path):
    make_folder(tmp_path / "in", {"0.png": (12, 12)})
    info = run_prepare(image_folder.load(tmp_path / "in"), tmp_path / "out", resize_later=True)
    assert (info.storage, info.image_size) == ("paths", 12)
