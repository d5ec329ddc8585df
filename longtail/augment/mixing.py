"""Mixing two batches of images with MixUp or CutMix, including the random numbers, which are drawn on the device.

Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix", ICCV 2019.

A *share* is the weight of the first image. Shares have shape (B,) for one per image, or (1,) for one per batch. Nothing
here makes the CPU wait for the GPU.
"""

import torch
from torch import Tensor


def draw_shares(count: int, alpha: float, device: torch.device) -> Tensor:
    """Draw shares from Beta(alpha, alpha) with torch's global generator, (count,) float32.

    alpha = 1 is the uniform distribution on [0, 1).
    """
    if alpha == 1:
        return torch.rand(count, device=device)
    both = torch.full((count,), alpha, device=device)
    return torch.distributions.Beta(both, both, validate_args=False).sample()


def mixup(images: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """Return share * images + (1 - share) * partners, (B, channels, H, W). share: (B,) or (1,)."""
    return torch.lerp(partners, images, share.to(images.dtype).view(-1, 1, 1, 1))


def draw_boxes(share: Tensor, height: int, width: int) -> Tensor:
    """Draw one box per share, with its center uniform over the pixels: (B, 4) int64 as returned by ``boxes``."""
    row, column = torch.rand(2, len(share), device=share.device)
    return boxes(share, (row * height).long(), (column * width).long(), height, width)


def boxes(share: Tensor, row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    """Return the pasted boxes, (B, 4) int64: top, bottom, left, right. Bottom and right are exclusive.

    The side is ceil(image side * sqrt(1 - share)). Half of it, rounded down, extends to either side of the center and
    is clipped at the border. Clipping and rounding down make the box smaller than the drawn fraction 1 - share of the
    image. The box is empty if the share is 1.

    Args:
        share: (B,), the share of the first image.
        row, column: (B,) int64, the center.
        height, width: size of the images in pixels.
    """
    pasted_side = (1 - share.double()).clamp(min=0).sqrt()
    edges = []
    for center, side in ((row, height), (column, width)):
        half = (side * pasted_side).ceil().long() // 2
        edges += [(center - half).clamp(0, side), (center + half).clamp(0, side)]
    return torch.stack(edges, dim=1)


def cutmix(images: Tensor, partners: Tensor, box: Tensor) -> Tensor:
    """Return ``images`` with the pixels of ``partners`` in each box, (B, channels, H, W). box: (B, 4) or (1, 4)."""
    top, bottom, left, right = (edge.view(-1, 1) for edge in box.unbind(dim=1))
    y = torch.arange(images.shape[2], device=images.device)
    x = torch.arange(images.shape[3], device=images.device)
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
    return torch.where(inside[:, None], partners, images)


def kept_share(box: Tensor, height: int, width: int) -> Tensor:
    """Return the share of the pixels outside each box, (B,) float32."""
    top, bottom, left, right = box.unbind(dim=1)
    return 1 - ((bottom - top) * (right - left)).float() / (height * width)
