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
        "divides the cosines, not the logits of the head. Published: 0.2; CIFAR-100-LT 0.05; ResNeXt-50 0.07",
        above=0,
    )
    alpha: float = key(0.01, "weight of a contrastive positive. Published: 0.01 (CIFAR) or 0.05", low=0)
    beta: float = key(1.0, "weight of the head", above=0)
    gamma: float = key(1.0, "weight of the contrasted images in the denominator", low=0)
    queue: int = key(1024, "number of keys kept; empty slots do not count. Published: 1024 (CIFAR), 8192", low=1)
    dim: int = key(32, "size of a key. Published: 32 (CIFAR), 128", low=1)
    momentum: float = key(0.999, "momentum of the key encoder", low=0, below=1)


OBJECTIVE = ObjectiveEntry(
    implementation="longtail.methods.objectives.paco.objective:PaCo",
    params=PaCoParams,
    views=2,
    second_augment="sim",
    weighted=False,
)
