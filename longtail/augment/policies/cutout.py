"""``crop_flip``, and a square of half the side in the mean color.

Deviation: the hole has the mean color, which the network sees as 0, as in DeVries & Taylor 2017. PaCo's hole is black,
because PaCo cuts it before normalization.
"""

from typing import TYPE_CHECKING

from longtail.augment.policies import PolicyEntry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from longtail.augment.transforms import Transform


def batch(images: "Tensor", rows: "Tensor", transform: "Transform", generator: "torch.Generator") -> "Tensor":
    from longtail.augment.crops import mean_hole, padded_crop

    return mean_hole(padded_crop(images, rows, generator), transform, generator)


POLICY = PolicyEntry(batch)
