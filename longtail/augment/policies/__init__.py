"""Augmentation policies. One module per policy, named like it; each declares its entry as ``POLICY``.

A module imports torch inside its functions only, so that names of policies are known without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longtail.core.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from longtail.augment.transforms import Transform

    Batch = Callable[[Tensor, Tensor, Transform, torch.Generator], Tensor]
    Steps = Callable[[Transform], list[Any]]


@dataclass(frozen=True)
class PolicyEntry:
    """An augmentation policy.

    Attributes:
        batch: for images in memory: (images (N, H, W, channels) uint8, rows (B,), transform, generator) ->
            (B, channels, H, W) with levels 0 to 255, uint8 or float32; None if it is not for them.
        steps: for files: transform -> torchvision transforms of one uint8 image, which end at ``image_size``; None if
            it is not for them.
        jitters: whether ``jitter_strength`` has an effect.
    """

    batch: Batch | None = None
    steps: Steps | None = None
    jitters: bool = False


POLICIES: Registry[PolicyEntry] = Registry("longtail.augment.policies", "POLICY", "augment")


def memory_policies() -> list[str]:
    """Names of the policies for images in memory."""
    return [name for name, entry in POLICIES.entries().items() if entry.batch is not None]


def path_policies() -> list[str]:
    """Names of the policies for files."""
    return [name for name, entry in POLICIES.entries().items() if entry.steps is not None]
