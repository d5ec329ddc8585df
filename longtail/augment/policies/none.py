"""No augmentation; a file is resized, and its center is cropped."""

from typing import TYPE_CHECKING, Any

from longtail.augment.policies import PolicyEntry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from longtail.augment.transforms import Transform


def batch(images: "Tensor", rows: "Tensor", transform: "Transform", generator: "torch.Generator") -> "Tensor":
    return images[rows].permute(0, 3, 1, 2)


def steps(transform: "Transform") -> list[Any]:
    from longtail.augment.files import whole_image

    return whole_image(transform)


POLICY = PolicyEntry(batch, steps)
