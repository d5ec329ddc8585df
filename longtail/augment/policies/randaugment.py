"""RandAugment: two operations of magnitude 10 out of 30 with ``cutout`` in memory, 30 out of 30 with jitter on files.

PaCo on ImageNet-LT uses 10 on a scale that ends at 10, plus noise that is omitted here.
"""

from typing import TYPE_CHECKING, Any

from longtail.augment.policies import PolicyEntry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from longtail.augment.transforms import Transform

IN_MEMORY, ON_FILES = (2, 10), (2, 30)  # number of operations, magnitude out of 30


def batch(images: "Tensor", rows: "Tensor", transform: "Transform", generator: "torch.Generator") -> "Tensor":
    from longtail.augment.autoaugment import randaugment_batch
    from longtail.augment.crops import mean_hole, padded_crop

    pixels = randaugment_batch(padded_crop(images, rows, generator), generator, *IN_MEMORY)
    return mean_hole(pixels, transform, generator)


def steps(transform: "Transform") -> list[Any]:
    from torchvision.transforms import v2

    from longtail.augment.files import color_jitter, random_crop

    return [*random_crop(transform), color_jitter(), v2.RandAugment(*ON_FILES)]


POLICY = PolicyEntry(batch, steps)
