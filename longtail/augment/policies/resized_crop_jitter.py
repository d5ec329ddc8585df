"""``resized_crop``, and jitter of brightness, contrast and saturation (Kang et al. 2020, ImageNet-LT, Places-LT)."""

from typing import TYPE_CHECKING, Any

from longtail.augment.policies import PolicyEntry

if TYPE_CHECKING:
    from longtail.augment.transforms import Transform


def steps(transform: "Transform") -> list[Any]:
    from longtail.augment.files import color_jitter, random_crop

    return [*random_crop(transform), color_jitter()]


POLICY = PolicyEntry(steps=steps)
