"""Parameters of what a network sees: normalization and crop."""

from dataclasses import dataclass
from typing import Literal

from longtail.core.params import Group, key


@dataclass(frozen=True, kw_only=True)
class NormalizeParams(Group):
    """How pixel values are normalized, and which part of a file is seen."""

    normalize: Literal["auto", "none", "dataset", "cifar", "imagenet", "inaturalist"] = key(
        "auto",
        "`dataset`: mean and standard deviation of the training images; `cifar`, `imagenet`, `inaturalist`: published "
        "constants; `none`: values in [0, 1]. auto: those of the model with `pretrain.method: weights`; otherwise "
        "`cifar` for CIFAR, `imagenet` for files, `dataset` for the rest",
    )
    crop: Literal["auto", "none"] = key(
        "auto",
        "without augmentation, `auto`: the center crop of the model with `pretrain.method: weights`, otherwise 224 of "
        "256 pixels, or the whole image with `resize: pad`; `none`: the whole image, resized to a square. Images in "
        "memory are squares and not cropped",
    )
