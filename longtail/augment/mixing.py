"""Mixing two batches of images: MixUp, CutMix, and the random numbers that both need, drawn on the device.

Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix", ICCV 2019.

Every image has its own share, or all of a batch one: shares are (B,) or (1,). Nothing here makes the host wait.
"""

import torch
from torch import Tensor


def draw_shares(count: int, alpha: float, device: torch.device) -> Tensor:
    """``count`` shares from Beta(alpha, alpha), (count,) float32, by torch's global generator.

    alpha 1 is the uniform distribution on [0, 1).
    """
    if alpha == 1:
        return torch.rand(count, device=device)
    both = torch.full((count,), alpha, device=device)
    return torch.distributions.Beta(both, both, validate_args=False).sample()


def mixup(images: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """share * images + (1 - share) * partners, of (B, channels, H, W); share (B,) or (1,)."""
    return torch.lerp(partners, images, share.to(images.dtype).view(-1, 1, 1, 1))


def draw_boxes(share: Tensor, height: int, width: int) -> Tensor:
    """A box for each share, its centre uniform over the pixels: (B, 4) int64 of ``boxes``."""
    row, column = torch.rand(2, len(share), device=share.device)
    return boxes(share, (row * height).long(), (column * width).long(), height, width)


def boxes(share: Tensor, row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    """(B, 4) int64: top, bottom, left, right (both ends exclusive below and on the right) of the pasted boxes.

    The side is ceil(side of the image * sqrt(1 - share)) and half of it, rounded down, lies on either side of the
    centre, as far as the image reaches; so the box is smaller than 1 - share of the image, and empty for share 1.

    Args:
        share: (B,) of the first image.
        row, column: (B,) int64, the centre.
        height, width: of the images.
    """
    left_out = (1 - share.double()).clamp(min=0).sqrt()
    edges = []
    for centre, side in ((row, height), (column, width)):
        half = (side * left_out).ceil().long() // 2
        edges += [(centre - half).clamp(0, side), (centre + half).clamp(0, side)]
    return torch.stack(edges, dim=1)


def cutmix(images: Tensor, partners: Tensor, box: Tensor) -> Tensor:
    """``images`` with the pixels of ``partners`` inside each box: (B, channels, H, W), box (B, 4) or (1, 4)."""
    top, bottom, left, right = (edge.view(-1, 1) for edge in box.unbind(dim=1))
    y = torch.arange(images.shape[2], device=images.device)
    x = torch.arange(images.shape[3], device=images.device)
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
    return torch.where(inside[:, None], partners, images)


def kept_share(box: Tensor, height: int, width: int) -> Tensor:
    """The share of the pixels outside each box, (B,) float32."""
    top, bottom, left, right = box.unbind(dim=1)
    return 1 - ((bottom - top) * (right - left)).float() / (height * width)
