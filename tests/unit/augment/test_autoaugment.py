"""Batched AutoAugment and RandAugment against torchvision, image by image; cutout against its definition."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from longtail.augment import autoaugment
from longtail.augment.autoaugment import (
    AUTOCONTRAST,
    BRIGHTNESS,
    CIFAR10_POLICY,
    COLOR,
    CONTRAST,
    EQUALIZE,
    IDENTITY,
    INVERT,
    OPERATIONS,
    POSTERIZE,
    ROTATE,
    SHARPNESS,
    SHEAR_X,
    SHEAR_Y,
    SOLARIZE,
    TRANSLATE_X,
    TRANSLATE_Y,
    apply_operation,
    autoaugment_batch,
    cutout_batch,
    draw_autoaugment,
    draw_randaugment,
    magnitude_table,
    randaugment_batch,
)
from longtail.core.errors import ConfigError
from tests.host_reads import no_host_reads

SHAPES = [(1, 8, 8), (3, 8, 8), (1, 32, 32), (3, 32, 32), (1, 33, 20), (3, 33, 20)]
TORCHVISION_NAMES = {
    IDENTITY: "Identity",
    SHEAR_X: "ShearX",
    SHEAR_Y: "ShearY",
    TRANSLATE_X: "TranslateX",
    TRANSLATE_Y: "TranslateY",
    ROTATE: "Rotate",
    BRIGHTNESS: "Brightness",
    COLOR: "Color",
    CONTRAST: "Contrast",
    SHARPNESS: "Sharpness",
    POSTERIZE: "Posterize",
    SOLARIZE: "Solarize",
    AUTOCONTRAST: "AutoContrast",
    EQUALIZE: "Equalize",
    INVERT: "Invert",
}
SIGNED = (SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS)
# Of all values: torchvision rounds those beyond the last full vector of an image without a fused multiply-add.
DIFFERENT_ROUNDING = 1e-4


def noise(n: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Of the whole range, of a narrow one, and of few levels, in turn."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, channels, height, width), dtype=np.uint8)
    images[1::3] = images[1::3] // 3 + 60
    images[2::3] = images[2::3] // 64 * 50 + 20
    return torch.from_numpy(images)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sheared(image: torch.Tensor, along_x: float, along_y: float) -> torch.Tensor:
    degrees = [math.degrees(math.atan(along)) for along in (along_x, along_y)]
    return F.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0.0, 0.0])


def shifted(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    return F.affine(image, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0])


FUNCTIONS = {
    IDENTITY: lambda image, magnitude: image,
    SHEAR_X: lambda image, magnitude: sheared(image, magnitude, 0),
    SHEAR_Y: lambda image, magnitude: sheared(image, 0, magnitude),
    TRANSLATE_X: lambda image, magnitude: shifted(image, magnitude, 0),
    TRANSLATE_Y: lambda image, magnitude: shifted(image, 0, magnitude),
    ROTATE: lambda image, magnitude: F.rotate(image, magnitude),
    BRIGHTNESS: lambda image, magnitude: F.adjust_brightness(image, 1 + magnitude),
    COLOR: lambda image, magnitude: F.adjust_saturation(image, 1 + magnitude),
    CONTRAST: lambda image, magnitude: F.adjust_contrast(image, 1 + magnitude),
    SHARPNESS: lambda image, magnitude: F.adjust_sharpness(image, 1 + magnitude),
    POSTERIZE: lambda image, magnitude: F.posterize(image, int(magnitude)),
    SOLARIZE: lambda image, magnitude: F.solarize(image, 255 * magnitude),
    AUTOCONTRAST: lambda image, magnitude: F.autocontrast(image),
    EQUALIZE: lambda image, magnitude: F.equalize(image),
    INVERT: lambda image, magnitude: F.invert(image),
}


def by_torchvision(images: torch.Tensor, operation: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """One step, or several (steps, B), image by image."""
    results = []
    for b, image in enumerate(images):
        for some, strength in zip(operation.view(-1, len(images)), magnitude.view(-1, len(images)), strict=True):
            image = FUNCTIONS[int(some[b])](image, float(strength[b]))
        results.append(image)
    return torch.stack(results)


def magnitudes(operation: int, height: int, width: int) -> torch.Tensor:
    """Of all bins of both methods, with both signs where there is one."""
    found = torch.cat([magnitude_table(bins, height, width)[operation] for bins in (10, 31)])
    return torch.cat([found, -found]) if operation in SIGNED else found


def both(operation: int, shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Our result, torchvision's and the magnitudes, for one operation with all of its magnitudes."""
    strength = magnitudes(operation, *shape[1:])
    images, operations = noise(len(strength), *shape), torch.full((len(strength),), operation)
    found = apply_operation(images, operations, strength)
    assert found.dtype == torch.uint8
    return found, by_torchvision(images, operations, strength), strength


# Each operation against torchvision


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "operation", [IDENTITY, TRANSLATE_X, TRANSLATE_Y, BRIGHTNESS, POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE, INVERT]
)
def test_operation_equals_torchvision(operation, shape):
    found, expected, _ = both(operation, shape)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operation", [COLOR, CONTRAST, SHARPNESS])
def test_mixtures_equal_torchvision_but_for_its_rounding_of_the_last_values(operation, shape):
    found, expected, _ = both(operation, shape)
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).double().mean() < DIFFERENT_ROUNDING


def to_nearest_tie(operation: int, magnitude: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """How far each pixel's origin (n, H, W) is from the middle between two pixels, in pixels, along x or y."""
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    amount = magnitude.double().view(-1, 1, 1)
    if operation == SHEAR_X:
        origins = [x + amount * (y + 0.5)]
    elif operation == SHEAR_Y:
        origins = [y + amount * (x + 0.5)]
    else:
        angle = torch.deg2rad(amount)
        x, y = x - (width - 1) / 2, y - (height - 1) / 2
        turned = angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y
        origins = [turned[0] + (width - 1) / 2, turned[1] + (height - 1) / 2]
    distances = [(origin - 0.5 - (origin - 0.5).round()).abs() for origin in origins]
    return torch.stack(distances).amin(dim=0)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 31, 31)])
@pytest.mark.parametrize("operation", [SHEAR_X, SHEAR_Y, ROTATE])
def test_shear_and_rotation_equal_torchvision_but_between_two_pixels(operation, shape):
    found, expected, magnitude = both(operation, shape)
    different = (found != expected).any(dim=1)
    assert different.double().mean() < 1e-3, "whole rows lie between two pixels at a shear of 0.2"
    assert not different[to_nearest_tie(operation, magnitude, *shape[1:]) > 1e-5].any()


def test_autoaugments_own_shears_and_rotations_equal_torchvision_at_32_pixels():
    images, table = noise(60, 3, 32, 32), magnitude_table(10, 32, 32)
    for operation, place in ((SHEAR_Y, 7), (SHEAR_Y, 8), (ROTATE, 2)):
        for sign in (1, -1):
            drawn = torch.full((60,), operation), table[operation, place].expand(60) * sign
            assert torch.equal(apply_operation(images, *drawn), by_torchvision(images, *drawn))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", [AUTOCONTRAST, EQUALIZE])
def test_images_of_few_levels_equal_torchvision(operation, channels):
    rng = np.random.default_rng(0)
    images = np.zeros((60, channels, 20, 20), dtype=np.uint8)
    for image, levels in zip(images[4:], np.repeat([1, 2, 3, 5], 14), strict=True):
        for channel in image:
            channel[:] = rng.choice(rng.integers(0, 256, levels), channel.shape)
    images[1], images[2], images[3, :, 3, 3] = 255, 77, 1
    images[40:, :, :8] = images[40:, :, :1, :1]  # less than 255 pixels below the highest level in some, more in others
    drawn = torch.full((60,), operation), torch.zeros(60)
    found = apply_operation(torch.from_numpy(images), *drawn)
    assert torch.equal(found, by_torchvision(torch.from_numpy(images), *drawn))
    assert torch.equal(found[:3], torch.from_numpy(images[:3])), "a constant image stays as it is"
    changed = (found != torch.from_numpy(images)).flatten(1).any(dim=1)
    assert 10 < changed.sum() < 55


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (3, 2, 5), (1, 3, 3)])
def test_tiny_images_equal_torchvision(shape):
    images = noise(OPERATIONS * 4, *shape)
    operation = torch.arange(OPERATIONS).repeat(4)
    magnitude = magnitude_table(31, *shape[1:])[operation, 7]
    found, expected = apply_operation(images, operation, magnitude), by_torchvision(images, operation, magnitude)
    assert (found.int() - expected.int()).abs().max() <= 1
    exact = (operation != CONTRAST) & (operation != COLOR)
    assert torch.equal(found[exact], expected[exact])


def test_worked_example():
    image = torch.tensor([[10, 100, 200], [0, 50, 255], [1, 2, 3]], dtype=torch.uint8).view(1, 1, 3, 3)
    operation = torch.tensor([TRANSLATE_X, TRANSLATE_Y, ROTATE, INVERT, POSTERIZE, SOLARIZE, BRIGHTNESS, SHARPNESS])
    magnitude = torch.tensor([1.9, -1.0, 90.0, 0.0, 4.0, 200 / 255, 0.5, -1.0])
    found = apply_operation(image.expand(8, -1, -1, -1), operation, magnitude)[:, 0].tolist()
    assert found == [
        [[0, 10, 100], [0, 0, 50], [0, 1, 2]],
        [[0, 50, 255], [1, 2, 3], [0, 0, 0]],
        [[200, 255, 3], [100, 50, 2], [10, 0, 1]],
        [[245, 155, 55], [255, 205, 0], [254, 253, 252]],
        [[0, 96, 192], [0, 48, 240], [0, 0, 0]],
        [[10, 100, 55], [0, 50, 0], [1, 2, 3]],
        [[15, 150, 255], [0, 75, 255], [1, 3, 4]],
        [[10, 100, 200], [0, 63, 255], [1, 2, 3]],  # (571 + 5 * 50) / 13 in the middle
    ]


def test_operations_of_a_mixed_batch_do_not_depend_on_each_other():
    images, operation = noise(90, 3, 32, 32), torch.arange(90) % OPERATIONS
    magnitude = magnitude_table(31, 32, 32)[operation, torch.arange(90) % 31]
    together = apply_operation(images, operation, magnitude)
    for b in range(90):
        one = slice(b, b + 1)
        assert torch.equal(apply_operation(images[one], operation[one], magnitude[one]), together[one])


def test_one_channel_has_no_color():
    images = noise(62, 1, 9, 7)
    assert torch.equal(apply_operation(images, torch.full((62,), COLOR), torch.linspace(-0.9, 0.9, 62)), images)


# Published tables


def test_policy_is_torchvisions():
    published = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies
    ours = [[(TORCHVISION_NAMES[name], p, place) for name, p, place in pair] for pair in CIFAR10_POLICY]
    assert ours == [[(name, p, place or 0) for name, p, place in pair] for pair in published]


@pytest.mark.parametrize(("transform", "bins"), [(v2.AutoAugment(), 10), (v2.RandAugment(), 31)])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (33, 20), (331, 662)])
def test_magnitudes_and_signs_are_torchvisions(transform, bins, height, width):
    table, space = magnitude_table(bins, height, width), transform._AUGMENTATION_SPACE
    assert len(space) == 14, "RandAugment has Identity where AutoAugment has Invert"
    for operation, name in TORCHVISION_NAMES.items():
        values, signed = space.get(name, (lambda *_: None, False))
        expected = values(bins, height, width)
        assert torch.equal(table[operation], torch.zeros(bins) if expected is None else expected.float())
        assert signed == (operation in SIGNED)


# Whole chains


def assert_equals_torchvision(found: torch.Tensor, images: torch.Tensor, drawn: tuple[torch.Tensor, torch.Tensor]):
    expected = by_torchvision(images, *drawn)
    assert found.dtype == torch.uint8 and found.shape == images.shape
    assert (found != expected).double().mean() < DIFFERENT_ROUNDING


@pytest.mark.parametrize("shape", SHAPES)
def test_autoaugment_equals_torchvision_with_the_same_parameters(shape):
    images = noise(500, *shape)
    drawn = draw_autoaugment(500, *shape[1:], seeded())
    found = autoaugment_batch(images, seeded())
    assert_equals_torchvision(found, images, drawn)
    changed = (found != images).flatten(1).any(dim=1)
    assert 200 < changed.sum() < 480, "both coins can leave an image as it is"


@pytest.mark.parametrize(("num_ops", "magnitude"), [(1, 30), (2, 9), (3, 15)])
@pytest.mark.parametrize("shape", SHAPES[-3:])
def test_randaugment_equals_torchvision_with_the_same_parameters(shape, num_ops, magnitude):
    images = noise(200, *shape)
    drawn = draw_randaugment(200, *shape[1:], seeded(), num_ops, magnitude)
    assert drawn[0].shape == drawn[1].shape == (num_ops, 200)
    assert_equals_torchvision(randaugment_batch(images, seeded(), num_ops, magnitude), images, drawn)


def test_randaugment_takes_two_operations_of_magnitude_9_unless_told_otherwise():
    images = noise(20, 3, 8, 8)
    assert torch.equal(randaugment_batch(images, seeded()), randaugment_batch(images, seeded(), 2, 9))


def same_distribution(ours: Counter, reference: Counter) -> float:
    """p of the chi-square test that two samples are of one distribution; rare outcomes pooled."""
    outcomes = set(ours) | set(reference)
    counts = np.array([[ours[each], reference[each]] for each in outcomes]).T
    rare = counts.sum(axis=0) < 20
    pooled = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    return float(stats.chi2_contingency(pooled[:, pooled.sum(axis=0) > 0]).pvalue)


@pytest.mark.parametrize(
    ("batched", "single"),
    [
        (autoaugment_batch, v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)),
        (lambda images, generator: randaugment_batch(images, generator, 1, 9), v2.RandAugment(1, 9)),
    ],
    ids=["autoaugment", "randaugment"],
)
def test_results_are_distributed_as_torchvisions(batched, single):
    image = noise(1, 3, 8, 8)[0]
    torch.manual_seed(0)
    reference = Counter(single(image).numpy().tobytes() for _ in range(2500))
    found = batched(image.expand(10_000, -1, -1, -1), seeded())
    ours = Counter(result.tobytes() for result in found.numpy())
    assert len(reference) > 20
    assert same_distribution(ours, reference) > 1e-3


# Random parameters


def outcomes_of_policy() -> dict[tuple[tuple[int, float], ...], float]:
    """Probability of each pair of (operation, signed magnitude), by the published policy at 32 x 32 pixels."""
    table, expected = magnitude_table(10, 32, 32), Counter()
    for pair in CIFAR10_POLICY:
        steps = []
        for operation, probability, place in pair:
            magnitude = float(table[operation, place])
            signs = (1, -1) if operation in SIGNED else (1,)
            step = [((operation, magnitude * sign), probability / len(signs)) for sign in signs]
            steps.append([*step, ((IDENTITY, 0.0), 1 - probability)])
        for (first, p), (second, q) in product(*steps):
            expected[first, second] += p * q / len(CIFAR10_POLICY)
    return {outcome: p for outcome, p in expected.items() if p > 0}


def test_sub_policies_coins_and_signs_have_their_joint_distribution():
    count = 100_000
    operation, magnitude = draw_autoaugment(count, 32, 32, seeded())
    assert operation.dtype == torch.int64 and magnitude.dtype == torch.float32
    magnitude = magnitude.masked_fill(operation == IDENTITY, 0)
    columns = [operation[0].tolist(), magnitude[0].tolist(), operation[1].tolist(), magnitude[1].tolist()]
    drawn = Counter(((first, m), (second, n)) for first, m, second, n in zip(*columns, strict=True))
    expected = outcomes_of_policy()
    assert set(drawn) <= set(expected)
    counts = np.array([drawn[outcome] for outcome in expected])
    probabilities = np.array(list(expected.values()))
    assert probabilities.sum() == pytest.approx(1) and probabilities.min() * count > 5
    assert stats.chisquare(counts, probabilities * count).pvalue > 1e-3


def test_randaugment_draws_all_14_operations_and_both_signs_equally_often_and_independently():
    operation, magnitude = draw_randaugment(50_000, 32, 32, seeded(), 2, 9)
    assert operation.min() == IDENTITY and operation.max() == EQUALIZE
    pairs = torch.bincount(operation[0] * 14 + operation[1], minlength=14 * 14)
    assert stats.chisquare(pairs.numpy()).pvalue > 1e-3
    assert torch.equal(magnitude.abs(), magnitude_table(31, 32, 32)[operation, 9])
    signed = torch.isin(operation, torch.tensor(SIGNED))
    assert (magnitude[~signed] >= 0).all()
    counts = [int(((operation == some) & (magnitude < 0)).sum()) for some in SIGNED]
    for some, negative in zip(SIGNED, counts, strict=True):
        assert stats.binomtest(negative, int((operation == some).sum()), 0.5).pvalue > 1e-3
    together = signed.all(dim=0)
    agreeing = int(((magnitude[0] < 0) == (magnitude[1] < 0))[together].sum())
    assert stats.binomtest(agreeing, int(together.sum()), 0.5).pvalue > 1e-3


@pytest.mark.parametrize("draw", [draw_autoaugment, lambda *given: draw_randaugment(*given, 2, 9)])
def test_parameters_are_independent_from_image_to_image(draw):
    operation, magnitude = draw(20_000, 32, 32, seeded())
    here = np.concatenate([operation.double().numpy(), magnitude.double().numpy()])
    found = np.corrcoef(here, np.roll(here, 1, axis=1))[:4, 4:]
    assert np.abs(found).max() < 5 / np.sqrt(20_000), "five standard errors of a correlation of 0"


BATCHES = {
    "autoaugment": autoaugment_batch,
    "randaugment": randaugment_batch,
    "cutout": lambda images, generator: cutout_batch(images, generator, 16, torch.full(images.shape[1:2], 128.0)),
}


@pytest.mark.parametrize("name", BATCHES)
def test_same_generator_state_gives_the_same_bytes_and_the_global_one_is_not_used(name):
    images = noise(100, 3, 32, 32)
    before, untouched = torch.get_rng_state(), images.clone()
    first, second, other = (BATCHES[name](images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(images, untouched)
    generator = seeded()
    assert not torch.equal(BATCHES[name](images, generator), BATCHES[name](images, generator))


@pytest.mark.parametrize("name", BATCHES)
def test_an_image_depends_on_no_other_image(name):
    images, others = noise(40, 3, 32, 32), noise(40, 3, 32, 32, seed=1)
    others[7] = images[7]
    found, beside = (BATCHES[name](each, seeded()) for each in (images, others))
    assert torch.equal(found[7], beside[7])
    assert (found != beside).flatten(1).any(dim=1).sum() == 39


# Execution


@pytest.mark.parametrize("images_in_a_part", [1, 7, 30])
@pytest.mark.parametrize("name", ["autoaugment", "randaugment"])
def test_pixels_do_not_depend_on_how_a_batch_is_split(name, images_in_a_part, monkeypatch):
    images = noise(60, 3, 33, 20)
    monkeypatch.setattr(autoaugment, "CPU_PIXELS", 60 * 33 * 20)
    whole = BATCHES[name](images, seeded())
    monkeypatch.setattr(autoaugment, "CPU_PIXELS", images_in_a_part * 33 * 20)
    assert (BATCHES[name](images, seeded()) != whole).double().mean() < DIFFERENT_ROUNDING


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_one_image_and_of_none(name, count):
    found = BATCHES[name](noise(count, 3, 32, 32), seeded())
    assert found.shape == (count, 3, 32, 32) and found.dtype == torch.uint8


@pytest.mark.parametrize("name", BATCHES)
def test_images_in_channels_last_order_give_the_same_pixels(name):
    images = noise(60, 3, 33, 20)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(BATCHES[name](last, seeded()), BATCHES[name](images, seeded()))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 20)])
@pytest.mark.parametrize("name", ["autoaugment", "randaugment"])
def test_nothing_is_read_on_the_host(name, shape):
    images = noise(6, *shape)
    BATCHES[name](images, seeded())  # the first batch of a size brings the tables to the device
    with no_host_reads():
        BATCHES[name](images, seeded())
        for reading in (lambda: images.sum().item(), lambda: images[images > 3], lambda: torch.tensor([1.0])):
            with pytest.raises(AssertionError):
                reading()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_cutout_reads_nothing_on_the_host(dtype):
    images, fill = noise(6, 3, 33, 20).to(dtype), torch.full((3,), 120.0)
    with no_host_reads():
        cutout_batch(images, seeded(), 16, fill)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["autoaugment", "randaugment"])
def test_gpu_does_not_wait_and_agrees_with_the_cpu(name):
    device, draw = torch.device("cuda"), draw_autoaugment if name == "autoaugment" else draw_randaugment
    images = noise(500, 3, 32, 32)
    on_gpu, generator = images.to(device), torch.Generator(device).manual_seed(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = BATCHES[name](on_gpu, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    more = () if name == "autoaugment" else (2, 9)
    drawn = draw(500, 32, 32, generator.manual_seed(0), *more)
    expected = by_torchvision(images, *(values.cpu() for values in drawn))
    assert (found.cpu() != expected).double().mean() < 0.01, "mixtures are rounded in another order"


# Parameters of the user


@pytest.mark.parametrize("magnitude", [-1, 31])
def test_magnitude_out_of_range_is_refused(magnitude):
    with pytest.raises(ConfigError, match=rf"magnitude must be from 0 to 30, got {magnitude}"):
        randaugment_batch(noise(1, 3, 8, 8), seeded(), 2, magnitude)


def test_number_of_operations_may_be_zero_and_not_less():
    images = noise(5, 3, 8, 8)
    assert torch.equal(randaugment_batch(images, seeded(), 0), images)
    with pytest.raises(ConfigError, match="num_ops must be at least 0, got -1"):
        randaugment_batch(images, seeded(), -1)


def test_negative_length_is_refused():
    with pytest.raises(ConfigError, match="length must be at least 0, got -2"):
        cutout_batch(noise(1, 3, 8, 8), seeded(), -2, torch.zeros(3))


# Cutout


def published_hole(y: int, x: int, length: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    top, bottom = np.clip([y - length // 2, y + length // 2], 0, height)
    left, right = np.clip([x - length // 2, x + length // 2], 0, width)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 7, 8, 20])
def test_holes_are_the_published_ones_around_every_pixel_equally_often(length):
    height, width, count = 7, 5, 7000
    images = torch.zeros(count, 1, height, width, dtype=torch.uint8)
    holes = cutout_batch(images, seeded(), length, torch.tensor([1.0]))[:, 0].bool().numpy()
    found = Counter(hole.tobytes() for hole in holes)
    expected = Counter(
        published_hole(y, x, length, height, width).tobytes() for y in range(height) for x in range(width)
    )
    assert set(found) == set(expected)
    if len(expected) > 1:
        shares = np.array(list(expected.values())) / (height * width)
        assert stats.chisquare([found[hole] for hole in expected], shares * count).pvalue > 1e-3


def test_mean_area_of_holes_is_the_expected_one():
    images = torch.zeros(10_000, 1, 32, 32)
    areas = cutout_batch(images, seeded(), 16, torch.ones(1)).sum(dim=(1, 2, 3))
    # 32 centers along a side: 16 in the middle have all 16 pixels, 8 and 8 at the ends lose 8..1 and 0..7 of them.
    side = (16 * 16 + sum(range(8, 16)) + sum(range(9, 17))) / 32
    assert float(areas.mean()) == pytest.approx(side**2, abs=4 * float(areas.std()) / 100)
    assert areas.max() == 256


def test_holes_have_the_mean_color_and_leave_the_rest():
    levels = torch.tensor([124.6, 0.4, 254.5])
    images = noise(50, 3, 20, 30)
    for given, expected in ((images, levels.round()), (images.float() / 7, levels)):
        found = cutout_batch(given, seeded(), 8, levels)
        assert found.dtype == given.dtype
        inside = cutout_batch(torch.zeros(50, 3, 20, 30), seeded(), 8, torch.ones(3)).bool()
        assert torch.equal(found[~inside], given[~inside])
        filled = expected.to(given.dtype).view(3, 1, 1).expand(50, 3, 20, 30)
        assert torch.equal(found[inside], filled[inside])
