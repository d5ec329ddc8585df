"""Random resized crop and mirror (Kang et al. 2020, iNaturalist)."""

from typing import TYPE_CHECKING, Any

from longtail.augment.policies import PolicyEntry

if TYPE_CHECKING:
    from longtail.augment.transforms import Transform


def steps(transform: "Transform") -> list[Any]:
    from longtail.augment.files import random_crop

    return random_crop(transform)


POLICY = PolicyEntry(steps=steps)
