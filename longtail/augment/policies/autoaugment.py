"""AutoAugment (Cubuk et al. 2019): its CIFAR-10 policy with ``cutout`` in memory, its ImageNet policy on files."""

from typing import TYPE_CHECKING, Any

from longtail.augment.policies import PolicyEntry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from longtail.augment.transforms import Transform


def batch(images: "Tensor", rows: "Tensor", transform: "Transform", generator: "torch.Generator") -> "Tensor":
    from longtail.augment.autoaugment import autoaugment_batch
    from longtail.augment.crops import mean_hole, padded_crop

    pixels = autoaugment_batch(padded_crop(images, rows, generator), generator)
    return mean_hole(pixels, transform, generator)


def steps(transform: "Transform") -> list[Any]:
    from torchvision.transforms import v2

    from longtail.augment.files import random_crop

    return [*random_crop(transform), v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)]


POLICY = PolicyEntry(batch, steps)
