"""Crops and holes of a whole batch in memory."""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longtail.augment.autoaugment import cutout_batch

if TYPE_CHECKING:
    from longtail.augment.transforms import Transform


def padded_crop(images: Tensor, rows: Tensor, generator: torch.Generator, mirror: bool = True) -> Tensor:
    """Random windows of the zero-padded images ``rows``: (N, H, W, channels) uint8 -> (B, channels, H, W) uint8.

    The padding is an eighth of the side. ``mirror`` flips every second image.
    """
    padding = max(1, round(images.shape[1] / 8))
    draws = torch.rand(3, len(rows), generator=generator, device=images.device)
    top, left = (draws[:2] * (2 * padding + 1)).long().clamp_(max=2 * padding)
    return crop_batch(images, rows, top, left, (draws[2] < 0.5) & mirror, padding)


def mean_hole(pixels: Tensor, transform: "Transform", generator: torch.Generator) -> Tensor:
    """A square of half the side in the mean color, at a random place of each image (B, channels, H, W)."""
    return cutout_batch(pixels, generator, max(2, pixels.shape[2] // 2), _levels(transform.mean, pixels.device))


def crop_batch(images: Tensor, rows: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Crop one window from each zero-padded image and mirror it where ``flip`` is true, in a single gather.

    Args:
        images: (N, H, W, channels) uint8, the whole dataset.
        rows: (B,), which images to use.
        top, left: (B,), window corner in the padded image, 0..2*padding.
        flip: (B,) bool.
        padding: black pixels added on each side.

    Returns:
        (B, channels, H, W) uint8, a view in channels-last order.
    """
    height, width = images.shape[1:3]
    y = torch.arange(height, device=images.device) + top[:, None] - padding
    x = torch.arange(width, device=images.device).expand(len(rows), width)
    x = torch.where(flip[:, None], width - 1 - x, x) + left[:, None] - padding
    window = images[rows[:, None, None], y.clamp(0, height - 1)[:, :, None], x.clamp(0, width - 1)[:, None, :]]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    return (window * inside[..., None]).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _levels(mean: tuple[float, ...], device: torch.device) -> Tensor:
    """Return the levels of a color, (channels,) float32, cached on the device so that no batch waits for a copy."""
    return 255 * torch.tensor(mean, device=device)
