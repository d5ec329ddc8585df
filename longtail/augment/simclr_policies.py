"""The policies of SimCLR and MoCo, with and without a mirror."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from longtail.augment.policies import Batch, Steps
    from longtail.augment.transforms import Transform


def simclr(flip: bool) -> tuple[Batch, Steps]:
    """SimCLR's recipe for images in memory, and for files."""

    def batch(images: Tensor, rows: Tensor, transform: Transform, generator: torch.Generator) -> Tensor:
        from longtail.augment.simclr import simclr_batch

        return simclr_batch(images, rows, generator, jitter_strength=transform.jitter_strength, flip=flip)

    def steps(transform: Transform) -> list[Any]:
        from torchvision.transforms import v2

        from longtail.augment.files import blur, random_crop, simclr_jitter

        size = transform.image_size
        jitter = simclr_jitter(transform.jitter_strength)
        return [*random_crop(transform, flip=flip), jitter, v2.RandomGrayscale(0.2), blur(size)]

    return batch, steps


def moco(flip: bool) -> tuple[Batch, Steps]:
    """MoCo's recipe on CIFAR for images in memory, and MoCo v2's for files."""

    def batch(images: Tensor, rows: Tensor, transform: Transform, generator: torch.Generator) -> Tensor:
        from longtail.augment.simclr import MOCO_STRENGTH, simclr_batch

        strength = MOCO_STRENGTH * transform.jitter_strength
        return simclr_batch(images, rows, generator, jitter_strength=strength, flip=flip, p_blur=0.0)

    def steps(transform: Transform) -> list[Any]:
        from torchvision.transforms import v2

        from longtail.augment.files import random_crop, simclr_jitter, some_blur
        from longtail.augment.simclr import MOCO_CROP, MOCO_STRENGTH

        size = transform.image_size
        jitter = simclr_jitter(MOCO_STRENGTH * transform.jitter_strength)
        return [*random_crop(transform, MOCO_CROP, flip), jitter, v2.RandomGrayscale(0.2), some_blur(size)]

    return batch, steps
