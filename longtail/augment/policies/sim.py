"""MoCo v2's recipe in memory (PaCo's second view on CIFAR); jitter, grayscale and blur on files (PaCo and FSGL).

In memory it includes the blur that MoCo's own CIFAR recipe leaves out.
"""

from typing import TYPE_CHECKING, Any

from longtail.augment.policies import PolicyEntry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from longtail.augment.transforms import Transform


def batch(images: "Tensor", rows: "Tensor", transform: "Transform", generator: "torch.Generator") -> "Tensor":
    from longtail.augment.simclr import MOCO_CROP, MOCO_STRENGTH, simclr_batch

    strength = MOCO_STRENGTH * transform.jitter_strength
    return simclr_batch(images, rows, generator, jitter_strength=strength, smallest_crop=MOCO_CROP, p_blur=0.5)


def steps(transform: "Transform") -> list[Any]:
    from torchvision.transforms import v2

    from longtail.augment.files import color_jitter, random_crop, some_blur

    jitter = color_jitter(transform.jitter_strength)
    return [*random_crop(transform), jitter, v2.RandomGrayscale(0.2), some_blur(transform.image_size)]


POLICY = PolicyEntry(batch, steps, jitters=True)
