"""Augmentation and normalization against torchvision, image by image."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from longtail.augment.autoaugment import autoaugment_batch, cutout_batch, randaugment_batch
from longtail.augment.crops import crop_batch
from longtail.augment.policies import memory_policies, path_policies
from longtail.augment.simclr import draw_parameters, simclr_batch
from longtail.augment.transforms import (
    CONSTANTS,
    CROP_PCT,
    STYLES,
    InputConfig,
    Transform,
    augment_batch,
    normalizer,
    path_transform,
    resize_batch,
    resolve_policy,
    resolve_transform,
)
from longtail.core.errors import ConfigError
from longtail.data.manifest import DatasetInfo
from longtail.data.pixels import squared

CPU = torch.device("cpu")


def pixels(n: int, height: int, width: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Without black, so that padding can be told from content."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(1, 256, (n, height, width, channels), dtype=np.uint8))


def padded_crop(image: torch.Tensor, top: int, left: int, flip: bool, padding: int) -> torch.Tensor:
    """torchvision's RandomCrop with padding, then RandomHorizontalFlip, of one (H, W, channels) image."""
    height, width = image.shape[:2]
    cut = F.crop(F.pad(image.permute(2, 0, 1), [padding]), top, left, height, width)
    return F.horizontal_flip(cut) if flip else cut


def policy(name: str, strength: float = 1.0) -> Transform:
    return Transform(name, (0.0,) * 3, (1.0,) * 3, 8, strength)


def info(dataset="image_folder", storage="memory", channels=3, size=32) -> DatasetInfo:
    return DatasetInfo(dataset, storage, size, channels, 10)


# Batched crop and flip


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (7, 5, 3)])
@pytest.mark.parametrize("padding", [1, 4])
def test_batched_crop_equals_torchvision_for_every_shift_and_mirror(shape, padding):
    images = pixels(3, *shape)
    places = torch.arange(2 * padding + 1)
    top, left, flip = (grid.reshape(-1) for grid in torch.meshgrid(places, places, torch.tensor([0, 1]), indexing="ij"))
    flip = flip.bool()
    rows = torch.arange(len(top)) % 3
    cut = crop_batch(images, rows, top, left, flip, padding)
    assert cut.dtype == torch.uint8
    assert cut.shape == (len(top), shape[2], *shape[:2])
    for i in range(len(top)):
        expected = padded_crop(images[rows[i]], int(top[i]), int(left[i]), bool(flip[i]), padding)
        assert torch.equal(cut[i], expected), (top[i], left[i], flip[i])


def test_crop_leaves_the_images_as_they_are():
    images = pixels(2, 8, 8, 1)
    before = images.clone()
    crop_batch(images, torch.tensor([0, 1, 1]), torch.zeros(3).long(), torch.zeros(3).long(), torch.ones(3).bool(), 2)
    assert torch.equal(images, before)


def found_parameters(images: torch.Tensor, rows: torch.Tensor, cut: torch.Tensor, padding: int) -> list[tuple]:
    """Which (top, left, flip) each cut came from; exactly one fits."""
    found = []
    for row, window in zip(rows, cut, strict=True):
        fitting = [
            (top, left, flip)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for flip in (False, True)
            if torch.equal(padded_crop(images[row], top, left, flip, padding), window)
        ]
        assert len(fitting) == 1
        found += fitting
    return found


def test_augmentation_uses_every_shift_and_both_mirrors_independently():
    images, rows = pixels(5, 8, 8, 1), torch.arange(5).repeat(120)
    cut = augment_batch(images, rows, policy("crop_flip"), torch.Generator().manual_seed(0))
    found = found_parameters(images, rows, cut, padding=1)
    counts = {parameters: found.count(parameters) for parameters in set(found)}
    assert len(counts) == 3 * 3 * 2
    assert min(counts.values()) > 600 / 18 / 2, "about equally often"
    for start in range(0, 600, 5):
        assert len(set(found[start : start + 5])) > 1, "each image has its own"


@pytest.mark.parametrize(("side", "padding"), [(8, 1), (32, 4), (64, 8), (4, 1)])
def test_padding_is_an_eighth_of_the_side(side, padding):
    images = torch.full((1, side, side, 1), 255, dtype=torch.uint8)
    rows = torch.zeros(400, dtype=torch.long)
    cut = augment_batch(images, rows, policy("crop"), torch.Generator().manual_seed(0))
    black_rows = (cut == 0).all(dim=3).sum(dim=2).squeeze(1)
    assert black_rows.max() == padding


def test_crop_policy_has_no_mirror():
    images, rows = pixels(4, 8, 8, 1), torch.arange(4).repeat(50)
    cut = augment_batch(images, rows, policy("crop"), torch.Generator().manual_seed(0))
    found = found_parameters(images, rows, cut, padding=1)
    assert not any(flip for _, _, flip in found)
    assert len(set(found)) == 9


def test_policy_none_gives_the_images_themselves():
    images, rows = pixels(4, 6, 8, 3), torch.tensor([3, 0, 0])
    cut = augment_batch(images, rows, policy("none"), torch.Generator())
    assert torch.equal(cut, images[rows].permute(0, 3, 1, 2))


def test_same_generator_state_gives_the_same_pixels_and_the_global_one_is_not_used():
    images, rows = pixels(4, 8, 8, 3), torch.arange(4).repeat(5)
    before = torch.get_rng_state()
    first, second, other = (
        augment_batch(images, rows, policy("crop_flip"), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def replayed(images: torch.Tensor, rows: torch.Tensor, name: str, seed: int) -> torch.Tensor:
    """What the policies beyond crop and mirror are made of, in their order, from one generator."""
    draw = torch.Generator().manual_seed(seed)
    pixels = augment_batch(images, rows, policy("crop_flip"), draw)
    if name == "autoaugment":
        pixels = autoaugment_batch(pixels, draw)
    if name == "randaugment":
        pixels = randaugment_batch(pixels, draw, 2, 10)
    return cutout_batch(pixels, draw, images.shape[1] // 2, torch.tensor([51.0, 102.0, 153.0]))


@pytest.mark.parametrize("name", ["cutout", "autoaugment", "randaugment"])
def test_strong_policies_are_crop_and_mirror_their_operations_and_a_hole_of_the_mean_color(name):
    images, rows = pixels(6, 32, 32, 3), torch.arange(6).repeat(20)
    transform = Transform(name, (0.2, 0.4, 0.6), (1.0,) * 3, 32)
    found = augment_batch(images, rows, transform, torch.Generator().manual_seed(3))
    assert torch.equal(found, replayed(images, rows, name, 3))
    filled = (found == torch.tensor([51, 102, 153], dtype=torch.uint8).view(3, 1, 1)).all(dim=1).sum(dim=(1, 2))
    assert filled.min() >= 8 * 8 and 16 * 16 in filled.tolist(), "half of the side, cut at the border"
    assert len({view.numpy().tobytes() for view in found}) == len(rows), "each image has its own"


@pytest.mark.parametrize(("name", "flip"), [("moco", True), ("moco_noflip", False)])
def test_moco_on_small_images_is_half_of_simclrs_jitter_without_blur(name, flip):
    images, rows = pixels(4, 32, 32, 3), torch.arange(4).repeat(8)
    found = augment_batch(images, rows, policy(name, strength=1.5), torch.Generator().manual_seed(1))
    options = {"jitter_strength": 0.75, "flip": flip, "p_blur": 0.0}
    assert torch.equal(found, simclr_batch(images, rows, torch.Generator().manual_seed(1), **options))
    blurred = simclr_batch(images, rows, torch.Generator().manual_seed(1), **options | {"p_blur": 1.0})
    assert not torch.equal(found, blurred)


def test_sim_on_small_images_blurs_half_of_them_and_cuts_a_fifth_at_least():
    images, rows = pixels(4, 32, 32, 3), torch.arange(4).repeat(100)
    options = {"jitter_strength": 0.5, "flip": True, "smallest_crop": 0.2}
    found, sharp, blurred = (
        simclr_batch(images, rows, torch.Generator().manual_seed(1), p_blur=p_blur, **options)
        for p_blur in (0.5, 0.0, 1.0)
    )
    assert torch.equal(found, augment_batch(images, rows, policy("sim"), torch.Generator().manual_seed(1)))
    as_sharp, as_blurred = ((found - other).abs().flatten(1).amax(dim=1) < 1e-3 for other in (sharp, blurred))
    assert (as_sharp | as_blurred).all(), "and both, where the blur is slight"
    assert (as_sharp & ~as_blurred).sum() > 120 and (as_blurred & ~as_sharp).sum() > 120
    drawn = draw_parameters(2000, 32, 32, torch.Generator().manual_seed(0), **options)
    area = (drawn.height * drawn.width).float() / 32**2
    assert 0.17 < area.min() < 0.25 and area.max() > 0.9, "but for rounding to whole pixels"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", memory_policies())
def test_every_policy_fits_images_of_every_size_and_number_of_channels(name, channels):
    for side in (4, 8, 33):
        images = pixels(3, side, side, channels)
        transform = Transform(name, (0.5,) * channels, (1.0,) * channels, side)
        found = augment_batch(images, torch.tensor([2, 0]), transform, torch.Generator().manual_seed(0))
        assert found.shape == (2, channels, side, side)
        assert found.float().min() >= 0 and found.float().max() <= 255


def test_second_view_has_its_own_policy_where_there_is_one():
    images, rows = pixels(4, 8, 8, 3), torch.arange(4)
    transform = policy("none").with_policy("none", 2.0, "moco")
    assert (transform.policy_of_view(0), transform.policy_of_view(1), transform.jitter_strength) == (
        "none",
        "moco",
        2.0,
    )
    first, second = (augment_batch(images, rows, transform, torch.Generator().manual_seed(0), view) for view in (0, 1))
    assert torch.equal(first, images.permute(0, 3, 1, 2)) and second.dtype == torch.float32
    assert policy("crop").policy_of_view(1) == "crop"


# Normalization


@pytest.mark.parametrize("name", CONSTANTS)
def test_normalizer_equals_torchvision(name):
    mean, std = CONSTANTS[name]
    images = pixels(5, 9, 7, 3).permute(0, 3, 1, 2)
    images[0] = 0
    found = normalizer(Transform("none", mean, std, 9), CPU)(images)
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def test_normalizer_leaves_its_input_as_it_is():
    images = pixels(2, 4, 4, 1).permute(0, 3, 1, 2)
    before = images.clone()
    normalizer(Transform("none", (0.5,), (0.5,), 4), CPU)(images)
    assert torch.equal(images, before)


def test_constants_are_the_published_ones():
    assert CONSTANTS == {
        "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "inaturalist": ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)),
    }


# Settling auto


@pytest.mark.parametrize(
    ("dataset", "storage", "policy"),
    [
        ("digits", "memory", "crop"),
        ("cifar10", "memory", "crop_flip"),
        ("image_folder", "memory", "crop_flip"),
        ("image_folder", "paths", "resized_crop_jitter"),
        ("file_lists", "paths", "resized_crop_jitter"),
    ],
)
def test_auto_augmentation_fits_the_dataset(dataset, storage, policy):
    assert resolve_policy(info(dataset, storage), "auto", "train.augment") == policy


@pytest.mark.parametrize("storage", ["memory", "paths"])
@pytest.mark.parametrize("style", ["simclr", "moco"])
def test_auto_augmentation_of_contrastive_methods_is_their_own_and_mirrors_no_digit(style, storage):
    assert resolve_policy(info("image_folder", storage), "auto", "pretrain.augment", style) == style
    assert resolve_policy(info("digits"), "auto", "pretrain.augment", style) == f"{style}_noflip"


def test_every_style_names_policies_of_its_storage():
    for digits, memory, paths in STYLES.values():
        assert {digits, memory} <= set(memory_policies()) and paths in path_policies()


def test_normalize_none_leaves_values_in_0_to_1():
    transform = resolve_transform(info("digits", channels=1), "none", "none", None)
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    torch.testing.assert_close(normalizer(transform, CPU)(images), images / 255)


@pytest.mark.parametrize(
    ("dataset", "storage", "constants"),
    [("cifar10", "memory", "cifar"), ("cifar100", "memory", "cifar"), ("image_folder", "paths", "imagenet")],
)
def test_auto_normalization_takes_published_constants(dataset, storage, constants):
    transform = resolve_transform(info(dataset, storage), "crop", "auto", None)
    assert (transform.mean, transform.std) == CONSTANTS[constants]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dataset", ["digits", "image_folder"])
def test_other_sets_are_normalized_by_their_training_images(channels, dataset):
    train = pixels(50, 8, 8, channels).numpy()
    transform = resolve_transform(info(dataset, channels=channels), "crop", "auto", train)
    scaled = train.reshape(-1, channels) / 255
    np.testing.assert_allclose(transform.mean, scaled.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(transform.std, scaled.std(axis=0), atol=1e-6)
    normalized = normalizer(transform, CPU)(torch.from_numpy(train).permute(0, 3, 1, 2))
    torch.testing.assert_close(normalized.mean(dim=(0, 2, 3)), torch.zeros(channels), rtol=0, atol=1e-4)
    torch.testing.assert_close(normalized.std(dim=(0, 2, 3)), torch.ones(channels), rtol=0, atol=1e-3)


def test_statistics_of_one_color_do_not_divide_by_zero():
    transform = resolve_transform(info(), "none", "dataset", np.full((3, 4, 4, 3), 7, np.uint8))
    assert transform.mean == (round(7 / 255, 6),) * 3
    assert transform.std == (round(1 / 255, 6),) * 3


def test_statistics_are_exact_for_many_images():
    train = np.zeros((1000, 8, 8, 3), np.uint8)
    train[0] = 255
    transform = resolve_transform(info(), "none", "dataset", train)
    assert transform.mean == (0.001,) * 3
    assert transform.std == (round((0.001 * 0.999) ** 0.5, 6),) * 3


@pytest.mark.parametrize("normalize", ["cifar", "imagenet", "inaturalist"])
def test_named_constants_win_over_auto(normalize):
    assert resolve_transform(info("cifar10"), "crop", normalize, None).mean == CONSTANTS[normalize][0]


@pytest.mark.parametrize("storage", ["memory", "paths"])
def test_policy_of_the_other_storage_is_refused_with_the_allowed_ones(storage):
    allowed, foreign = (memory_policies(), "resized_crop") if storage == "memory" else (path_policies(), "crop_flip")
    with pytest.raises(ConfigError) as caught:
        resolve_policy(info(storage=storage), foreign, "ipdpp.augment")
    expected = f"ipdpp.augment must be one of {', '.join(allowed)} for storage: {storage}, got {foreign}"
    assert str(caught.value) == expected
    for policy in allowed:
        assert resolve_policy(info(storage=storage), policy, "train.augment") == policy


def test_constants_that_do_not_fit_are_refused():
    with pytest.raises(
        ConfigError, match="normalize must be auto, dataset or none for the grayscale images of digits, got cifar"
    ):
        resolve_transform(info("digits", channels=1), "crop", "cifar", pixels(2, 8, 8, 1).numpy())
    with pytest.raises(
        ConfigError, match="normalize must be one of none, cifar, imagenet, inaturalist for storage: paths, got dataset"
    ):
        resolve_transform(info(storage="paths"), "none", "dataset", None)


@pytest.mark.parametrize("second", [None, "moco"])
def test_transform_survives_json(second):
    transform = Transform("crop", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 32, 1.5, second)
    assert Transform.from_meta(json.loads(json.dumps(transform.to_meta()))) == transform


# Pretrained networks

BICUBIC = InputConfig(24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bicubic", 0.9)


@pytest.mark.parametrize(("dataset", "storage"), [("cifar10", "memory"), ("image_folder", "paths")])
def test_pretrained_network_brings_its_normalization_size_and_crop(dataset, storage):
    found = resolve_transform(info(dataset, storage), "none", "auto", None, source=BICUBIC, image_size=24)
    assert (found.mean, found.std, found.image_size) == (BICUBIC.mean, BICUBIC.std, 24)
    assert (found.interpolation, found.crop_pct) == ("bicubic", 0.9)
    assert Transform.from_meta(json.loads(json.dumps(found.to_meta()))) == found
    assert InputConfig.from_meta(json.loads(json.dumps(BICUBIC.to_meta()))) == BICUBIC


def test_explicit_normalization_and_crop_win_over_those_of_the_pretrained_network():
    found = resolve_transform(info(storage="paths"), "none", "imagenet", None, source=BICUBIC, crop="none")
    assert (found.mean, found.std) == CONSTANTS["imagenet"]
    assert found.crop_pct is None and found.interpolation == "bicubic"
    assert resolve_transform(info(storage="paths"), "none", "auto", None, crop="none").crop_pct is None


def test_stored_transform_of_an_untouched_network_is_the_text_that_it_was_before_there_were_others():
    stored = resolve_transform(info(storage="paths"), "none", "auto", None).to_meta()
    assert stored.keys() == {"policy", "mean", "std", "image_size", "jitter_strength", "second_policy"}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "size"), [(8, 28), (32, 128), (40, 24)])
def test_images_in_memory_are_resized_as_pillow_and_torchvision_do(interpolation, side, size):
    images = pixels(3, side, side, 3).permute(0, 3, 1, 2)
    transform = Transform("none", (0.0,) * 3, (1.0,) * 3, size, interpolation=interpolation)
    found = resize_batch(images, transform)
    assert found.shape == (3, 3, size, size) and found.dtype == torch.uint8
    torchvision = F.resize(images, [size, size], InterpolationMode(interpolation), antialias=True)
    assert torch.equal(found, torchvision)
    for image, resized in zip(images, found, strict=True):
        picture = F.to_pil_image(image).resize((size, size), getattr(Image.Resampling, interpolation.upper()))
        assert (F.pil_to_tensor(picture).int() - resized.int()).abs().max() <= 2
    as_float = resize_batch(images.float(), transform)
    assert as_float.dtype == torch.float32 and as_float.min() >= 0 and as_float.max() <= 255
    assert (as_float - found).abs().mean() <= 0.5, "rounded once instead of after each direction"


def test_images_of_the_networks_size_are_left_as_they_are():
    images = pixels(2, 8, 8, 3).permute(0, 3, 1, 2)
    assert resize_batch(images, Transform("none", (0.0,) * 3, (1.0,) * 3, 8, interpolation="bicubic")) is images


# Files


def smooth(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 256), (256, 400), (100, 80), (224, 224)])
def test_evaluation_of_files_resizes_the_shorter_side_to_256_and_cuts_the_center(size):
    transform = Transform("resized_crop", *CONSTANTS["imagenet"], 224)
    found = path_transform(transform, train=False)(smooth(*size))
    assert found.dtype == torch.uint8
    resized = F.resize(F.pil_to_tensor(smooth(*size)), [256], antialias=True)
    assert min(resized.shape[1:]) == 256
    assert torch.equal(found, F.center_crop(resized, [224, 224]))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("resize", "crop_pct"), [("crop", None), ("crop", CROP_PCT), ("pad", None)])
def test_files_become_squares_before_everything_else(resize, crop_pct, train):
    picture = smooth(300, 100)
    transform = Transform("none", *CONSTANTS["imagenet"], 96, crop_pct=crop_pct)
    found = path_transform(replace(transform, resize=resize), train)(picture)
    assert torch.equal(found, path_transform(transform, train)(squared(picture, resize)))
    if resize == "pad":
        assert (found[:, :30] == 255).all() and (found[:, -30:] == 255).all() and not (found[:, 48] == 255).all()
    elif crop_pct is not None:  # a center crop of the picture is that of its center square
        assert torch.equal(found, path_transform(transform, train)(picture))


def test_random_crops_stay_inside_the_center_square():
    picture = Image.new("RGB", (300, 100), (255, 0, 0))
    picture.paste((0, 0, 255), (100, 0, 200, 100))
    augment = path_transform(Transform("resized_crop", *CONSTANTS["imagenet"], 16, resize="crop"), True)
    assert all((augment(picture)[0] == 0).all() for _ in range(20))


@pytest.mark.parametrize(
    ("resize", "crop", "expected"),
    [("squash", "auto", CROP_PCT), ("crop", "auto", CROP_PCT), ("pad", "auto", None), ("crop", "none", None)],
)
def test_padded_files_are_not_cropped_again(resize, crop, expected):
    found = resolve_transform(replace(info(storage="paths"), resize=resize), "none", "auto", None, crop=crop)
    assert (found.resize, found.crop_pct) == (resize, expected)
    assert Transform.from_meta(found.to_meta()) == found
    assert ("resize" in found.to_meta()) == (resize != "squash")


def test_images_in_memory_are_squares_whatever_made_them_so():
    found = resolve_transform(replace(info(), resize="pad"), "none", "none", None)
    assert (found.resize, found.crop_pct) == ("squash", CROP_PCT)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("interpolation", "crop_pct"), [("bicubic", 0.95), ("bicubic", None), ("bilinear", 1.0)])
def test_files_are_resized_and_cropped_as_the_transform_says(interpolation, crop_pct, train):
    transform = Transform("none", *CONSTANTS["imagenet"], 96, interpolation=interpolation, crop_pct=crop_pct)
    found = path_transform(transform, train)(smooth(300, 100))
    size = [96, 96] if crop_pct is None else [round(96 / crop_pct)]
    whole = F.resize(F.pil_to_tensor(smooth(300, 100)), size, InterpolationMode(interpolation), antialias=True)
    assert torch.equal(found, F.center_crop(whole, [96, 96]))


@pytest.mark.parametrize("policy", ["resized_crop", "moco", "randaugment", "autoaugment", "sim", "simclr"])
def test_crops_of_files_take_the_interpolation_of_the_network(policy):
    transform = Transform(policy, *CONSTANTS["imagenet"], 32, interpolation="bicubic")
    crops = [step for step in path_transform(transform, True).transforms if isinstance(step, v2.RandomResizedCrop)]
    assert [step.interpolation for step in crops] == [InterpolationMode.BICUBIC]


def test_picture_of_exact_size_loses_only_its_border():
    transform = Transform("none", *CONSTANTS["imagenet"], 224)
    picture = smooth(256, 256)
    for train in (False, True):
        found = path_transform(transform, train)(picture)
        assert torch.equal(found, F.pil_to_tensor(picture)[:, 16:240, 16:240])


@pytest.mark.parametrize("policy", path_policies())
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("size", [(10, 90), (90, 10), (40, 40)])
def test_files_of_any_shape_become_squares(policy, train, size):
    found = path_transform(Transform(policy, *CONSTANTS["imagenet"], 32), train)(smooth(*size))
    assert found.shape == (3, 32, 32)
    assert found.dtype == torch.uint8


def test_training_on_files_crops_and_mirrors_and_only_jitter_changes_colors():
    gray = Image.new("RGB", (60, 60), (100, 150, 200))
    torch.manual_seed(0)
    plain = path_transform(Transform("resized_crop", *CONSTANTS["imagenet"], 16), True)
    jitter = path_transform(Transform("resized_crop_jitter", *CONSTANTS["imagenet"], 16), True)
    flat = torch.tensor([100, 150, 200], dtype=torch.uint8).view(3, 1, 1).expand(3, 16, 16)
    assert all(torch.equal(plain(gray), flat) for _ in range(10))
    assert len({tuple(jitter(gray)[:, 0, 0].tolist()) for _ in range(10)}) > 5
    slopes = [torch.diff(plain(smooth(60, 60))[0].float(), dim=1).mean() > 0 for _ in range(40)]
    assert 8 < sum(slopes) < 32, "about half are mirrored"


def test_simclr_on_files_is_the_recipe_of_the_released_code():
    """Step by step, with the parameters of torchvision's own transforms."""
    steps = path_transform(Transform("simclr", *CONSTANTS["imagenet"], 32, 2.0), True).transforms
    crop, mirror, jitter, gray, blur = steps[1:]
    assert (crop.scale, crop.ratio, crop.size) == ((0.08, 1.0), (3 / 4, 4 / 3), (32, 32))
    assert mirror.p == 0.5 and jitter.p == 0.8 and gray.p == 0.2
    (color,) = jitter.transforms
    assert tuple(color.brightness) == tuple(color.contrast) == tuple(color.saturation) == (0.0, 2.6)
    assert tuple(color.hue) == (-0.4, 0.4)
    assert tuple(blur.kernel_size) == (3, 3) and tuple(blur.sigma) == (0.1, 2.0)
    plain = path_transform(Transform("simclr_noflip", *CONSTANTS["imagenet"], 224, 0.5), True).transforms
    assert [type(step).__name__ for step in plain] == [
        "PILToTensor", "RandomResizedCrop", "RandomApply", "RandomGrayscale", "GaussianBlur"
    ]  # fmt: skip
    assert tuple(plain[-1].kernel_size) == (23, 23)
    assert tuple(plain[2].transforms[0].brightness) == (0.6, 1.4)


def test_simclr_on_files_changes_colors_and_blurs():
    torch.manual_seed(0)
    sharp = Image.fromarray((np.indices((40, 40)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert("RGB")
    augment = path_transform(Transform("simclr", *CONSTANTS["imagenet"], 32, 1.0), True)
    views = torch.stack([augment(sharp) for _ in range(20)]).float()
    assert views.std(dim=(2, 3)).max() < 127, "no view keeps the contrast of the checkerboard"
    colored = path_transform(Transform("simclr", *CONSTANTS["imagenet"], 32, 1.0), True)
    flat = Image.new("RGB", (40, 40), (100, 150, 200))
    found = [colored(flat)[:, 0, 0].tolist() for _ in range(60)]
    gray = sum(len(set(color)) == 1 for color in found)
    assert 3 <= gray <= 25 and len({tuple(color) for color in found}) > 30


def steps(policy: str) -> list:
    """The training pipeline of a file."""
    return path_transform(Transform(policy, *CONSTANTS["imagenet"], 224), True).transforms


def names(policy: str) -> list[str]:
    return [type(step).__name__ for step in steps(policy)]


def test_other_policies_on_files_are_the_recipes_of_their_sources():
    """Step by step, with the parameters of torchvision's own transforms."""
    start = ["PILToTensor", "RandomResizedCrop", "RandomHorizontalFlip"]
    assert names("sim") == [*start, "ColorJitter", "RandomGrayscale", "RandomApply"]
    assert names("moco") == [*start, "RandomApply", "RandomGrayscale", "RandomApply"]
    assert names("moco_noflip") == ["PILToTensor", "RandomResizedCrop", "RandomApply", "RandomGrayscale", "RandomApply"]
    assert names("autoaugment") == [*start, "AutoAugment"]
    assert names("randaugment") == [*start, "ColorJitter", "RandAugment"]
    moco = steps("moco")
    assert moco[1].scale == (0.2, 1.0) and moco[3].p == 0.8 and moco[5].p == 0.5
    (jitter,), (blur,) = moco[3].transforms, moco[5].transforms
    assert tuple(jitter.brightness) == tuple(jitter.saturation) == pytest.approx((0.6, 1.4))
    assert tuple(jitter.hue) == pytest.approx((-0.1, 0.1))
    assert tuple(blur.sigma) == (0.1, 2.0)
    sim = steps("sim")
    assert sim[1].scale == (0.08, 1.0) and tuple(sim[3].contrast) == (0.6, 1.4) and sim[3].hue is None
    assert sim[5].p == 0.5
    rand = steps("randaugment")[-1]
    assert (rand.num_ops, rand.magnitude, rand.num_magnitude_bins) == (2, 30, 31)
    auto = steps("autoaugment")[-1]
    assert auto.policy == v2.AutoAugmentPolicy.IMAGENET
