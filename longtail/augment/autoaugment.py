"""AutoAugment, RandAugment and cutout of a whole batch as tensor code on the training device.

AutoAugment (Cubuk et al. 2019, the CIFAR-10 policy of the appendix), RandAugment (Cubuk et al. 2020) and cutout
(DeVries & Taylor 2017). Operations, ranges of magnitude and distributions are those of torchvision's v2 transforms on
uint8 tensors, with nearest neighbours and black outside the image. Every image has its own random parameters, all
drawn before any pixel is read.

On the CPU the pixels equal torchvision's, with two exceptions. A point exactly between two pixels, as shears by 0.2 and
a few other magnitudes have, may take the other one. And contrast may differ by one level, in fewer than one of 10,000
values, in images that do not fill the processor's vectors evenly, whose last values torchvision rounds differently.
Other devices may round mixtures in their own way.

Nothing here makes the host wait for the device.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.augment.simclr import LUMA
from longtail.core.errors import ConfigError

# RandAugment draws from all but the last, which AutoAugment has too. Those from SHEAR_X to SHARPNESS have a sign.
(IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS) = range(10)
(POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE, INVERT) = range(10, 15)
OPERATIONS = 15
AUTOAUGMENT_BINS, RANDAUGMENT_BINS = 10, 31
# A CPU takes a batch in parts of this many pixels (64 images of 32 x 32), whose intermediate results fit its cache.
CPU_PIXELS = 2**16
# (operation, probability, bin of magnitude) twice for each sub-policy; bin 0 where an operation has no magnitude.
CIFAR10_POLICY = (
    ((INVERT, 0.1, 0), (CONTRAST, 0.2, 6)),
    ((ROTATE, 0.7, 2), (TRANSLATE_X, 0.3, 9)),
    ((SHARPNESS, 0.8, 1), (SHARPNESS, 0.9, 3)),
    ((SHEAR_Y, 0.5, 8), (TRANSLATE_Y, 0.7, 9)),
    ((AUTOCONTRAST, 0.5, 0), (EQUALIZE, 0.9, 0)),
    ((SHEAR_Y, 0.2, 7), (POSTERIZE, 0.3, 7)),
    ((COLOR, 0.4, 3), (BRIGHTNESS, 0.6, 7)),
    ((SHARPNESS, 0.3, 9), (BRIGHTNESS, 0.7, 9)),
    ((EQUALIZE, 0.6, 0), (EQUALIZE, 0.5, 0)),
    ((CONTRAST, 0.6, 7), (SHARPNESS, 0.6, 5)),
    ((COLOR, 0.7, 7), (TRANSLATE_X, 0.5, 8)),
    ((EQUALIZE, 0.3, 0), (AUTOCONTRAST, 0.4, 0)),
    ((TRANSLATE_Y, 0.4, 3), (SHARPNESS, 0.2, 6)),
    ((BRIGHTNESS, 0.9, 6), (COLOR, 0.2, 8)),
    ((SOLARIZE, 0.5, 2), (INVERT, 0.0, 0)),
    ((EQUALIZE, 0.2, 0), (AUTOCONTRAST, 0.6, 0)),
    ((EQUALIZE, 0.2, 0), (EQUALIZE, 0.6, 0)),
    ((COLOR, 0.9, 9), (EQUALIZE, 0.6, 0)),
    ((AUTOCONTRAST, 0.8, 0), (SOLARIZE, 0.2, 8)),
    ((BRIGHTNESS, 0.1, 3), (COLOR, 0.7, 0)),
    ((SOLARIZE, 0.4, 5), (AUTOCONTRAST, 0.9, 0)),
    ((TRANSLATE_Y, 0.9, 9), (TRANSLATE_Y, 0.7, 9)),
    ((AUTOCONTRAST, 0.9, 0), (SOLARIZE, 0.8, 3)),
    ((EQUALIZE, 0.8, 0), (INVERT, 0.1, 0)),
    ((TRANSLATE_Y, 0.7, 9), (AUTOCONTRAST, 0.9, 0)),
)


def autoaugment_batch(images: Tensor, generator: torch.Generator) -> Tensor:
    """AutoAugment with the CIFAR-10 policy; each image draws its sub-policy, its two coins and its signs.

    Args:
        images: (B, channels, H, W) uint8, 1 or 3 channels.
        generator: of the device of ``images``; its state decides everything random.

    Returns:
        (B, channels, H, W) uint8.
    """
    height, width = images.shape[2:]
    return _apply(images, *draw_autoaugment(len(images), height, width, generator))


def randaugment_batch(images: Tensor, generator: torch.Generator, num_ops: int = 2, magnitude: int = 9) -> Tensor:
    """RandAugment; each image draws its operations and their signs.

    Args:
        images: (B, channels, H, W) uint8, 1 or 3 channels.
        generator: of the device of ``images``; its state decides everything random.
        num_ops: operations an image, one after the other.
        magnitude: bin of the magnitude of all of them, 0 to 30; shears, shifts, rotations, mixtures, posterize and
            solarize are strongest at 30.

    Returns:
        (B, channels, H, W) uint8.

    Raises:
        ConfigError: ``num_ops`` or ``magnitude`` out of range.
    """
    height, width = images.shape[2:]
    return _apply(images, *draw_randaugment(len(images), height, width, generator, num_ops, magnitude))


def cutout_batch(images: Tensor, generator: torch.Generator, length: int, fill: Tensor) -> Tensor:
    """Cover one square in each image, its centre uniform over the pixels and the square clipped at the border.

    As in the published code, the square reaches from centre - length // 2 to centre + length // 2 without the end, so
    that an odd length covers as much as the even one below it.

    Args:
        images: (B, channels, H, W), uint8 or floating.
        generator: of the device of ``images``.
        length: side in pixels.
        fill: (channels,) levels from 0 to 255 on the device of ``images``, rounded for uint8 images.

    Returns:
        The shape and dtype of ``images``.

    Raises:
        ConfigError: a negative ``length``.
    """
    if length < 0:
        raise ConfigError(f"length: {length} given, a whole number of pixels from 0 up allowed")
    count, channels, height, width = images.shape
    assert fill.shape == (channels,), "one level for each channel"
    sides = [_cut(count, size, length // 2, generator) for size in (height, width)]
    hole = sides[0][:, None, :, None] & sides[1][:, None, None, :]
    levels = fill if images.is_floating_point() else fill.round()
    return torch.where(hole, levels.to(images.dtype).view(-1, 1, 1), images)


def _cut(count: int, size: int, half: int, generator: torch.Generator) -> Tensor:
    """(count, size) bool, True from centre - half to centre + half - 1."""
    centre = torch.randint(size, (count, 1), generator=generator, device=generator.device)
    place = torch.arange(size, device=generator.device)
    return (place >= centre - half) & (place < centre + half)


# Random parameters


def draw_autoaugment(count: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two operations for each of ``count`` images of ``height`` x ``width`` pixels, on the generator's device.

    Returns:
        operation: (2, count) int64, IDENTITY where the coin leaves it out.
        magnitude: (2, count) float32 with its sign, as in ``apply_operation``.
    """
    operations, probabilities, magnitudes = _cifar10_policy(height, width, generator.device)
    sub_policy = torch.randint(len(CIFAR10_POLICY), (count,), generator=generator, device=generator.device)
    coin, sign = torch.rand(2, 2, count, generator=generator, device=generator.device, dtype=torch.float32)
    operation = operations[:, sub_policy].masked_fill(coin >= probabilities[:, sub_policy], IDENTITY)
    return operation, _with_sign(operation, magnitudes[:, sub_policy], sign)


def draw_randaugment(
    count: int, height: int, width: int, generator: torch.Generator, num_ops: int, magnitude: int
) -> tuple[Tensor, Tensor]:
    """``num_ops`` operations for each of ``count`` images of ``height`` x ``width`` pixels, on the generator's device.

    Returns:
        operation: (num_ops, count) int64.
        magnitude: (num_ops, count) float32 with its sign, as in ``apply_operation``.

    Raises:
        ConfigError: ``num_ops`` or ``magnitude`` out of range.
    """
    if num_ops < 0:
        raise ConfigError(f"num_ops: {num_ops} given, a whole number from 0 up allowed")
    if not 0 <= magnitude < RANDAUGMENT_BINS:
        raise ConfigError(f"magnitude: {magnitude} given, a whole number from 0 to {RANDAUGMENT_BINS - 1} allowed")
    magnitudes = _randaugment_magnitudes(magnitude, height, width, generator.device)
    shape = (num_ops, count)
    operation = torch.randint(INVERT, shape, generator=generator, device=generator.device)
    sign = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return operation, _with_sign(operation, magnitudes[operation], sign)


def _with_sign(operation: Tensor, magnitude: Tensor, uniform: Tensor) -> Tensor:
    """Half of the magnitudes of operations with a sign turned."""
    signed = (operation >= SHEAR_X) & (operation <= SHARPNESS)
    return torch.where(signed & (uniform < 0.5), -magnitude, magnitude)


def magnitude_table(bins: int, height: int, width: int) -> Tensor:
    """(OPERATIONS, bins) float32 without sign, from least to most; zeros where an operation has no magnitude."""
    mixture = (0, 0.9)
    ends = {
        SHEAR_X: (0, 0.3),
        SHEAR_Y: (0, 0.3),
        TRANSLATE_X: (0, 150 / 331 * width),
        TRANSLATE_Y: (0, 150 / 331 * height),
        ROTATE: (0, 30),
        BRIGHTNESS: mixture,
        COLOR: mixture,
        CONTRAST: mixture,
        SHARPNESS: mixture,
        POSTERIZE: (8, 4),
        SOLARIZE: (1, 0),
    }
    table = torch.zeros(OPERATIONS, bins, dtype=torch.float32)
    for operation, (least, most) in ends.items():
        table[operation] = torch.linspace(least, most, bins, dtype=torch.float32)
    table[POSTERIZE].round_()
    return table


# Constants go to a device once for each size of image. A copy from pageable memory may be told not to wait.


@lru_cache
def _cifar10_policy(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Operation (int64), probability and magnitude (float32), each (2, sub-policies)."""
    operation, probability, place = torch.tensor(CIFAR10_POLICY, dtype=torch.float32).permute(2, 1, 0)
    magnitude = magnitude_table(AUTOAUGMENT_BINS, height, width)[operation.long(), place.long()]
    operation, probability, magnitude = (
        values.to(device, non_blocking=True) for values in (operation.long(), probability.contiguous(), magnitude)
    )
    return operation, probability, magnitude


@lru_cache
def _randaugment_magnitudes(place: int, height: int, width: int, device: torch.device) -> Tensor:
    """(OPERATIONS,) float32."""
    return magnitude_table(RANDAUGMENT_BINS, height, width)[:, place].contiguous().to(device, non_blocking=True)


# Pixels


def _apply(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """One operation an image after the other: ``operation`` and ``magnitude`` are (steps, B)."""
    part = max(1, CPU_PIXELS // math.prod(images.shape[2:])) if images.device.type == "cpu" else max(1, len(images))
    parts = []
    for pixels, *steps in zip(images.split(part), operation.split(part, 1), magnitude.split(part, 1), strict=True):
        for some, strength in zip(*steps, strict=True):
            pixels = apply_operation(pixels, some, strength)
        parts.append(pixels)
    return torch.cat(parts)


def apply_operation(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """One operation for each image, in three passes each of which leaves the images of the other two as they are.

    Args:
        images: (B, channels, H, W) uint8, 1 or 3 channels; COLOR leaves one channel as it is.
        operation: (B,) int64, 0 to OPERATIONS - 1.
        magnitude: (B,) float32. SHEAR_X, SHEAR_Y: pixels a pixel, about the upper left corner. TRANSLATE_X,
            TRANSLATE_Y: pixels, cut to whole ones. ROTATE: degrees counterclockwise. BRIGHTNESS, COLOR, CONTRAST,
            SHARPNESS: how much of the difference to black, gray, mean gray or smoothed is added to the image, from -1
            up. POSTERIZE: bits kept, 0 to 8. SOLARIZE: the lowest level that is inverted, in 255ths. Unused by the
            others.

    Returns:
        (B, channels, H, W) uint8.
    """
    assert images.dtype == torch.uint8 and images.shape[1] in (1, 3), "uint8 of 1 or 3 channels"
    chosen = operation[:, None] == torch.arange(OPERATIONS, device=operation.device)
    strength = magnitude[:, None] * chosen
    pixels = warp(images.to(torch.float32, memory_format=torch.contiguous_format), strength)
    gray = _gray(pixels)
    # A CPU is slower from float32 to uint8 at once.
    return mix(remap(pixels, gray, chosen, strength), gray, strength).to(torch.int16).to(torch.uint8)


def warp(pixels: Tensor, strength: Tensor) -> Tensor:
    """Shear, translate and rotate.

    Places are rounded in the order of torchvision's, so that the same neighbour wins where two are equally near.

    Args:
        pixels: (B, channels, H, W) float32.
        strength: (B, OPERATIONS) float32, the magnitude for the chosen operation and 0 for the others.

    Returns:
        (B, channels, H, W) float32.
    """
    count, _, height, width = pixels.shape
    angle = torch.deg2rad(strength[:, ROTATE].double())
    cos, sin = angle.cos().float(), angle.sin().float()
    shear_x, shear_y = strength[:, SHEAR_X], strength[:, SHEAR_Y]
    shift_x, shift_y = strength[:, TRANSLATE_X].trunc(), strength[:, TRANSLATE_Y].trunc()
    # Where each pixel comes from, counted from the centre of the image in halves of its sides.
    x = torch.arange(width, device=pixels.device, dtype=torch.float32) - (width - 1) / 2
    y = torch.arange(height, device=pixels.device, dtype=torch.float32)[:, None] - (height - 1) / 2
    from_x = torch.stack([cos, shear_x - sin, shear_x * (height / 2) - shift_x]).view(3, -1, 1, 1) / (width / 2)
    from_y = torch.stack([shear_y + sin, cos, shear_y * (width / 2) - shift_y]).view(3, -1, 1, 1) / (height / 2)
    grid = torch.empty(count, height, width, 2, device=pixels.device, dtype=torch.float32)
    for coordinate, (along_x, along_y, start) in enumerate((from_x, from_y)):
        torch.add(along_x * x + along_y * y, start, out=grid[..., coordinate])
    return F.grid_sample(pixels, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def remap(pixels: Tensor, gray: Tensor, chosen: Tensor, strength: Tensor) -> Tensor:
    """All operations that map levels to levels, with one table of 256 levels for each image and channel.

    Args:
        pixels: (B, channels, H, W) float32 whole levels.
        gray: (B, 1, H, W) float32 whole levels.
        chosen: (B, OPERATIONS) bool.
        strength: (B, OPERATIONS) float32, the magnitude for the chosen operation and 0 for the others.

    Returns:
        (B, channels, H, W) float32 whole levels.
    """
    flat = pixels.flatten(2)
    level = torch.arange(256, device=pixels.device, dtype=torch.float32)
    chosen, strength = chosen[:, :, None, None], strength[:, :, None, None]

    # One table for all channels: level * factor + other * share, then solarize and posterize.
    inverted, contrast = chosen[:, INVERT], strength[:, CONTRAST]
    factor = (1 + strength[:, BRIGHTNESS] + contrast).masked_fill_(inverted, -1)
    other = gray.mean(dim=(2, 3))[:, :, None].masked_fill(inverted, 255)
    share = (-contrast).masked_fill_(inverted, 1)
    table = torch.addcmul(level * factor, other, share).clamp_(0, 255).to(torch.int32)
    solarized = level >= strength[:, SOLARIZE] * 255 + 256 * ~chosen[:, SOLARIZE]
    dropped_bits = 8 * chosen[:, POSTERIZE] - strength[:, POSTERIZE].to(torch.int32)
    table = ((table ^ 255 * solarized) >> dropped_bits << dropped_bits).to(torch.float32)

    # One table for each channel.
    low, high = flat.amin(dim=2, keepdim=True), flat.amax(dim=2, keepdim=True)
    stretched = ((level - low) / ((high - low) * (1 / 255))).floor_()
    table = torch.where(chosen[:, AUTOCONTRAST] & (low < high), stretched, table)
    index = flat.to(torch.int64)
    equal, changed = _equalizing_table(index, high.to(torch.int64))
    table = torch.where(chosen[:, EQUALIZE] & changed, equal, table)
    return table.gather(2, index).view_as(pixels)


def _equalizing_table(index: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Pillow's histogram equalisation: (B, channels, 256) float32 whole levels, and (B, channels, 1) bool where it is.

    A level becomes the number of pixels below it, counted in steps of a 255th of the pixels below the highest level.
    Channels with less than 255 of those stay as they are.

    Args:
        index: (B, channels, H * W) int64 levels.
        high: (B, channels, 1) int64 highest level.
    """
    one = torch.ones(1, device=index.device, dtype=torch.int32)
    counts = torch.zeros(*index.shape[:2], 256, device=index.device, dtype=torch.int32)
    counts.scatter_add_(2, index, one.expand_as(index))
    step = (index.shape[2] - counts.gather(2, high)) // 255
    below = counts.cumsum(dim=2, dtype=torch.int32).sub_(counts).add_(step // 2)
    # Quotients up to a few hundred: float32 holds them apart from the next whole number for any step below 10,000.
    return (below / step.clamp(min=1)).floor_().clamp_(max=255), step > 0


def mix(pixels: Tensor, gray: Tensor, strength: Tensor) -> Tensor:
    """Color and sharpness, which move an image away from its gray or smoothed picture or towards it.

    Args:
        pixels: (B, channels, H, W) float32 whole levels, overwritten.
        gray: (B, 1, H, W) float32 whole levels.
        strength: (B, OPERATIONS) float32, the magnitude for the chosen operation and 0 for the others.

    Returns:
        (B, channels, H, W) float32 from 0 to 255, not rounded.
    """
    color, sharpness = strength[:, COLOR, None, None, None], strength[:, SHARPNESS, None, None, None]
    if min(pixels.shape[2:]) > 2:
        inner = pixels[..., 1:-1, 1:-1]
        inner.addcmul_(_smooth(pixels).sub_(inner), -sharpness)
    if pixels.shape[1] == 3:
        pixels = torch.addcmul(pixels * (1 + color), gray, -color)
    return pixels.clamp_(0, 255)


def _smooth(pixels: Tensor) -> Tensor:
    """Whole levels of the 3 x 3 mean with weight 5 of 13 in the middle: (B, channels, H, W) -> H - 2 and W - 2."""
    rows = (pixels[..., :-2, :] + pixels[..., 1:-1, :]).add_(pixels[..., 2:, :])
    box = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])
    return box.add_(pixels[..., 1:-1, 1:-1], alpha=4).mul_(1 / 13).round_()


def _gray(pixels: Tensor) -> Tensor:
    """(B, channels, H, W) float32 -> (B, 1, H, W) float32 whole levels."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    return red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).floor_()
