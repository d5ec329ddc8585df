"""AutoAugment, RandAugment and cutout for a whole batch, as tensor code on the training device.

Sources: AutoAugment (Cubuk et al. 2019, the CIFAR-10 policy in the appendix), RandAugment (Cubuk et al. 2020) and
cutout (DeVries & Taylor 2017). Operations, magnitude ranges and distributions are those of torchvision's v2 transforms
on uint8 tensors, with nearest-neighbor sampling and black outside the image. Each image has its own random parameters.
All of them are drawn before any pixel is read.

On the CPU the pixels equal torchvision's, with two exceptions:

- A point exactly halfway between two pixels may take the other pixel. This happens for shears by 0.2 and a few other
  magnitudes.
- Contrast may differ by one level, in fewer than one in 10,000 values. This happens if the image does not fill the
  processor's vectors evenly, because torchvision rounds the last values differently.

Other devices may round blended images differently.

Nothing here makes the CPU wait for the GPU.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.augment.simclr import LUMA
from longtail.core.errors import ConfigError

# RandAugment draws from all but INVERT, which only AutoAugment uses. SHEAR_X to SHARPNESS have a random sign.
(IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS) = range(10)
(POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE, INVERT) = range(10, 15)
OPERATIONS = 15
AUTOAUGMENT_BINS, RANDAUGMENT_BINS = 10, 31
# On a CPU a batch is split into parts of this many pixels (64 images of 32 x 32), so that the work fits in the cache.
CPU_PIXELS = 2**16
# Two (operation, probability, magnitude bin) per subpolicy. The bin is 0 if the operation has no magnitude.
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
    """Apply AutoAugment with the CIFAR-10 policy. Each image has its own subpolicy, coin flips and signs.

    Args:
        images: (B, channels, H, W) uint8, 1 or 3 channels.
        generator: on the device of ``images``; the source of all random numbers.

    Returns:
        (B, channels, H, W) uint8.
    """
    height, width = images.shape[2:]
    return _apply(images, *draw_autoaugment(len(images), height, width, generator))


def randaugment_batch(images: Tensor, generator: torch.Generator, num_ops: int = 2, magnitude: int = 9) -> Tensor:
    """Apply RandAugment. Each image has its own operations and signs.

    Args:
        images: (B, channels, H, W) uint8, 1 or 3 channels.
        generator: on the device of ``images``; the source of all random numbers.
        num_ops: operations per image, applied in order.
        magnitude: magnitude bin for all operations, 0 to 30. Shears, translations, rotations, blends, posterize and
            solarize are strongest at 30.

    Returns:
        (B, channels, H, W) uint8.

    Raises:
        ConfigError: ``num_ops`` or ``magnitude`` out of range.
    """
    height, width = images.shape[2:]
    return _apply(images, *draw_randaugment(len(images), height, width, generator, num_ops, magnitude))


def cutout_batch(images: Tensor, generator: torch.Generator, length: int, fill: Tensor) -> Tensor:
    """Cover one square in each image. Its center is uniform over the pixels, and the square is clipped at the border.

    As in the published code, the square covers center - length // 2 (inclusive) to center + length // 2 (exclusive). An
    odd length therefore covers as much as the next smaller even length.

    Args:
        images: (B, channels, H, W), uint8 or floating.
        generator: on the device of ``images``.
        length: side in pixels.
        fill: (channels,) levels from 0 to 255, on the device of ``images``; rounded for uint8 images.

    Returns:
        A tensor with the shape and dtype of ``images``.

    Raises:
        ConfigError: a negative ``length``.
    """
    if length < 0:
        raise ConfigError(f"length must be at least 0, got {length}")
    count, channels, height, width = images.shape
    assert fill.shape == (channels,), "one level per channel"
    sides = [_cut(count, size, length // 2, generator) for size in (height, width)]
    hole = sides[0][:, None, :, None] & sides[1][:, None, None, :]
    levels = fill if images.is_floating_point() else fill.round()
    return torch.where(hole, levels.to(images.dtype).view(-1, 1, 1), images)


def _cut(count: int, size: int, half: int, generator: torch.Generator) -> Tensor:
    """Return (count, size) bool, True from center - half to center + half - 1 for a random center."""
    center = torch.randint(size, (count, 1), generator=generator, device=generator.device)
    place = torch.arange(size, device=generator.device)
    return (place >= center - half) & (place < center + half)


# Random parameters


def draw_autoaugment(count: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw two operations for each of ``count`` images of ``height`` x ``width`` pixels, on the generator's device.

    Returns:
        operation: (2, count) int64, IDENTITY if the coin flip skips it.
        magnitude: (2, count) float32, signed, as in ``apply_operation``.
    """
    operations, probabilities, magnitudes = _cifar10_policy(height, width, generator.device)
    sub_policy = torch.randint(len(CIFAR10_POLICY), (count,), generator=generator, device=generator.device)
    coin, sign = torch.rand(2, 2, count, generator=generator, device=generator.device, dtype=torch.float32)
    operation = operations[:, sub_policy].masked_fill(coin >= probabilities[:, sub_policy], IDENTITY)
    return operation, _with_sign(operation, magnitudes[:, sub_policy], sign)


def draw_randaugment(
    count: int, height: int, width: int, generator: torch.Generator, num_ops: int, magnitude: int
) -> tuple[Tensor, Tensor]:
    """Draw ``num_ops`` operations for each of ``count`` images of ``height`` x ``width`` pixels.

    The tensors are on the generator's device.

    Returns:
        operation: (num_ops, count) int64.
        magnitude: (num_ops, count) float32, signed, as in ``apply_operation``.

    Raises:
        ConfigError: ``num_ops`` or ``magnitude`` out of range.
    """
    if num_ops < 0:
        raise ConfigError(f"num_ops must be at least 0, got {num_ops}")
    if not 0 <= magnitude < RANDAUGMENT_BINS:
        raise ConfigError(f"magnitude must be from 0 to {RANDAUGMENT_BINS - 1}, got {magnitude}")
    magnitudes = _randaugment_magnitudes(magnitude, height, width, generator.device)
    shape = (num_ops, count)
    operation = torch.randint(INVERT, shape, generator=generator, device=generator.device)
    sign = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return operation, _with_sign(operation, magnitudes[operation], sign)


def _with_sign(operation: Tensor, magnitude: Tensor, uniform: Tensor) -> Tensor:
    """Flip the sign of half of the magnitudes, for operations that have one."""
    signed = (operation >= SHEAR_X) & (operation <= SHARPNESS)
    return torch.where(signed & (uniform < 0.5), -magnitude, magnitude)


def magnitude_table(bins: int, height: int, width: int) -> Tensor:
    """Return unsigned magnitudes from weakest to strongest, (OPERATIONS, bins) float32; 0 if there is none."""
    blend = (0, 0.9)
    ends = {
        SHEAR_X: (0, 0.3),
        SHEAR_Y: (0, 0.3),
        TRANSLATE_X: (0, 150 / 331 * width),
        TRANSLATE_Y: (0, 150 / 331 * height),
        ROTATE: (0, 30),
        BRIGHTNESS: blend,
        COLOR: blend,
        CONTRAST: blend,
        SHARPNESS: blend,
        POSTERIZE: (8, 4),
        SOLARIZE: (1, 0),
    }
    table = torch.zeros(OPERATIONS, bins, dtype=torch.float32)
    for operation, (least, most) in ends.items():
        table[operation] = torch.linspace(least, most, bins, dtype=torch.float32)
    table[POSTERIZE].round_()
    return table


# Constants are copied to a device once per image size. The copies do not block.


@lru_cache
def _cifar10_policy(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return operation (int64), probability and magnitude (float32), each (2, subpolicies)."""
    operation, probability, place = torch.tensor(CIFAR10_POLICY, dtype=torch.float32).permute(2, 1, 0)
    magnitude = magnitude_table(AUTOAUGMENT_BINS, height, width)[operation.long(), place.long()]
    operation, probability, magnitude = (
        values.to(device, non_blocking=True) for values in (operation.long(), probability.contiguous(), magnitude)
    )
    return operation, probability, magnitude


@lru_cache
def _randaugment_magnitudes(place: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return the magnitude of each operation, (OPERATIONS,) float32."""
    return magnitude_table(RANDAUGMENT_BINS, height, width)[:, place].contiguous().to(device, non_blocking=True)


# Pixels


def _apply(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Apply each image's operations in order. ``operation`` and ``magnitude`` are (steps, B)."""
    part = max(1, CPU_PIXELS // math.prod(images.shape[2:])) if images.device.type == "cpu" else max(1, len(images))
    parts = []
    for pixels, *steps in zip(images.split(part), operation.split(part, 1), magnitude.split(part, 1), strict=True):
        for some, strength in zip(*steps, strict=True):
            pixels = apply_operation(pixels, some, strength)
        parts.append(pixels)
    return torch.cat(parts)


def apply_operation(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Apply one operation to each image.

    There are three passes: warp, remap and mix. Each pass leaves an image unchanged if its operation is in another
    pass.

    Args:
        images: (B, channels, H, W) uint8, 1 or 3 channels. COLOR does not change one-channel images.
        operation: (B,) int64, 0 to OPERATIONS - 1.
        magnitude: (B,) float32. Its meaning depends on the operation:

            - SHEAR_X, SHEAR_Y: pixels per pixel, about the upper left corner.
            - TRANSLATE_X, TRANSLATE_Y: pixels, truncated to whole pixels.
            - ROTATE: degrees counterclockwise.
            - BRIGHTNESS, COLOR, CONTRAST, SHARPNESS: fraction of the difference from black, gray, mean gray or the
              smoothed image that is added to the image, at least -1.
            - POSTERIZE: bits kept, 0 to 8.
            - SOLARIZE: lowest level that is inverted, as a fraction of 255.
            - Others: unused.

    Returns:
        (B, channels, H, W) uint8.
    """
    assert images.dtype == torch.uint8 and images.shape[1] in (1, 3), "uint8 of 1 or 3 channels"
    chosen = operation[:, None] == torch.arange(OPERATIONS, device=operation.device)
    strength = magnitude[:, None] * chosen
    pixels = warp(images.to(torch.float32, memory_format=torch.contiguous_format), strength)
    gray = _gray(pixels)
    # On a CPU, going through int16 is faster than converting float32 directly to uint8.
    return mix(remap(pixels, gray, chosen, strength), gray, strength).to(torch.int16).to(torch.uint8)


def warp(pixels: Tensor, strength: Tensor) -> Tensor:
    """Shear, translate and rotate.

    Coordinates are rounded in the same order as in torchvision, so that the same pixel wins if two are equally close.

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
    # Source of each pixel, relative to the center of the image, in units of half its side.
    x = torch.arange(width, device=pixels.device, dtype=torch.float32) - (width - 1) / 2
    y = torch.arange(height, device=pixels.device, dtype=torch.float32)[:, None] - (height - 1) / 2
    from_x = torch.stack([cos, shear_x - sin, shear_x * (height / 2) - shift_x]).view(3, -1, 1, 1) / (width / 2)
    from_y = torch.stack([shear_y + sin, cos, shear_y * (width / 2) - shift_y]).view(3, -1, 1, 1) / (height / 2)
    grid = torch.empty(count, height, width, 2, device=pixels.device, dtype=torch.float32)
    for coordinate, (along_x, along_y, start) in enumerate((from_x, from_y)):
        torch.add(along_x * x + along_y * y, start, out=grid[..., coordinate])
    return F.grid_sample(pixels, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def remap(pixels: Tensor, gray: Tensor, chosen: Tensor, strength: Tensor) -> Tensor:
    """Apply all operations that map levels to levels, with one 256-entry table per image and channel.

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

    # One table per channel.
    low, high = flat.amin(dim=2, keepdim=True), flat.amax(dim=2, keepdim=True)
    stretched = ((level - low) / ((high - low) * (1 / 255))).floor_()
    table = torch.where(chosen[:, AUTOCONTRAST] & (low < high), stretched, table)
    index = flat.to(torch.int64)
    equal, changed = _equalizing_table(index, high.to(torch.int64))
    table = torch.where(chosen[:, EQUALIZE] & changed, equal, table)
    return table.gather(2, index).view_as(pixels)


def _equalizing_table(index: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return Pillow's histogram equalization as a table, and a mask of the channels that it changes.

    The step is 1/255 of the number of pixels below the highest level. A level is replaced by the number of pixels below
    it, counted in steps. Channels with fewer than 255 pixels below the highest level are left unchanged.

    Args:
        index: (B, channels, H * W) int64 levels.
        high: (B, channels, 1) int64 highest level.

    Returns:
        table: (B, channels, 256) float32 whole levels.
        changed: (B, channels, 1) bool.
    """
    one = torch.ones(1, device=index.device, dtype=torch.int32)
    counts = torch.zeros(*index.shape[:2], 256, device=index.device, dtype=torch.int32)
    counts.scatter_add_(2, index, one.expand_as(index))
    step = (index.shape[2] - counts.gather(2, high)) // 255
    below = counts.cumsum(dim=2, dtype=torch.int32).sub_(counts).add_(step // 2)
    # The quotients are at most a few hundred, so float32 never rounds them up to a whole number for steps below 10,000.
    return (below / step.clamp(min=1)).floor_().clamp_(max=255), step > 0


def mix(pixels: Tensor, gray: Tensor, strength: Tensor) -> Tensor:
    """Apply color and sharpness, which move an image away from or toward its gray or smoothed version.

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
    """Return the 3 x 3 weighted mean, rounded to whole levels. The middle pixel has weight 5/13.

    The shape changes from (B, channels, H, W) to (B, channels, H - 2, W - 2).
    """
    rows = (pixels[..., :-2, :] + pixels[..., 1:-1, :]).add_(pixels[..., 2:, :])
    box = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])
    return box.add_(pixels[..., 1:-1, 1:-1], alpha=4).mul_(1 / 13).round_()


def _gray(pixels: Tensor) -> Tensor:
    """Convert (B, channels, H, W) float32 to gray, (B, 1, H, W) float32 whole levels."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    return red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).floor_()
