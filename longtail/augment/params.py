"""Parameters of what a network sees: normalization."""

from dataclasses import dataclass
from typing import Literal

from longtail.core.params import Group, key


@dataclass(frozen=True, kw_only=True)
class NormalizeParams(Group):
    """How pixel values are normalized."""

    normalize: Literal["auto", "none", "dataset", "cifar", "imagenet", "inaturalist"] = key(
        "auto",
        "`dataset`: mean and standard deviation of the training images; `cifar`, `imagenet`, `inaturalist`: published "
        "constants; `none`: values in [0, 1]. auto: `cifar` for CIFAR, `imagenet` for files, otherwise `dataset`",
    )
