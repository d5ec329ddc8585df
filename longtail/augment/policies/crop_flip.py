"""``crop``, and a random mirror."""

from typing import TYPE_CHECKING

from longtail.augment.policies import PolicyEntry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from longtail.augment.transforms import Transform


def batch(images: "Tensor", rows: "Tensor", transform: "Transform", generator: "torch.Generator") -> "Tensor":
    from longtail.augment.crops import padded_crop

    return padded_crop(images, rows, generator)


POLICY = PolicyEntry(batch)
