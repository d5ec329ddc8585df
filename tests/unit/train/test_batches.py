"""Batches from memory and from files: the same for the same seed, whatever loads them."""

import gc
import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from longtail.artifacts.hdf5 import write_hdf5
from longtail.augment.transforms import CONSTANTS, Transform, normalizer, path_transform, resolve_transform
from longtail.core.errors import ConfigError, DataError
from longtail.data.manifest import DatasetInfo, Manifest
from longtail.data.pixels import decode
from longtail.train.batches import ImageSet, MemoryImages, PathImages, open_part

CPU = torch.device("cpu")
N = 7
LABELS = np.array([0, 2, 1, 1, 0, 2, 2])
ORDER = np.array([3, 3, 0, 6, 5, 1, 2, 4, 0, 3])
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
IN_MEMORY = Transform("crop_flip", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 8)
FROM_PATHS = Transform("resized_crop_jitter", *CONSTANTS["imagenet"], 16)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A folder of JPEGs of several sizes, their relative paths and digests."""
    root = tmp_path_factory.mktemp("images")
    (root / "train").mkdir()
    paths = [f"train/{i}.jpg" for i in range(N)]
    for i, path in enumerate(paths):
        noise = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / path)
    return root, np.array(paths), np.array([hashlib.sha256((root / path).read_bytes()).hexdigest() for path in paths])


def memory(transform: Transform = IN_MEMORY) -> MemoryImages:
    return MemoryImages(PIXELS, LABELS, transform, CPU)


def from_paths(files, workers: int = 0, root: Path | None = None) -> PathImages:
    return PathImages(root or files[0], files[1], files[2], LABELS, FROM_PATHS, CPU, workers)


@pytest.fixture(params=["memory", "paths"])
def images(request, files) -> ImageSet:
    return memory() if request.param == "memory" else from_paths(files)


def views_of(images: ImageSet, seed: int = 0, views: int = 1, batch_size: int = 4, order=ORDER) -> list[torch.Tensor]:
    """All augmented images in order, one tensor a view."""
    batches = list(images.train_batches(order, batch_size, views, seed))
    return [torch.cat([batch.views[view] for batch in batches]) for view in range(views)]


# Training batches


def test_batches_follow_the_order_and_carry_labels_and_rows(images):
    batches = list(images.train_batches(ORDER, 4, 1, 0))
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch.rows for batch in batches]).tolist() == ORDER.tolist()
    assert torch.cat([batch.labels for batch in batches]).tolist() == LABELS[ORDER].tolist()
    for batch in batches:
        assert len(batch.views) == 1
        assert batch.views[0].dtype == torch.float32
        assert batch.views[0].shape[:2] == (len(batch.labels), 3)
        assert batch.labels.dtype == batch.rows.dtype == torch.int64
        assert batch.partner is None


@pytest.mark.parametrize("storage", ["memory", "paths"])
def test_second_view_has_the_policy_of_its_own(files, storage):
    """The first view is what it is without; of the second, under none, the pixels are those of evaluation."""
    if storage == "memory":
        one, two = memory(), memory(IN_MEMORY.with_policy("crop_flip", 1.0, "none"))
    else:
        one = from_paths(files)
        two = PathImages(*files, LABELS, FROM_PATHS.with_policy("resized_crop_jitter", 1.0, "none"), CPU, 0)
    first, second = views_of(two, views=2)
    whole = torch.cat([pixels for pixels, _ in two.eval_batches(4)])
    assert torch.equal(second, whole[torch.from_numpy(ORDER)])
    assert torch.equal(first, views_of(one, views=2)[0])


def test_same_seed_gives_the_same_pixels_and_another_seed_others(images):
    (first,), (again,), (other,) = (views_of(images, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    different = [not torch.equal(a, b) for a, b in zip(first, other, strict=True)]
    assert sum(different) > len(ORDER) / 2


def test_pixels_do_not_depend_on_the_state_of_the_global_generator(images):
    torch.manual_seed(1)
    (first,) = views_of(images)
    torch.manual_seed(2)
    (second,) = views_of(images)
    assert torch.equal(first, second)


def test_views_of_an_image_differ_and_so_do_repeats_of_a_row(images):
    one, two, three = views_of(images, views=3)
    for a, b in ((one, two), (two, three), (one, three)):
        assert sum(not torch.equal(x, y) for x, y in zip(a, b, strict=True)) > len(ORDER) / 2
    repeats = one[ORDER == 3]
    assert not all(torch.equal(repeats[0], other) for other in repeats[1:])


def test_first_view_does_not_depend_on_how_many_there_are(images):
    assert torch.equal(views_of(images, views=1)[0], views_of(images, views=3)[0])


def test_steps_of_one_epoch_draw_differently():
    same_row = np.zeros(64, np.int64)
    (cut,) = views_of(memory(), batch_size=16, order=same_row)
    first, *others = cut.split(16)
    assert not any(torch.equal(first, other) for other in others)


def test_training_without_augmentation_gives_the_images_themselves():
    plain = Transform("none", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 8)
    (found,) = views_of(memory(plain))
    expected = normalizer(plain, CPU)(torch.from_numpy(PIXELS[ORDER]).permute(0, 3, 1, 2))
    assert torch.equal(found, expected)


def test_images_in_memory_are_left_as_they_are():
    before = PIXELS.copy()
    views_of(memory(), views=2)
    np.testing.assert_array_equal(PIXELS, before)


# Evaluation batches


@pytest.mark.parametrize("batch_size", [1, 3, N, 100])
def test_evaluation_gives_every_image_once_in_order(images, batch_size):
    batches = list(images.eval_batches(batch_size))
    assert torch.cat([labels for _, labels in batches]).tolist() == LABELS.tolist()
    assert [len(pixels) for pixels, _ in batches] == [len(labels) for _, labels in batches]
    assert sum(len(labels) for _, labels in batches) == N


def test_evaluation_in_memory_is_the_normalized_image():
    found = torch.cat([pixels for pixels, _ in memory().eval_batches(3)])
    assert torch.equal(found, normalizer(IN_MEMORY, CPU)(torch.from_numpy(PIXELS).permute(0, 3, 1, 2)))


def test_evaluation_of_files_is_the_normalized_center(files):
    found = torch.cat([pixels for pixels, _ in from_paths(files).eval_batches(3)])
    look = path_transform(FROM_PATHS, train=False)
    expected = torch.stack([look(Image.open(files[0] / path).convert("RGB")) for path in files[1]])
    assert torch.equal(found, normalizer(FROM_PATHS, CPU)(expected))


def test_part_without_images_gives_no_batch(files):
    none = np.zeros(0, np.int64)
    assert list(MemoryImages(PIXELS[none], none, IN_MEMORY, CPU).eval_batches(4)) == []
    empty = PathImages(files[0], files[1][none], files[2][none], none, FROM_PATHS, CPU, 0)
    assert list(empty.eval_batches(4)) == []


# Workers


@pytest.mark.parametrize("workers", [1, 2])
def test_files_give_the_same_batches_with_any_number_of_workers(files, workers):
    for views in (1, 2):
        alone, several = (views_of(from_paths(files, count), seed=3, views=views) for count in (0, workers))
        assert all(torch.equal(a, b) for a, b in zip(alone, several, strict=True))
    for (a, la), (b, lb) in zip(
        from_paths(files, 0).eval_batches(2), from_paths(files, workers).eval_batches(2), strict=True
    ):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("change", r"image .*/train/5\.jpg has changed since it was prepared"),
        ("remove", r"image .*/train/5\.jpg cannot be read \(No such file or directory\); if it moved, set data_root"),
        ("corrupt", r"image .*/train/5\.jpg cannot be decoded: .*"),
    ],
)
def test_unusable_file_is_one_clear_sentence_also_from_a_worker(files, tmp_path, workers, damage, expected):
    (tmp_path / "train").mkdir()
    digests = files[2].copy()
    for path in files[1]:
        (tmp_path / path).write_bytes((files[0] / path).read_bytes())
    victim = tmp_path / "train" / "5.jpg"
    if damage == "change":
        victim.write_bytes(victim.read_bytes() + b"\0")
    elif damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-100])
        digests[5] = hashlib.sha256(victim.read_bytes()).hexdigest()
    images = PathImages(tmp_path, files[1], digests, LABELS, FROM_PATHS, CPU, workers)
    for work in (lambda: views_of(images), lambda: list(images.eval_batches(4))):
        with pytest.raises(DataError, match=rf"^{expected}$") as caught:
            work()
        assert "\n" not in str(caught.value)
        assert "Traceback" not in str(caught.value)


def test_error_in_a_worker_does_not_wait_for_the_other_workers_to_time_out(files, tmp_path):
    start = time.monotonic()
    with pytest.raises(DataError, match="cannot be read"):
        list(from_paths(files, 2, root=tmp_path).eval_batches(2))
    gc.collect()
    assert time.monotonic() - start < 4


# open_part


def manifest(storage: str, files=None) -> Manifest:
    paths, sha256 = (files[1], files[2]) if files else (np.array([""] * N), np.array([""] * N))
    info = DatasetInfo("x", storage, 8 if storage == "memory" else 16, 3, 3)
    return Manifest(info, ("a", "b", "c"), LABELS, np.array(["train"] * N), paths, sha256)


INDEX = np.array([6, 0, 3])


def test_part_in_memory_is_read_from_the_prepared_file_or_taken_as_given(tmp_path):
    write_hdf5(tmp_path / "images.h5", {"images": PIXELS, "labels": LABELS}, {}, schema="longtail/images/1")
    for pixels in (None, PIXELS):
        images = open_part(manifest("memory"), tmp_path, None, INDEX, IN_MEMORY, CPU, 0, pixels)
        assert isinstance(images, MemoryImages)
        ((found, labels),) = images.eval_batches(10)
        assert labels.tolist() == images.labels.tolist() == LABELS[INDEX].tolist()
        whole = torch.cat([batch for batch, _ in memory().eval_batches(10)])
        assert torch.equal(found, whole[INDEX])


def test_part_of_files_is_read_below_data_root(files, tmp_path):
    images = open_part(manifest("paths", files), tmp_path, str(files[0]), INDEX, FROM_PATHS, CPU, 0)
    assert isinstance(images, PathImages)
    ((found, labels),) = images.eval_batches(10)
    assert labels.tolist() == LABELS[INDEX].tolist()
    whole = torch.cat([batch for batch, _ in from_paths(files).eval_batches(10)])
    assert torch.equal(found, whole[INDEX])


@pytest.mark.parametrize("workers", [0, 1])
def test_files_are_decoded_by_the_rules_of_the_prepared_dataset(tmp_path, workers):
    deep = Image.fromarray(np.linspace(500, 9000, 24 * 16).astype(np.uint16).reshape(16, 24))
    deep.save(tmp_path / "deep.png")
    content = (tmp_path / "deep.png").read_bytes()
    info = DatasetInfo("x", "paths", 16, 3, 2, sixteen_bit="window", resize="pad")
    paths, digests = np.array(["deep.png"] * 2), np.array([hashlib.sha256(content).hexdigest()] * 2)
    prepared = Manifest(info, ("a", "b"), np.array([0, 1]), np.array(["train"] * 2), paths, digests)
    transform = resolve_transform(info, "none", "none", None)
    images = open_part(prepared, tmp_path, str(tmp_path), np.array([0, 1]), transform, CPU, workers)
    ((found, _),) = images.eval_batches(2)
    expected = path_transform(transform, train=False)(decode(content, "window"))
    assert all(torch.equal(image.mul(255).round(), expected.float()) for image in found)
    assert found[0, 0, 0].min() == 1 and found[0].min() < 0.1, "white above, black below"


def test_part_of_files_without_data_root_is_refused(files, tmp_path):
    with pytest.raises(ConfigError, match="data_root must be the folder of the images, got null"):
        open_part(manifest("paths", files), tmp_path, None, INDEX, FROM_PATHS, CPU, 0)
