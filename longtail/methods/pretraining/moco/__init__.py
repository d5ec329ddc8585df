"""Momentum contrast, MoCo v2 (He et al., CVPR 2020; Chen et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from longtail.core.params import Auto, Group, key
from longtail.methods.pretraining import PretrainingEntry


@dataclass(frozen=True, kw_only=True)
class MoCoParams(Group):
    """Parameters of MoCo."""

    path: ClassVar[str] = "pretrain.moco"

    temperature: float = key(0.1, "divides the cosines. Published: 0.2 (ImageNet-LT)", above=0)
    queue: int | Auto = key(
        "auto",
        "number of keys. auto: half the training images, at most 4096. With more keys than images, an image meets "
        "its own "
        "earlier views among the negatives. Published: 65536; CIFAR demo 4096",
        low=1,
    )
    dim: int = key(128, "size of a key", low=1)
    momentum: float = key(0.99, "momentum of the key encoder. Published: 0.999; CIFAR demo 0.99", low=0, below=1)
    splits: int = key(
        8,
        "batch-norm sub-batches of the key encoder: statistics of the whole batch would give a pair away. "
        "Published: 8 GPUs",
        low=1,
    )


PRETRAINING = PretrainingEntry(
    implementation="longtail.methods.pretraining.moco.objective:MoCo", params=MoCoParams, views=2, augment="moco"
)
