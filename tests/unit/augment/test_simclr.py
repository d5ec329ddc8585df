"""Batched SimCLR augmentation against torchvision, image by image, and the distribution of its random parameters."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from longtail.augment import simclr
from longtail.augment.simclr import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    Parameters,
    adjust_hue,
    blur_weights,
    color_jitter,
    draw_parameters,
    gaussian_blur,
    grayscale,
    resized_crop,
    simclr_batch,
)
from longtail.core.errors import ConfigError
from tests.host_reads import no_host_reads

SHAPES = [(8, 8, 1), (8, 8, 3), (32, 32, 1), (32, 32, 3), (33, 20, 1), (33, 20, 3), (20, 33, 3), (64, 64, 3)]
TOLERANCE = 255e-5  # 1e-5 of the range: float32 rounding of a pixel's place, times a full step between neighbors
CHAIN_TOLERANCE = 4 * TOLERANCE  # factors up to 2.6 enlarge what the crop rounded


def pixels(n: int, height: int, width: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Noise: every neighbor differs, so that a wrong place or weight shows."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (n, height, width, channels), dtype=np.uint8))


def floats(n: int, height: int, width: int, channels: int, seed: int = 0) -> torch.Tensor:
    return pixels(n, height, width, channels, seed).permute(0, 3, 1, 2).to(torch.float32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(count: int, height: int = 32, width: int = 32, strength: float = 2.0, seed: int = 0) -> Parameters:
    return draw_parameters(count, height, width, seeded(seed), jitter_strength=strength, flip=True)


def without_change(count: int) -> Parameters:
    """Jitter switched on for every image, with factors that change nothing."""
    ones = torch.ones(count)
    return replace(
        draw(count), jitter=ones.bool(), brightness=ones, contrast=ones, saturation=ones, hue=torch.zeros(count)
    )


def side_of_kernel(height: int, width: int) -> int:
    return 2 * int(0.1 * min(height, width) / 2) + 1


def cropped(image: torch.Tensor, parameters: Parameters, b: int) -> torch.Tensor:
    """torchvision's crop and mirror of one (channels, H, W) image in [0, 1]."""
    window = [int(values[b]) for values in (parameters.top, parameters.left, parameters.height, parameters.width)]
    cut = F.resized_crop(image, *window, list(image.shape[1:]), antialias=True)
    return F.horizontal_flip(cut) if parameters.mirror[b] else cut


def jittered(image: torch.Tensor, parameters: Parameters, b: int) -> torch.Tensor:
    """torchvision's color operations on one (channels, H, W) image in [0, 1], in the order of image ``b``."""
    if parameters.jitter[b]:
        for operation in parameters.order[b].tolist():
            if operation == BRIGHTNESS:
                image = F.adjust_brightness(image, float(parameters.brightness[b]))
            elif operation == CONTRAST:
                image = F.adjust_contrast(image, float(parameters.contrast[b]))
            elif operation == SATURATION:
                image = F.adjust_saturation(image, float(parameters.saturation[b]))
            else:
                image = F.adjust_hue(image, float(parameters.hue[b]))
    return image


def torchvision_view(image: torch.Tensor, parameters: Parameters, b: int) -> torch.Tensor:
    """The whole chain on one (channels, H, W) image in [0, 1]."""
    channels, height, width = image.shape
    image = jittered(cropped(image, parameters, b), parameters, b)
    if parameters.grayscale[b]:
        image = F.rgb_to_grayscale(image, num_output_channels=channels)
    return F.gaussian_blur(image, [side_of_kernel(height, width)] * 2, [float(parameters.sigma[b])] * 2)


def assert_each_close(found: torch.Tensor, expected: list[torch.Tensor], tolerance: float = TOLERANCE) -> None:
    """``expected`` is in [0, 1]."""
    torch.testing.assert_close(found, torch.stack(expected) * 255, rtol=0, atol=tolerance)


# Each operation and the whole chain against torchvision


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_and_mirror_equal_torchvision(shape):
    images, parameters = pixels(5, *shape), draw(60, *shape[:2])
    rows = torch.arange(60) % 5
    found = resized_crop(images, rows, parameters)
    assert found.shape == (60, shape[2], *shape[:2])
    assert_each_close(found, [cropped(images[rows[b]].permute(2, 0, 1) / 255, parameters, b) for b in range(60)])


def test_crop_of_a_single_row_column_or_pixel_and_of_the_whole_image():
    images, rows = pixels(1, 9, 7, 3), torch.zeros(5, dtype=torch.long)
    top, left, height, width = torch.tensor([[8, 0, 1, 7], [0, 6, 9, 1], [4, 3, 1, 1], [0, 0, 9, 7], [1, 0, 8, 7]]).T
    mirror = torch.tensor([False, False, False, False, True])
    parameters = replace(draw(5), top=top, left=left, height=height, width=width, mirror=mirror)
    found = resized_crop(images, rows, parameters)
    assert_each_close(found, [cropped(images[0].permute(2, 0, 1) / 255, parameters, b) for b in range(5)])
    torch.testing.assert_close(found[3], images[0].permute(2, 0, 1).float(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("operation", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (33, 20, 3)])
def test_each_color_operation_equals_torchvision(operation, shape):
    images, drawn = floats(40, *shape), draw(40)
    parameters = replace(without_change(40), **{operation: getattr(drawn, operation)})
    adjust = getattr(F, f"adjust_{operation}")
    expected = [adjust(images[b] / 255, float(getattr(drawn, operation)[b])) for b in range(40)]
    assert_each_close(color_jitter(images, parameters), expected)


@pytest.mark.parametrize("strength", [0.5, 2.0, 2.5])
@pytest.mark.parametrize("channels", [1, 3])
def test_color_operations_in_all_24_orders_equal_torchvision(strength, channels):
    images = floats(96, 9, 7, channels)
    orders = torch.tensor(list(permutations([BRIGHTNESS, CONTRAST, SATURATION, HUE]))).repeat(4, 1)
    parameters = replace(draw(96, strength=strength), order=orders)
    assert 50 < parameters.jitter.sum() < 96, "with images that have none in between"
    assert_each_close(color_jitter(images, parameters), [jittered(images[b] / 255, parameters, b) for b in range(96)])


def test_operations_are_numbered_as_torchvision_numbers_them():
    jitter = v2.ColorJitter(0.5, 0.5, 0.5, 0.2)
    image = floats(1, 8, 8, 3)[0] / 255
    torch.manual_seed(0)
    drawn = jitter.make_params([image])
    values = {name: torch.tensor([drawn[f"{name}_factor"]]) for name in ("brightness", "contrast", "saturation", "hue")}
    parameters = replace(without_change(1), order=drawn["fn_idx"][None], **values)
    assert_each_close(color_jitter(image[None] * 255, parameters), [jitter.transform(image, drawn)])


def test_hue_of_pure_mixed_and_gray_colors_equals_torchvision():
    levels = torch.tensor([0.0, 64.0, 128.0, 255.0])
    colors = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 8, 8)
    shift = torch.linspace(-0.5, 0.5, 61)
    found = adjust_hue(colors.expand(61, 3, 8, 8), shift)
    assert_each_close(found, [F.adjust_hue(colors[0] / 255, float(turn)) for turn in shift])


@pytest.mark.parametrize("shape", SHAPES)
def test_grayscale_equals_torchvision_where_it_is_chosen(shape):
    images, chosen = floats(6, *shape), torch.tensor([1, 0, 1, 1, 0, 0]).bool()
    found = grayscale(images, chosen)
    gray = [F.rgb_to_grayscale(image, num_output_channels=shape[2]) / 255 for image in images]
    assert_each_close(found[chosen], [gray[b] for b in (0, 2, 3)])
    assert torch.equal(found[~chosen], images[~chosen])


@pytest.mark.parametrize("shape", [*SHAPES, (224, 224, 1), (40, 100, 3)])
def test_blur_equals_torchvision(shape):
    images = floats(6, *shape)
    sigma = torch.tensor([0.1, 0.2, 0.5, 1.0, 1.7, 2.0])
    kernel = [side_of_kernel(*shape[:2])] * 2
    expected = [F.gaussian_blur(images[b] / 255, kernel, [float(sigma[b])] * 2) for b in range(6)]
    assert_each_close(gaussian_blur(images, sigma), expected)


@pytest.mark.parametrize("strength", [1.0, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_whole_chain_equals_torchvision(shape, strength):
    images, rows = pixels(7, *shape), torch.arange(48) % 7
    parameters = draw(48, *shape[:2], strength)
    found = simclr_batch(images, rows, seeded(), jitter_strength=strength, flip=True)
    assert found.shape == (48, shape[2], *shape[:2])
    expected = [torchvision_view(images[rows[b]].permute(2, 0, 1) / 255, parameters, b) for b in range(48)]
    assert_each_close(found, expected, CHAIN_TOLERANCE)


# Blur weights


def test_blur_weights_at_sigma_1_are_the_published_ones():
    expected = torch.tensor([[0.27407, 0.45186, 0.27407]])
    torch.testing.assert_close(blur_weights(torch.ones(1), 1), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize(("side", "kernel"), [(8, 1), (19, 1), (20, 3), (32, 3), (64, 7), (224, 23)])
def test_kernel_is_about_a_tenth_of_the_side(side, kernel):
    point = torch.zeros(1, 1, side, side)
    point[0, 0, side // 2, side // 2] = 255
    blurred = gaussian_blur(point, torch.tensor([2.0]))
    for line in ((blurred > 0).any(dim=2), (blurred > 0).any(dim=3)):
        assert line.sum() == kernel
    torch.testing.assert_close(blurred.sum(), torch.tensor(255.0))


# Images that an operation leaves exactly as they are


@pytest.mark.parametrize("channels", [1, 3])
def test_no_jitter_and_factors_of_one_change_no_bit(channels):
    images = floats(24, 9, 7, channels)
    orders = torch.tensor(list(permutations(range(4))))
    off = replace(draw(24), order=orders, jitter=torch.zeros(24, dtype=torch.bool))
    for parameters in (off, replace(without_change(24), order=orders)):
        assert torch.equal(color_jitter(images, parameters), images)


def test_one_channel_has_no_saturation_hue_or_grayscale():
    images, drawn = floats(40, 9, 7, 1), draw(40)
    parameters = replace(without_change(40), saturation=drawn.saturation, hue=drawn.hue)
    assert torch.equal(color_jitter(images, parameters), images)
    assert torch.equal(grayscale(images, torch.ones(40, dtype=torch.bool)), images)


def test_images_of_8_pixels_are_not_blurred():
    images = floats(4, 8, 8, 3)
    assert torch.equal(gaussian_blur(images, torch.full((4,), 2.0)), images)


def test_strength_zero_is_crop_mirror_grayscale_and_blur():
    images, rows = pixels(10, 8, 8, 3), torch.arange(10).repeat(8)
    parameters = draw(80, 8, 8, strength=0)
    assert not parameters.jitter.any()
    found = simclr_batch(images, rows, seeded(), jitter_strength=0, flip=True)
    plain = gaussian_blur(grayscale(resized_crop(images, rows, parameters), parameters.grayscale), parameters.sigma)
    assert torch.equal(found, plain.clamp(0, 255))


def test_no_image_is_mirrored_without_flip():
    drawn = draw_parameters(1000, 32, 32, seeded(), jitter_strength=1, flip=False)
    assert not drawn.mirror.any()


# Values


@pytest.mark.parametrize("strength", [0, 1, 2.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_views_are_finite_float32_from_0_to_255(shape, strength):
    images = pixels(6, *shape)
    images[0], images[1], images[2] = 0, 255, 128
    images[3, ..., -1] = 0
    images[4] = images[4] // 128 * 255
    rows = torch.arange(300) % 6
    views = simclr_batch(images, rows, seeded(), jitter_strength=strength, flip=True)
    assert views.dtype == torch.float32
    assert torch.isfinite(views).all()
    assert views.min() >= 0 and views.max() <= 255


def test_black_stays_black_and_gray_stays_gray():
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    images[1] = 128
    rows = torch.arange(200) % 2
    views = simclr_batch(images, rows, seeded(), jitter_strength=2.5, flip=True)
    assert torch.equal(views[0::2], torch.zeros(100, 3, 32, 32))
    gray = views[1::2]
    assert (gray.amax(dim=(1, 2, 3)) - gray.amin(dim=(1, 2, 3))).max() < 1e-3 * 255, "the gray weights sum to 0.9999"
    assert gray[:, 0, 0, 0].unique().numel() > 50, "of many brightnesses"


@pytest.mark.parametrize("strength", [-0.1, 2.6, float("nan"), float("inf")])
def test_strength_out_of_range_is_refused(strength):
    with pytest.raises(ConfigError, match=rf"jitter_strength must be from 0 to 2.5, got {strength}"):
        simclr_batch(pixels(1, 8, 8, 3), torch.tensor([0]), seeded(), jitter_strength=strength, flip=True)


# Random parameters


def same_distribution(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """p of the chi-square test that two samples of whole numbers are of one distribution; rare numbers pooled."""
    numbers = torch.arange(int(max(ours.max(), reference.max())) + 1)
    counts = np.array([[(sample == number).sum() for number in numbers] for sample in (ours, reference)])
    rare = counts.sum(axis=0) < 40
    pooled = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    return 1.0 if pooled.shape[1] == 1 else float(stats.chi2_contingency(pooled).pvalue)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (8, 8), (33, 20), (5, 40), (40, 5)])
def test_crops_are_distributed_as_torchvision_draws_them(height, width):
    drawn = draw(40_000, height, width)
    ours = torch.stack([drawn.top, drawn.left, drawn.height, drawn.width])
    image, transform = torch.empty(1, height, width), v2.RandomResizedCrop(size=8)
    torch.manual_seed(0)
    samples = [transform.make_params([image]) for _ in range(4000)]
    reference = torch.tensor([[sample[name] for sample in samples] for name in ("top", "left", "height", "width")])
    for name, mine, theirs in zip(("top", "left", "height", "width"), ours, reference, strict=True):
        assert same_distribution(mine, theirs) > 1e-3, name
    assert same_distribution(ours[2] * 50 + ours[3], reference[2] * 50 + reference[3]) > 1e-3, "height and width"
    assert same_distribution(ours[0] * 50 + ours[2], reference[0] * 50 + reference[2]) > 1e-3, "top and height"
    assert same_distribution(ours[1] * 50 + ours[3], reference[1] * 50 + reference[3]) > 1e-3, "left and width"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (33, 20), (3, 200), (200, 3), (224, 224)])
def test_crops_lie_inside_the_image(height, width):
    drawn = draw(5000, height, width)
    assert drawn.top.dtype == drawn.height.dtype == torch.int64
    for start, size, length in ((drawn.top, drawn.height, height), (drawn.left, drawn.width, width)):
        assert start.min() >= 0 and size.min() >= 1 and (start + size).max() <= length


def test_where_no_attempt_fits_the_crop_is_central_with_the_nearest_ratio():
    drawn = draw(100, 3, 200)
    assert {tuple(row) for row in torch.stack([drawn.top, drawn.left, drawn.height, drawn.width]).T.tolist()} == {
        (0, 98, 3, 4)
    }
    drawn = draw(100, 200, 3)
    assert {tuple(row) for row in torch.stack([drawn.top, drawn.left, drawn.height, drawn.width]).T.tolist()} == {
        (98, 0, 4, 3)
    }


def test_every_corner_of_a_crop_size_is_equally_likely():
    drawn = draw(100_000, 8, 8)
    fives = (drawn.height == 5) & (drawn.width == 5)
    counts = torch.bincount(drawn.top[fives] * 4 + drawn.left[fives], minlength=16)
    assert counts.sum() > 2000
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0, 2.5])
def test_factors_are_uniform_in_torchvisions_ranges(strength):
    drawn = draw(20_000, strength=strength)
    reference = v2.ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    for name in ("brightness", "contrast", "saturation", "hue"):
        values, (low, high) = getattr(drawn, name).double().numpy(), getattr(reference, name)
        assert values.min() >= np.float32(low) and values.max() <= np.float32(high)
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3, name


def test_sigma_is_uniform_and_steps_have_their_probabilities():
    drawn = draw(20_000)
    assert stats.kstest(drawn.sigma.double().numpy(), stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
    for name, probability in (("mirror", 0.5), ("jitter", 0.8), ("grayscale", 0.2)):
        happened = int(getattr(drawn, name).sum())
        assert stats.binomtest(happened, 20_000, probability).pvalue > 1e-3, name


def test_all_24_orders_are_equally_likely():
    order = draw(24_000).order
    assert (order.sort(dim=1).values == torch.arange(4)).all()
    counts = torch.bincount(order @ torch.tensor([64, 16, 4, 1]), minlength=256)
    counts = counts[counts > 0]
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_parameters_are_independent_of_each_other_and_from_image_to_image():
    drawn = draw(20_000)
    # Whatever the size of a crop, the mean of these two is a half.
    columns = [(drawn.top + 0.5) / (33 - drawn.height), (drawn.left + 0.5) / (33 - drawn.width)]
    columns += [drawn.height * drawn.width, drawn.height / drawn.width]
    columns += [drawn.mirror, drawn.jitter, drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue]
    columns += [drawn.order[:, 0], drawn.grayscale, drawn.sigma]
    here = np.stack([column.double().numpy() for column in columns])
    found = np.corrcoef(here, np.roll(here, 1, axis=1))
    np.fill_diagonal(found, 0)
    assert np.abs(found).max() < 5 / np.sqrt(20_000), "five standard errors of a correlation of 0"


def test_each_image_and_each_view_has_its_own_parameters():
    images, generator = pixels(1, 32, 32, 3), seeded()
    rows = torch.zeros(50, dtype=torch.long)
    both = [simclr_batch(images, rows, generator, jitter_strength=1, flip=True) for _ in range(2)]
    assert len(torch.cat(both).flatten(1).unique(dim=0)) == 100


def test_same_generator_state_gives_the_same_bytes_and_the_global_one_is_not_used():
    images, rows = pixels(4, 32, 32, 3), torch.arange(4).repeat(5)
    before, untouched = torch.get_rng_state(), images.clone()
    first, second, other = (
        simclr_batch(images, rows, seeded(seed), jitter_strength=2, flip=True) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(images, untouched)


def test_a_view_depends_on_no_other_image():
    images, rows = pixels(20, 32, 32, 3), torch.arange(20)
    others = pixels(20, 32, 32, 3, seed=1)
    others[7] = images[7]
    found, beside = (simclr_batch(each, rows, seeded(), jitter_strength=2, flip=True) for each in (images, others))
    assert torch.equal(found[7], beside[7])
    assert not torch.equal(found[6], beside[6])


def test_crops_orders_and_blurs_do_not_depend_on_strength_and_flip():
    drawn, other = draw(100, strength=2), draw_parameters(100, 32, 32, seeded(), jitter_strength=0, flip=False)
    for name in ("top", "left", "height", "width", "order", "grayscale", "sigma"):
        assert torch.equal(getattr(drawn, name), getattr(other, name)), name


# Execution


@pytest.mark.parametrize("images_in_a_part", [1, 7, 30])
def test_views_do_not_depend_on_how_a_batch_is_split(images_in_a_part, monkeypatch):
    images, rows = pixels(20, 33, 20, 3), torch.arange(30) % 20
    whole = simclr_batch(images, rows, seeded(), jitter_strength=2, flip=True)
    monkeypatch.setattr(simclr, "CPU_PIXELS", images_in_a_part * 33 * 20)
    split = simclr_batch(images, rows, seeded(), jitter_strength=2, flip=True)
    torch.testing.assert_close(split, whole, rtol=0, atol=CHAIN_TOLERANCE)


@pytest.mark.parametrize("shape", [(8, 8, 1), (33, 20, 3)])
def test_nothing_is_read_on_the_host(shape):
    images, rows = pixels(6, *shape), torch.arange(6)
    with no_host_reads():
        simclr_batch(images, rows, seeded(), jitter_strength=2, flip=True)
        for reading in (lambda: images.sum().item(), lambda: images[images > 3], lambda: torch.tensor([1.0])):
            with pytest.raises(AssertionError):
                reading()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_does_not_wait_and_agrees_with_the_cpu():
    device = torch.device("cuda")
    images, rows = pixels(20, 32, 32, 3), torch.arange(20)
    on_gpu, rows_on_gpu = images.to(device), rows.to(device)
    generator = torch.Generator(device).manual_seed(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = simclr_batch(on_gpu, rows_on_gpu, generator, jitter_strength=2, flip=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    drawn = draw_parameters(20, 32, 32, generator.manual_seed(0), jitter_strength=2, flip=True)
    parameters = Parameters(**{name: values.cpu() for name, values in vars(drawn).items()})
    expected = [torchvision_view(images[b].permute(2, 0, 1) / 255, parameters, b) for b in range(20)]
    assert_each_close(views.cpu(), expected, CHAIN_TOLERANCE)
