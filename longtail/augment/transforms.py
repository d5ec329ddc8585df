"""What happens to images before a network sees them: the train policy and the normalization.

Images in memory are augmented one batch at a time on their device. Image files are augmented one by one with
torchvision in loader workers. Each image and view has its own random parameters, from a stream named by seed, epoch and
position.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from longtail.augment.autoaugment import autoaugment_batch, cutout_batch, randaugment_batch
from longtail.augment.policies import MEMORY_POLICIES, PATH_POLICIES
from longtail.augment.simclr import simclr_batch
from longtail.core.errors import ConfigError
from longtail.data.manifest import DatasetInfo

if TYPE_CHECKING:
    from PIL.Image import Image

CONSTANTS = {
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inaturalist": ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)),
}
SIMCLR, MOCO = ("simclr", "simclr_noflip"), ("moco", "moco_noflip")
AUTOMATIC = ("autoaugment", "randaugment")
# What auto means in each style: for digits (a mirrored digit is no longer a digit), other data in memory, and files.
STYLES = {
    "plain": ("crop", "crop_flip", "resized_crop_jitter"),
    "simclr": ("simclr_noflip", "simclr", "simclr"),
    "moco": ("moco_noflip", "moco", "moco"),
    "sim": ("moco_noflip", "sim", "sim"),
}
# Number of operations, and magnitude out of 30. PaCo on ImageNet-LT uses 10 on a scale that ends at 10, plus noise that
# is omitted here.
RANDAUGMENT, RANDAUGMENT_PATHS = (2, 10), (2, 30)
MOCO_CROP = 0.2  # smallest crop area, as a fraction of the image
MOCO_STRENGTH = 0.5  # MoCo's jitter (0.4, 0.4, 0.4, 0.1) is half of SimCLR's


@dataclass(frozen=True)
class Transform:
    """Train policy, normalization and image size. Saved with the backbone so that later stages can repeat it.

    Attributes:
        policy: a name in MEMORY_POLICIES or PATH_POLICIES.
        mean, std: one value per channel, for pixel values in [0, 1].
        image_size: side in pixels.
        jitter_strength: strength of the color jitter in sim and in the SimCLR and MoCo policies; 1 for other policies.
        second_policy: policy of all views after the first, or None to use the same one.
    """

    policy: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    jitter_strength: float = 1.0
    second_policy: str | None = None

    def to_meta(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "Transform":
        return cls(**meta | {"mean": tuple(meta["mean"]), "std": tuple(meta["std"])})

    def with_policy(self, policy: str, jitter_strength: float, second_policy: str | None = None) -> "Transform":
        """Return a copy with other train policies and the same normalization and size."""
        jitters = {policy, second_policy} & {"sim", *SIMCLR, *MOCO}
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
    allowed = MEMORY_POLICIES if in_memory else PATH_POLICIES
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
) -> Transform:
    """Determine the normalization of a dataset.

    Args:
        info: the prepared dataset.
        policy, second_policy: from ``resolve_policy``.
        normalize: auto means the published constants for CIFAR and for image files, and the statistics of the training
            images otherwise. none leaves values in [0, 1].
        train_pixels: (n, H, W, channels) uint8, the training images of a dataset in memory.
        jitter_strength: see ``Transform``.

    Raises:
        ConfigError: the constants do not suit the dataset.
    """
    in_memory = info.storage == "memory"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if normalize == "auto":
        published = "cifar" if info.dataset in ("cifar10", "cifar100") else "imagenet"
        normalize = published if info.dataset.startswith("cifar") or not in_memory else "dataset"
    if normalize == "none":
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
    return Transform(policy, mean, std, info.image_size).with_policy(policy, jitter_strength, second_policy)


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


def crop_batch(images: Tensor, rows: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Crop one window from each zero-padded image and mirror it where ``flip`` is true, in a single gather.

    Args:
        images: (N, H, W, channels) uint8, the whole dataset.
        rows: (B,), which images to use.
        top, left: (B,), window corner in the padded image, 0..2*padding.
        flip: (B,) bool.
        padding: black pixels added on each side.

    Returns:
        (B, channels, H, W) uint8, a view in channels-last order.
    """
    height, width = images.shape[1:3]
    y = torch.arange(height, device=images.device) + top[:, None] - padding
    x = torch.arange(width, device=images.device).expand(len(rows), width)
    x = torch.where(flip[:, None], width - 1 - x, x) + left[:, None] - padding
    window = images[rows[:, None, None], y.clamp(0, height - 1)[:, :, None], x.clamp(0, width - 1)[:, None, :]]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    return (window * inside[..., None]).permute(0, 3, 1, 2)


def augment_batch(
    images: Tensor, rows: Tensor, transform: Transform, generator: torch.Generator, view: int = 0
) -> Tensor:
    """Apply a view's memory policy to the images ``rows``: (N, H, W, channels) uint8 -> (B, channels, H, W).

    The result has levels from 0 to 255. It is float32 for sim and the SimCLR and MoCo policies, and uint8 for the
    others. sim is PaCo's second view on CIFAR: MoCo v2's recipe, including the blur that MoCo's CIFAR recipe leaves
    out.

    Deviation: the cutout hole has the mean color, which the network sees as 0, as in DeVries & Taylor 2017. PaCo's hole
    is black, because PaCo cuts it before normalization.
    """
    policy = transform.policy_of_view(view)
    if policy == "none":
        return images[rows].permute(0, 3, 1, 2)
    flip = not policy.endswith("_noflip")
    if policy in SIMCLR:
        return simclr_batch(images, rows, generator, jitter_strength=transform.jitter_strength, flip=flip)
    if policy in MOCO:
        strength = MOCO_STRENGTH * transform.jitter_strength
        return simclr_batch(images, rows, generator, jitter_strength=strength, flip=flip, p_blur=0.0)
    if policy == "sim":
        strength = MOCO_STRENGTH * transform.jitter_strength
        return simclr_batch(
            images, rows, generator, jitter_strength=strength, flip=flip, smallest_crop=MOCO_CROP, p_blur=0.5
        )
    side = images.shape[1]
    padding = max(1, round(side / 8))
    draws = torch.rand(3, len(rows), generator=generator, device=images.device)
    top, left = (draws[:2] * (2 * padding + 1)).long().clamp_(max=2 * padding)
    mirror = (draws[2] < 0.5) & (policy != "crop")
    pixels = crop_batch(images, rows, top, left, mirror, padding)
    if policy == "autoaugment":
        pixels = autoaugment_batch(pixels, generator)
    if policy == "randaugment":
        pixels = randaugment_batch(pixels, generator, *RANDAUGMENT)
    if policy in ("cutout", *AUTOMATIC):
        pixels = cutout_batch(pixels, generator, max(2, side // 2), _levels(transform.mean, images.device))
    return pixels


@lru_cache(maxsize=16)
def _levels(mean: tuple[float, ...], device: torch.device) -> Tensor:
    """Return the levels of a color, (channels,) float32, cached on the device so that no batch waits for a copy."""
    return 255 * torch.tensor(mean, device=device)


def path_transform(transform: Transform, train: bool, view: int = 0) -> Callable[["Image"], Tensor]:
    """Return the torchvision pipeline for one file and view: RGB picture -> (3, S, S) uint8.

    The training policies follow these sources:

    - ``resized_crop``, ``resized_crop_jitter``: Kang et al. 2020. Random resized crop and flip, and for the second also
      brightness, contrast and saturation jitter of 0.4.
    - ``sim``, ``randaugment``: PaCo and FSGL on ImageNet-LT. ``resized_crop_jitter`` plus grayscale and blur, or plus
      RandAugment.
    - ``autoaugment``: AutoAugment's ImageNet policy.
    - ``simclr``: SimCLR, see ``longtail.augment.simclr``.
    - ``moco``: MoCo v2.

    With policy none and outside training, the shorter side is resized to 256/224 of S and the center is cropped.
    """
    from torchvision.transforms import v2

    size, policy = transform.image_size, transform.policy_of_view(view)
    steps: list[Any] = [v2.PILToTensor()]
    if not train or policy == "none":
        steps += [v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)]
        return v2.Compose(steps)
    steps.append(v2.RandomResizedCrop(size, scale=(MOCO_CROP if policy in MOCO else 0.08, 1.0), antialias=True))
    if not policy.endswith("_noflip"):
        steps.append(v2.RandomHorizontalFlip())
    some_blur = v2.RandomApply([v2.GaussianBlur(_blur_kernel(size), (0.1, 2.0))], p=0.5)
    if policy in SIMCLR:
        s = transform.jitter_strength
        steps.append(v2.RandomApply([v2.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)], p=0.8))
        steps += [v2.RandomGrayscale(0.2), v2.GaussianBlur(_blur_kernel(size), (0.1, 2.0))]
    elif policy in MOCO:
        s = MOCO_STRENGTH * transform.jitter_strength
        steps.append(v2.RandomApply([v2.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)], p=0.8))
        steps += [v2.RandomGrayscale(0.2), some_blur]
    elif policy == "autoaugment":
        steps.append(v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET))
    elif policy != "resized_crop":
        s = transform.jitter_strength if policy == "sim" else 1.0
        steps.append(v2.ColorJitter(brightness=0.4 * s, contrast=0.4 * s, saturation=0.4 * s, hue=0))
        steps += {"sim": [v2.RandomGrayscale(0.2), some_blur], "randaugment": [v2.RandAugment(*RANDAUGMENT_PATHS)]}.get(
            policy, []
        )
    return v2.Compose(steps)


def _blur_kernel(size: int) -> int:
    """Return the kernel width in pixels: about a tenth of the side, and odd."""
    return 2 * (size // 20) + 1
