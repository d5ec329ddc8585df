"""What happens to images before a network sees them: the train policy and the normalization.

Images in memory are augmented one batch at a time on their device. Image files are augmented one by one with
torchvision in loader workers. Each image and view has its own random parameters, from a stream named by seed, epoch and
position.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.augment.policies import POLICIES, memory_policies, path_policies
from longtail.augment.styles import STYLES
from longtail.core.errors import ConfigError
from longtail.data.manifest import DatasetInfo
from longtail.data.pixels import squared

if TYPE_CHECKING:
    from PIL.Image import Image

CROP_PCT = 0.875  # 224 of 256 pixels
CONSTANTS = {
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inaturalist": ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)),
}


@dataclass(frozen=True)
class InputConfig:
    """What a pretrained network expects of its images. Saved with its weights.

    Attributes:
        image_size: side in pixels.
        mean, std: one value per channel, for pixel values in [0, 1].
        interpolation: ``bilinear`` or ``bicubic``.
        crop_pct: see ``Transform``.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float | None

    def to_meta(self) -> dict[str, Any]:
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "InputConfig":
        return cls(**meta | {"mean": tuple(meta["mean"]), "std": tuple(meta["std"])})


@dataclass(frozen=True)
class Transform:
    """Train policy, normalization and image size. Saved with the backbone so that later stages can repeat it.

    Attributes:
        policy: a name in ``POLICIES``.
        mean, std: one value per channel, for pixel values in [0, 1].
        image_size: side in pixels.
        jitter_strength: strength of the color jitter in sim and in the SimCLR and MoCo policies; 1 for other policies.
        second_policy: policy of all views after the first, or None to use the same one.
        interpolation: how images are resized: ``bilinear`` or ``bicubic``.
        crop_pct: share of the resized shorter side that the center crop of a file keeps; None resizes the whole image
            to a square. Images in memory are squares already, so they are never cropped.
        resize: ``crop`` or ``pad`` makes a square of a file before anything else happens to it (see
            ``longtail.data.pixels.squared``); ``squash`` does not. Always ``squash`` for images in memory.
    """

    policy: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    jitter_strength: float = 1.0
    second_policy: str | None = None
    interpolation: str = "bilinear"
    crop_pct: float | None = CROP_PCT
    resize: str = "squash"

    def to_meta(self) -> dict[str, Any]:
        """All fields, without the later ones where they have their default, so that equal transforms are equal text."""
        usual = {"interpolation": "bilinear", "crop_pct": CROP_PCT, "resize": "squash"}
        return {name: value for name, value in asdict(self).items() if usual.get(name, ...) != value}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "Transform":
        return cls(**meta | {"mean": tuple(meta["mean"]), "std": tuple(meta["std"])})

    def with_policy(self, policy: str, jitter_strength: float, second_policy: str | None = None) -> "Transform":
        """Return a copy with other train policies and the same normalization and size."""
        jitters = any(POLICIES.get(name).jitters for name in (policy, second_policy) if name)
        return replace(
            self, policy=policy, jitter_strength=jitter_strength if jitters else 1.0, second_policy=second_policy
        )

    def policy_of_view(self, view: int) -> str:
        """Return the policy of a 0-based view."""
        return self.second_policy if view > 0 and self.second_policy else self.policy


def resolve_policy(info: DatasetInfo, augment: str, key: str, style: str = "plain") -> str:
    """Return the train policy for a dataset.

    Args:
        info: the prepared dataset.
        augment: a policy, or auto for the entry of STYLES under ``style``.
        key: name of the parameter that ``augment`` comes from, for errors.
        style: a key of STYLES.

    Raises:
        ConfigError: the policy does not suit the dataset.
    """
    in_memory = info.storage == "memory"
    allowed = memory_policies() if in_memory else path_policies()
    if augment == "auto":
        digits, memory, paths = STYLES[style]
        augment = (digits if info.dataset == "digits" else memory) if in_memory else paths
    if augment not in allowed:
        raise ConfigError(f"{key} must be one of {', '.join(allowed)} for storage: {info.storage}, got {augment}")
    return augment


def resolve_transform(
    info: DatasetInfo,
    policy: str,
    normalize: str,
    train_pixels: np.ndarray | None,
    jitter_strength: float = 1.0,
    second_policy: str | None = None,
    *,
    crop: str = "auto",
    image_size: int | None = None,
    source: InputConfig | None = None,
) -> Transform:
    """Determine the normalization of a dataset, and how its images are resized.

    Args:
        info: the prepared dataset.
        policy, second_policy: from ``resolve_policy``.
        normalize: auto means the constants of ``source`` if there is one. Otherwise it means the published constants
            for CIFAR and for image files, and the statistics of the training images for the rest. none leaves values
            in [0, 1].
        train_pixels: (n, H, W, channels) uint8, the training images of a dataset in memory.
        jitter_strength: see ``Transform``.
        crop: auto means the center crop of ``source``, or of CROP_PCT without one. none means the whole image, and so
            does auto if the images are padded, since a crop would cut off what the padding keeps.
        image_size: side of the network's images in pixels; None for that of the prepared dataset.
        source: what the pretrained network expects, if it says so.

    Raises:
        ConfigError: the constants do not suit the dataset.
    """
    in_memory = info.storage == "memory"
    resize = "squash" if in_memory else info.resize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if normalize == "auto" and source is None:
        published = "cifar" if info.dataset in ("cifar10", "cifar100") else "imagenet"
        normalize = published if info.dataset.startswith("cifar") or not in_memory else "dataset"
    if normalize == "auto":
        assert source is not None
        mean, std = source.mean, source.std
    elif normalize == "none":
        mean, std = (0.0,) * info.channels, (1.0,) * info.channels
    elif normalize == "dataset":
        if train_pixels is None:
            allowed = ", ".join(("none", *CONSTANTS))
            raise ConfigError(f"normalize must be one of {allowed} for storage: paths, got dataset")
        mean, std = _statistics(train_pixels)
    elif info.channels != 3:
        raise ConfigError(
            f"normalize must be auto, dataset or none for the grayscale images of {info.dataset}, got {normalize}"
        )
    else:
        mean, std = CONSTANTS[normalize]
    whole = Transform(
        policy,
        mean,
        std,
        image_size or info.image_size,
        interpolation="bilinear" if source is None else source.interpolation,
        crop_pct=None if crop == "none" or resize == "pad" else CROP_PCT if source is None else source.crop_pct,
        resize=resize,
    )
    return whole.with_policy(policy, jitter_strength, second_policy)


def _statistics(pixels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel, from exact integer histograms."""
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(pixels.shape[3]):
        share = np.bincount(pixels[..., channel].reshape(-1), minlength=256) / pixels[..., channel].size
        mean = float(share @ levels)
        means.append(round(mean, 6))
        stds.append(round(max(float(np.sqrt(share @ (levels - mean) ** 2)), 1 / 255), 6))
    return tuple(means), tuple(stds)


def normalizer(transform: Transform, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function from (B, channels, H, W) levels, 0 to 255, to float32 ``(x / 255 - mean) / std``.

    The function overwrites its input if that is float32.
    """
    mean = torch.tensor(transform.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(transform.std, device=device).view(1, -1, 1, 1)
    factor, offset = 1 / (255 * std), mean / std
    return lambda images: images.to(torch.float32).mul_(factor).sub_(offset)


def resize_batch(images: Tensor, transform: Transform) -> Tensor:
    """(B, channels, H, W) levels, 0 to 255, as (B, channels, S, S), antialiased and of the same dtype."""
    size = (transform.image_size, transform.image_size)
    if images.shape[2:] == size:
        return images
    native = images.dtype == torch.uint8 and images.device.type == "cpu"  # as torchvision does with files
    levels = images if native else images.to(torch.float32)
    resized = F.interpolate(levels, size, mode=transform.interpolation, antialias=True, align_corners=False)
    if native:
        return resized
    resized.clamp_(0, 255)
    return resized.round_().to(torch.uint8) if images.dtype == torch.uint8 else resized


def augment_batch(
    images: Tensor, rows: Tensor, transform: Transform, generator: torch.Generator, view: int = 0
) -> Tensor:
    """Apply a view's policy to the images ``rows`` in memory: (N, H, W, channels) uint8 -> (B, channels, H, W).

    The result has levels from 0 to 255, in uint8 or float32.
    """
    batch = POLICIES.get(transform.policy_of_view(view)).batch
    assert batch is not None, f"{transform.policy_of_view(view)} is a policy for files"
    return batch(images, rows, transform, generator)


def path_transform(transform: Transform, train: bool, view: int = 0) -> Callable[["Image"], Tensor]:
    """Return the torchvision pipeline for one file and view: RGB picture -> (3, S, S) uint8.

    Outside training, the shorter side is resized to S / ``crop_pct`` and the center is cropped, or the whole image is
    resized to a square. With ``resize``, the picture becomes a square first, also in training.
    """
    from torchvision.transforms import v2

    from longtail.augment.files import whole_image

    start: list[Any] = [] if transform.resize == "squash" else [partial(squared, resize=transform.resize)]
    start.append(v2.PILToTensor())
    if not train:
        return v2.Compose([*start, *whole_image(transform)])
    steps = POLICIES.get(transform.policy_of_view(view)).steps
    assert steps is not None, f"{transform.policy_of_view(view)} is a policy for images in memory"
    return v2.Compose([*start, *steps(transform)])
