"""Momentum contrast, MoCo v2 (He et al., CVPR 2020; Chen et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from longtail.core.params import Auto, Group, key
from longtail.methods.pretraining import PretrainingEntry


@dataclass(frozen=True, kw_only=True)
class MoCoParams(Group):
    """Parameters of MoCo."""

    path: ClassVar[str] = "pretrain.moco"

    temperature: float = key(0.1, "divides the cosines", above=0, published="ImageNet-LT 0.2")
    queue: int | Auto = key(
        "auto",
        "number of keys. auto: half the number of training images, at most 4096. With more keys than images, the "
        "negatives include earlier views of the same image",
        low=1,
        published="65536; CIFAR demo 4096",
    )
    dim: int = key(128, "dimension of a key", low=1, published="128")
    momentum: float = key(0.99, "momentum of the key encoder", low=0, below=1, published="0.999; CIFAR demo 0.99")
    splits: int = key(
        8,
        "batch-norm sub-batches of the key encoder. With statistics over the whole batch, the network could identify "
        "the matching pair from them",
        low=1,
        published="8 GPUs",
    )


PRETRAINING = PretrainingEntry(
    implementation="longtail.methods.pretraining.moco.objective:MoCo", params=MoCoParams, views=2, augment="moco"
)
