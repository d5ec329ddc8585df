"""Every kind of source becomes one common form; what cannot be used is named."""

import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
import tracemalloc
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from longtail.core.errors import ArtifactError, ConfigError, DataError
from longtail.data.manifest import (
    ChangedImageError,
    decode,
    image_dimensions,
    read_manifest,
    read_pixels,
    read_verified,
)
from longtail.data.prepare import prepare
from longtail.data.samplers import create_sampler
from longtail.data.sources import cifar, digits, file_lists, folder
from longtail.data.sources.base import Source
from longtail.data.splits import make_split


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours, so that JPEG keeps them nearly."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 / width, y * 255 / height, np.full_like(x, (seed * 40) % 256)], axis=2)
    return Image.fromarray(rgb.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_folder(root: Path, sizes: dict[str, tuple[int, int]] | None = None, parts=("train", "test")) -> Path:
    """``PART/CLASS/N.png`` for classes cat and dog."""
    sizes = sizes or {"0.png": (8, 8), "1.png": (8, 8)}
    for part in parts:
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for number, (file, (width, height)) in enumerate(sizes.items()):
                picture(width, height, seed=label * 2 + number).save(root / part / name / file)
    return root


def run_prepare(source: Source, target: Path, **options):
    settings = {"dataset": "x", "image_size": None, "storage": "auto", "workers": 2, "progress": "off"} | options
    return prepare(source, target, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Digits


def test_digits_are_scikit_learns_as_one_pool():
    source = digits.load()
    assert source.images.shape == (1797, 8, 8, 1)
    assert source.images.dtype == np.uint8
    assert (source.images.min(), source.images.max()) == (0, 255)
    assert np.bincount(source.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert source.class_names == tuple("0123456789")
    assert set(source.parts) == {"pool"}


def test_digits_split_has_the_documented_sizes():
    source = digits.load()
    split = make_split(
        source.labels,
        source.parts,
        source.class_names,
        imb_type="exp",
        imb_factor=100,
        val_per_class=10,
        split_seed=0,
    )
    assert (len(split.test), len(split.val)) == (400, 100)
    assert np.bincount(source.labels[split.train]).tolist() == [int(124 * 0.01 ** (k / 9)) for k in range(10)]


# CIFAR through torchvision's own loader


def fake_cifar(monkeypatch, name: str) -> bytes:
    """The archive of a tiny CIFAR; torchvision's lists of digests are those of its files."""
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    rng = np.random.default_rng(0)
    classes = [f"class {k}" for k in range(10 if name == "cifar10" else 100)]
    key = "labels" if name == "cifar10" else "fine_labels"
    files = {kind.meta["filename"]: pickle.dumps({kind.meta["key"]: classes})}
    for file, _ in [*kind.train_list, *kind.test_list]:
        pixels = rng.integers(0, 256, (len(classes), 3 * 32 * 32), dtype=np.uint8)
        files[file] = pickle.dumps({"data": pixels, key: rng.permutation(len(classes)).tolist()})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file, content in files.items():
            info = tarfile.TarInfo(f"{kind.base_folder}/{file}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

    def md5(content: bytes) -> str:
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(kind, attribute, [[file, md5(files[file])] for file, _ in getattr(kind, attribute)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(files[kind.meta["filename"]])})
    monkeypatch.setattr(kind, "tgz_md5", md5(buffer.getvalue()))
    return buffer.getvalue()


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize(("name", "train", "test"), [("cifar10", 50, 10), ("cifar100", 100, 100)])
def test_cifar_archive_placed_by_hand_is_read_without_a_network(tmp_path, monkeypatch, offline, name, train, test):
    (tmp_path / cifar.ARCHIVES[name]).write_bytes(fake_cifar(monkeypatch, name))
    source = cifar.load(name, tmp_path)
    assert source.images.shape == (train + test, 32, 32, 3)
    assert source.images.dtype == np.uint8
    assert source.labels.dtype == np.int64
    assert source.parts.tolist() == ["train"] * train + ["test"] * test
    assert len(source.class_names) == (10 if name == "cifar10" else 100)
    expected = datasets.__dict__[name.upper()](str(tmp_path), train=True)
    np.testing.assert_array_equal(source.images[:train], expected.data)
    assert source.labels[:train].tolist() == expected.targets
    (tmp_path / cifar.ARCHIVES[name]).unlink()
    np.testing.assert_array_equal(cifar.load(name, tmp_path).images, source.images)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_without_a_network_says_what_to_place_where(tmp_path, offline, name):
    root = tmp_path / "data" / "raw"
    with pytest.raises(DataError, match=r"data_root must be a folder, .*raw$"):
        cifar.load(name, root)
    root.mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        cifar.load(name, root)
    message = str(caught.value)
    assert message.startswith(f"dataset: {name} is not in {root} and could not be downloaded")
    assert f"put {cifar.ARCHIVES[name]} there, or set data_root" in message
    assert "\n" not in message


def test_damaged_cifar_archive_is_refused_without_a_network(tmp_path, monkeypatch, offline):
    archive = fake_cifar(monkeypatch, "cifar10")
    (tmp_path / cifar.ARCHIVES["cifar10"]).write_bytes(archive[: len(archive) // 2])
    with pytest.raises(DataError, match=r"put cifar-10-python\.tar\.gz there"):
        cifar.load("cifar10", tmp_path)


def test_cifar_file_damaged_after_unpacking_is_unpacked_again(tmp_path, monkeypatch, offline):
    (tmp_path / cifar.ARCHIVES["cifar10"]).write_bytes(fake_cifar(monkeypatch, "cifar10"))
    first = cifar.load("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"torn")
    np.testing.assert_array_equal(cifar.load("cifar10", tmp_path).images, first.images)


# A folder of one's own


def test_folder_lists_parts_classes_and_files_in_order(tmp_path):
    make_folder(tmp_path, {"b.png": (8, 8), "A.PNG": (8, 8), "c.jpeg": (8, 8)}, parts=("train", "val", "test"))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "README").write_text("no class")
    source = folder.load(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.paths[:4] == ("train/cat/A.PNG", "train/cat/b.png", "train/cat/c.jpeg", "train/dog/A.PNG")
    assert source.parts.tolist() == ["train"] * 6 + ["val"] * 6 + ["test"] * 6
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1] * 3
    assert source.root == tmp_path


@pytest.mark.parametrize("part", ["train", "test"])
def test_folder_without_a_part_names_it(tmp_path, part):
    make_folder(tmp_path, parts=tuple({"train", "test"} - {part}))
    with pytest.raises(
        DataError, match=rf"data_root must have the folders train/CLASS and test/CLASS .* .*/{part} is missing"
    ):
        folder.load(tmp_path)


def test_missing_data_root_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data_root must .*nowhere/train is missing"):
        folder.load(tmp_path / "nowhere")


def test_class_that_only_test_has_is_refused_by_name(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "test" / "wolf").mkdir()
    with pytest.raises(DataError, match=r"data_root has the class folder .*test/wolf, but .*train has no such class"):
        folder.load(tmp_path)


def test_folder_of_one_class_is_refused(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"at least 2 class folders in .*train, got 1"):
        folder.load(tmp_path)


def test_class_without_any_image_is_refused_by_name(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"images of every class, got none of class 2 \(empty\)"):
        run_prepare(folder.load(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_class_without_a_test_image_is_refused_by_name(tmp_path):
    make_folder(tmp_path)
    for file in (tmp_path / "test" / "dog").iterdir():
        file.unlink()
    run_prepare(folder.load(tmp_path), tmp_path / "out")
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
        run_prepare(folder.load(tmp_path), tmp_path / "out")


# Decoding


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1", "CMYK"])
def test_pictures_of_every_mode_become_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    found = decode(encoded(picture(9, 7, mode), kind), Path("x"))
    assert found.mode == "RGB"
    assert found.size == (9, 7)
    if mode in ("RGB", "L"):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(picture(9, 7, mode).convert("RGB")))


def test_sixteen_bit_pictures_are_refused_or_scaled_but_not_clipped():
    levels = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    try:
        found = np.asarray(decode(encoded(Image.fromarray(levels), "PNG"), Path("deep.png")))
    except DataError as error:
        assert "deep.png" in str(error)
    else:
        np.testing.assert_allclose(found[..., 0], levels / 257, atol=1)


def test_dimensions_are_width_and_height():
    assert image_dimensions(encoded(picture(9, 7), "JPEG"), Path("x")) == (9, 7)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_damaged_picture_is_decoded_or_refused_by_name_and_nothing_else(kind):
    whole = encoded(picture(12, 9), kind)
    damaged = [whole[:size] for size in range(0, len(whole), 7)]
    for position in range(0, 8 * len(whole), 5):
        changed = bytearray(whole)
        changed[position // 8] ^= 1 << position % 8
        damaged.append(bytes(changed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in damaged:
            try:
                image_dimensions(content, Path("my/cat.x"))
                decode(content, Path("my/cat.x"))
            except DataError as error:
                assert "my/cat.x" in str(error)


@pytest.mark.parametrize("storage", ["memory", "paths"])
@pytest.mark.parametrize("content", [b"", b"no picture", encoded(picture(8, 8), "JPEG")[:30]])
def test_unreadable_picture_is_named_and_nothing_is_written(tmp_path, storage, content):
    make_folder(tmp_path / "in")
    (tmp_path / "in" / "train" / "dog" / "1.png").write_bytes(content)
    with pytest.raises(DataError, match=r"image .*in/train/dog/1\.png cannot be decoded") as caught:
        run_prepare(folder.load(tmp_path / "in"), tmp_path / "out", storage=storage)
    assert "0x" not in str(caught.value), "the address of an object says nothing"
    assert not (tmp_path / "out").exists()


def test_picture_damaged_behind_its_header_is_named_when_decoded(tmp_path):
    make_folder(tmp_path / "in", {"0.jpg": (32, 32), "1.jpg": (32, 32)})
    file = tmp_path / "in" / "test" / "cat" / "1.jpg"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"in/test/cat/1\.jpg cannot be decoded"):
        run_prepare(folder.load(tmp_path / "in"), tmp_path / "out", storage="memory")
    assert not (tmp_path / "out").exists()


def test_missing_picture_is_named(tmp_path):
    make_folder(tmp_path / "in")
    source = folder.load(tmp_path / "in")
    (tmp_path / "in" / "train" / "dog" / "1.png").unlink()
    with pytest.raises(DataError, match=r"in/train/dog/1\.png cannot be read: No such file"):
        run_prepare(source, tmp_path / "out")


# prepare


def test_small_squares_of_one_size_keep_it_and_their_pixels(tmp_path):
    make_folder(tmp_path / "in", {"0.png": (12, 12), "1.png": (12, 12)})
    source = folder.load(tmp_path / "in")
    info = run_prepare(source, tmp_path / "out")
    assert (info.storage, info.image_size, info.channels, info.num_classes) == ("memory", 12, 3, 2)
    pixels = read_pixels(tmp_path / "out")
    assert pixels.shape == (8, 12, 12, 3)
    for row, path in enumerate(source.paths):
        np.testing.assert_array_equal(pixels[row], np.asarray(Image.open(tmp_path / "in" / path)))


def test_pictures_of_several_sizes_are_resized_to_64_in_memory(tmp_path, capsys):
    make_folder(tmp_path / "in", {"0.jpg": (30, 20), "1.jpg": (120, 90), "2.jpg": (64, 64)})
    info = run_prepare(folder.load(tmp_path / "in"), tmp_path / "out")
    assert (info.storage, info.image_size) == ("memory", 64)
    assert "64 x 64" in capsys.readouterr().out
    expected = Image.open(tmp_path / "in/train/cat/1.jpg").resize((64, 64), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_pixels(tmp_path / "out")[1], np.asarray(expected))


def test_pictures_of_several_modes_share_one_array(tmp_path):
    make_folder(tmp_path / "in")
    picture(8, 8, "L").save(tmp_path / "in/train/cat/2.png")
    picture(8, 8, "RGBA").save(tmp_path / "in/train/cat/3.png")
    picture(8, 8, "P").save(tmp_path / "in/train/cat/4.png")
    run_prepare(folder.load(tmp_path / "in"), tmp_path / "out")
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
    info = run_prepare(folder.load(tmp_path / "in"), tmp_path / "out", image_size=image_size, storage=storage)
    assert (info.storage, info.image_size) == expected
    assert (tmp_path / "out" / "images.h5").exists() == (expected[0] == "memory")
    assert read_manifest(tmp_path / "out").info == info


def test_pictures_beyond_the_memory_budget_stay_files(tmp_path, monkeypatch):
    make_folder(tmp_path / "in", {"0.png": (16, 16)})
    monkeypatch.setattr("longtail.data.prepare.MEMORY_BUDGET", 4 * 16 * 16 * 3)
    assert run_prepare(folder.load(tmp_path / "in"), tmp_path / "fits").storage == "memory"
    monkeypatch.setattr("longtail.data.prepare.MEMORY_BUDGET", 4 * 16 * 16 * 3 - 1)
    assert run_prepare(folder.load(tmp_path / "in"), tmp_path / "big").storage == "paths"


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
    source = folder.load(tmp_path / "in")
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
    source = folder.load(root)
    run_prepare(source, tmp_path / "out", storage="paths")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.class_names == ("1.0", "Möwe 海", "NA", 'a, "b"')
    assert manifest.paths.tolist() == list(source.paths)


@pytest.mark.parametrize("storage", ["memory", "paths"])
def test_prepare_twice_gives_the_same_bytes_with_any_number_of_workers(tmp_path, storage):
    make_folder(tmp_path / "in", {f"{i}.jpg": (20 + i, 20) for i in range(6)})
    for workers, name in ((1, "a"), (5, "b")):
        run_prepare(folder.load(tmp_path / "in"), tmp_path / name, storage=storage, workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == {"manifest.csv", "classes.csv", "dataset.json"} | (
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
    run_prepare(folder.load(tmp_path / "in"), tmp_path / "out", storage="paths")
    manifest = read_manifest(tmp_path / "out")
    path, digest = manifest.paths[0], manifest.sha256[0]
    file = tmp_path / "in" / path
    assert read_verified(tmp_path / "in", path, digest) == file.read_bytes()
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ChangedImageError, match=r"cat/0\.png has changed since it was prepared$") as caught:
        read_verified(tmp_path / "in", path, digest)
    assert caught.value.maker == "prepare"
    file.unlink()
    with pytest.raises(DataError, match=r"cat/0\.png cannot be read \(No such file.*set data_root"):
        read_verified(tmp_path / "in", path, digest)


@pytest.mark.parametrize("file", ["manifest.csv", "classes.csv", "dataset.json"])
def test_damaged_prepared_table_is_refused_with_its_stage(tmp_path, file):
    run_prepare(digits.load(), tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    with pytest.raises(ArtifactError, match=file) as caught:
        read_manifest(tmp_path)
    assert (caught.value.maker, caught.value.missing) == ("prepare", False)
    path.unlink()
    with pytest.raises(ArtifactError, match=rf"{file} is missing$") as caught:
        read_manifest(tmp_path)
    assert (caught.value.maker, caught.value.missing) == ("prepare", True)


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
        source = folder.load(root)
        info = run_prepare(source, tmp_path / "out")
        assert (info.storage, info.image_size) == ("memory", size)
        assert read_pixels(tmp_path / "out").shape == (len(source.paths), size, size, 3)


# Published lists

LISTS = {
    "ImageNet_LT_val": (20000, 1000, 20, 20),
    "ImageNet_LT_test": (50000, 1000, 50, 50),
    "ImageNet_LT_90_train": (7614, 90, 507, 6),
    "ImageNet_LT_90_val": (1800, 90, 20, 20),
    "ImageNet_LT_90_test": (4500, 90, 50, 50),
    "Places_LT_train": (62500, 365, 4980, 5),
    "Places_LT_val": (7300, 365, 20, 20),
    "Places_LT_test": (36500, 365, 100, 100),
    "iNaturalist18_val": (24426, 8142, 3, 3),
}


@pytest.fixture(scope="module")
def splits(shared_data) -> Path:
    return shared_data / "splits"


@pytest.fixture(scope="module")
def class_counts(splits) -> dict[str, list[int]]:
    return json.loads((splits / "class_counts.json").read_text())


@pytest.fixture(scope="module")
def places(splits) -> Source:
    lists = {part: splits / f"Places_LT_{part}.txt.gz" for part in ("train", "val", "test")}
    return file_lists.load(Path("/data"), lists, relabel=False)


def counts_of(source: Source, part: str = "train") -> np.ndarray:
    return np.bincount(source.labels[source.parts == part], minlength=len(source.class_names))


def groups(counts: np.ndarray) -> tuple[int, int, int]:
    """Many above 100, few below 20."""
    return int((counts > 100).sum()), int(((counts >= 20) & (counts <= 100)).sum()), int((counts < 20).sum())


def test_every_list_at_hand_is_checked(splits):
    assert {path.name.removesuffix(".txt.gz") for path in splits.glob("*.gz")} == set(LISTS)


@pytest.mark.parametrize("name", LISTS)
def test_published_list_has_its_rows_and_class_counts(splits, name):
    paths, labels = file_lists.read_list(splits / f"{name}.txt.gz")
    counts = np.unique(labels, return_counts=True)[1]
    assert (len(paths), len(counts), counts.max(), counts.min()) == LISTS[name]
    assert len(labels) == len(set(paths)) == len(paths)
    assert all("/" in path and " " not in path for path in paths)


def test_places_counts_and_groups_are_the_published_ones(places, class_counts):
    counts = counts_of(places)
    assert counts.tolist() == class_counts["Places_LT_train"]
    assert groups(counts) == (131, 163, 71)
    assert set(counts_of(places, "val")) == {20}
    assert set(counts_of(places, "test")) == {100}
    assert len(set(places.class_names)) == 365


def test_places_keeps_the_order_of_its_lists_and_splits_as_published(places, splits):
    paths, labels = file_lists.read_list(splits / "Places_LT_train.txt.gz")
    assert places.paths[:62500] == tuple(paths)
    split = make_split(
        places.labels,
        places.parts,
        places.class_names,
        imb_type="natural",
        imb_factor=100,
        val_per_class=20,
        split_seed=0,
    )
    assert (len(split.train), len(split.val), len(split.test)) == (62500, 7300, 36500)
    np.testing.assert_array_equal(np.sort(split.train), np.arange(62500))
    assert np.bincount(labels).tolist() == np.bincount(places.labels[split.train]).tolist()


def test_imagenet_lt_groups_are_the_published_ones(class_counts):
    counts = np.array(class_counts["ImageNet_LT_train"])
    assert (counts.sum(), counts.max(), counts.min()) == (115846, 1280, 5)
    assert groups(counts) == (385, 479, 136)


def test_gaps_are_refused_and_relabel_numbers_what_occurs(splits, class_counts):
    lists = {part: splits / f"ImageNet_LT_90_{part}.txt.gz" for part in ("train", "val", "test")}
    with pytest.raises(DataError, match=r"ImageNet_LT_90_train.*must have labels 0 to C-1 without gaps.*relabel: true"):
        file_lists.load(Path("/data"), lists, relabel=False)
    source = file_lists.load(Path("/data"), lists, relabel=True)
    known = np.unique(file_lists.read_list(lists["train"])[1])
    assert counts_of(source).tolist() == np.array(class_counts["ImageNet_LT_train"])[known].tolist()
    assert set(counts_of(source, "test")) == {50}
    assert len(source.class_names) == 90
    assert source.class_names[0].startswith("n")


def write_lists(root: Path, train: str, test: str = "a/9.jpg 0\nb/9.jpg 1\n", **options) -> Source:
    (root / "train.txt").write_text(train)
    (root / "test.txt").write_text(test)
    lists = {part: root / f"{part}.txt" for part in ("train", "test")}
    return file_lists.load(root, lists, **{"relabel": False} | options)


def test_lists_are_read_plain_and_zipped_with_blank_lines_and_blanks_in_paths(tmp_path):
    text = "a dir/1.jpg 0\n\nb/2.jpg\t1\r\nc/3.jpg   2 \n"
    (tmp_path / "plain.txt").write_bytes(text.encode())
    (tmp_path / "zipped.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("plain.txt", "zipped.txt.gz"):
        paths, labels = file_lists.read_list(tmp_path / name)
        assert paths == ["a dir/1.jpg", "b/2.jpg", "c/3.jpg"]
        assert labels.tolist() == [0, 1, 2]
        assert labels.dtype == np.int64


@pytest.mark.parametrize("line", ["a/2.jpg", "a/2.jpg x", "a/2.jpg -1", "a/2.jpg 1.0", "7", "a/2.jpg 1e3", "a,1"])
def test_malformed_line_is_named_with_its_number(tmp_path, line):
    with pytest.raises(DataError, match=r"train\.txt, line 3 must be `relative/path label`, got ") as caught:
        write_lists(tmp_path, f"a/1.jpg 0\n\n{line}\n")
    assert repr(line) in str(caught.value)


@pytest.mark.parametrize("label", ["1000000000000", "99999999999999999999999", "9" * 5000])
def test_absurd_label_is_refused_at_once(tmp_path, label):
    with pytest.raises(DataError, match=r"train\.txt"):
        write_lists(tmp_path, f"a/1.jpg 0\nb/1.jpg {label}\n", "a/9.jpg 0\n")


def test_label_that_train_does_not_have_is_refused_with_its_list(tmp_path):
    with pytest.raises(DataError, match=r"test\.txt: label 2 \(c/9\.jpg\) does not occur in .*train\.txt"):
        write_lists(tmp_path, "a/1.jpg 0\nb/1.jpg 1\n", "a/9.jpg 0\nc/9.jpg 2\n")


def test_gap_is_named(tmp_path):
    with pytest.raises(DataError, match=r"without gaps, got 3 but not 1"):
        write_lists(tmp_path, "a/1.jpg 0\nb/1.jpg 3\nc/1.jpg 2\n", "a/9.jpg 0\n")
    source = write_lists(tmp_path, "a/1.jpg 0\nb/1.jpg 3\nc/1.jpg 2\n", "a/9.jpg 3\n", relabel=True)
    assert source.labels.tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize(
    ("paths", "names"),
    [(("cat/1.jpg", "dog/1.jpg"), ("cat", "dog")), (("x/1.jpg", "x/2.jpg"), ("0", "1")), (("1.jpg", "2"), ("0", "1"))],
)
def test_classes_are_named_by_their_folders_where_these_differ(tmp_path, paths, names):
    source = write_lists(tmp_path, f"{paths[0]} 0\n{paths[1]} 1\n", "cat/9.jpg 0\ndog/9.jpg 1\n")
    assert source.class_names == names


@pytest.mark.parametrize("train", ["", "\n\n"])
def test_empty_list_is_refused(tmp_path, train):
    with pytest.raises(DataError, match=r"train\.txt is empty"):
        write_lists(tmp_path, train)


def test_missing_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"list file .*none\.txt is missing"):
        file_lists.read_list(tmp_path / "none.txt")


def test_damaged_list_is_refused_by_name(tmp_path):
    whole = gzip.compress(b"".join(b"a/%d.jpg %d\n" % (i * 7919 % 1000, i % 3) for i in range(200)))
    for position in range(10, len(whole), 3):
        (tmp_path / "a.gz").write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with pytest.raises(DataError, match=r"a\.gz"):
            file_lists.read_list(tmp_path / "a.gz")
    (tmp_path / "a.gz").write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"list file .*a\.gz cannot be read"):
        file_lists.read_list(tmp_path / "a.gz")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe 0\n")
    with pytest.raises(DataError, match=r"list file .*a\.txt cannot be read"):
        file_lists.read_list(tmp_path / "a.txt")


def test_lists_are_prepared_from_files(tmp_path):
    make_folder(tmp_path / "in")
    rows = {
        part: [f"{part}/{name}/{i}.png {k}" for k, name in enumerate(("cat", "dog")) for i in (1, 0)]
        for part in ("train", "test")
    }
    (tmp_path / "in" / "train.txt").write_text("\n".join(rows["train"]))
    (tmp_path / "in" / "test.txt").write_text("\n".join(rows["test"]))
    lists = {part: tmp_path / "in" / f"{part}.txt" for part in rows}
    info = run_prepare(file_lists.load(tmp_path / "in", lists, relabel=False), tmp_path / "out", storage="paths")
    manifest = read_manifest(tmp_path / "out")
    assert info.num_classes == 2
    assert manifest.paths[:2].tolist() == ["train/cat/1.png", "train/cat/0.png"]
    assert manifest.class_names == ("cat", "dog")


# Samplers at the size of Places-LT


def places_draws(places: Source, name: str, epochs: int = 1) -> tuple[np.ndarray, list[np.ndarray], object]:
    labels = places.labels[places.parts == "train"]
    sampler = create_sampler(name, labels, seed=0, epochs=10, samples_per_class=4)
    draws = 244 * 256
    return labels, [sampler.epoch(epoch, draws) for epoch in range(epochs)], sampler


def test_class_aware_sampler_on_places_is_balanced_in_classes_and_images(places):
    labels, epochs, sampler = places_draws(places, "class_aware", epochs=2)
    assert sampler.offered == 1_817_700  # type: ignore[attr-defined]
    totals = np.zeros(365, np.int64)
    for drawn in epochs:
        of_epoch = np.bincount(labels[drawn], minlength=365)
        assert of_epoch.mean() == pytest.approx(171.134, abs=1e-3)
        totals += of_epoch
        assert totals.max() - totals.min() <= 4
        blocks = labels[drawn].reshape(-1, 4)
        assert (blocks == blocks[:, :1]).all()
    usage = np.bincount(np.concatenate(epochs), minlength=len(labels))
    for label in range(365):
        of_class = usage[labels == label]
        assert of_class.max() - of_class.min() <= 1
    aligned = labels[epochs[0]][::4][: 42 * 365].reshape(42, 365)
    assert all(len(set(turn)) == 365 for turn in aligned.tolist())


def test_square_root_sampler_on_places_draws_classes_by_the_root_of_their_size(places):
    labels, (drawn,), _ = places_draws(places, "square_root")
    counts = np.bincount(labels)
    expected = np.sqrt(counts) / np.sqrt(counts).sum() * len(drawn)
    totals = np.bincount(labels[drawn], minlength=365)
    chi_square = ((totals - expected) ** 2 / expected).sum()
    assert abs(chi_square - 364) < 5 * np.sqrt(2 * 364)
    largest = np.flatnonzero(labels == counts.argmax())
    used = np.bincount(drawn, minlength=len(labels))[largest]
    assert used.max() <= 6, "images of a class are drawn alike"
