"""Parametric contrastive learning (Cui et al., ICCV 2021)."""

from dataclasses import dataclass
from typing import ClassVar

from longtail.core.params import Group, key
from longtail.methods.objectives import ObjectiveEntry


@dataclass(frozen=True, kw_only=True)
class PaCoParams(Group):
    """Parameters of PaCo."""

    path: ClassVar[str] = "train.paco"

    temperature: float = key(
        0.2,
        "divides the cosines, not the logits of the head",
        above=0,
        published="0.2; CIFAR-100-LT 0.05; ResNeXt-50 0.07",
    )
    alpha: float = key(0.01, "weight of a contrastive positive", low=0, published="0.01 (CIFAR), 0.05")
    beta: float = key(1.0, "weight of the head", above=0, published="1")
    gamma: float = key(1.0, "weight of the contrasted images in the denominator", low=0, published="1")
    queue: int = key(1024, "number of keys kept; empty slots are ignored", low=1, published="1024 (CIFAR), 8192")
    dim: int = key(32, "dimension of a key", low=1, published="32 (CIFAR), 128")
    momentum: float = key(0.999, "momentum of the key encoder", low=0, below=1, published="0.999")


OBJECTIVE = ObjectiveEntry(
    implementation="longtail.methods.objectives.paco.objective:PaCo",
    params=PaCoParams,
    views=2,
    second_augment="sim",
    weighted=False,
)
