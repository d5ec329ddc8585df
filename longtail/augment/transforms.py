"""What happens to images before a network sees them: the train policy and the normalization.

Images in memory are augmented one batch at a time on their device. Image files are augmented one by one with
torchvision in loader workers. Each image and view has its own random parameters, from a stream named by seed, epoch and
position.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from longtail.augment.policies import POLICIES, memory_policies, path_policies
from longtail.augment.styles import STYLES
from longtail.core.errors import ConfigError
from longtail.data.manifest import DatasetInfo

if TYPE_CHECKING:
    from PIL.Image import Image

CONSTANTS = {
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inaturalist": ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)),
}


@dataclass(frozen=True)
class Transform:
    """Train policy, normalization and image size. Saved with the backbone so that later stages can repeat it.

    Attributes:
        policy: a name in ``POLICIES``.
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

    Outside training, the shorter side is resized to 256/224 of S and the center is cropped.
    """
    from torchvision.transforms import v2

    from longtail.augment.files import center_crop

    if not train:
        return v2.Compose([v2.PILToTensor(), *center_crop(transform.image_size)])
    steps = POLICIES.get(transform.policy_of_view(view)).steps
    assert steps is not None, f"{transform.policy_of_view(view)} is a policy for images in memory"
    return v2.Compose([v2.PILToTensor(), *steps(transform)])
