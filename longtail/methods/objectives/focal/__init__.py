"""Focal loss (Lin et al., ICCV 2017)."""

from dataclasses import dataclass
from typing import ClassVar

from longtail.core.params import Group, key
from longtail.methods.objectives import ObjectiveEntry


@dataclass(frozen=True, kw_only=True)
class FocalParams(Group):
    """Parameters of the focal loss."""

    path: ClassVar[str] = "train.focal"

    gamma: float = key(1.0, "exponent of (1 - p); 0 is cross-entropy", low=0, high=100)
    released: bool = key(
        False, "take p after the class weights, as the released code does; differs only with `reweight` and `drw`"
    )


OBJECTIVE = ObjectiveEntry(implementation="longtail.methods.objectives.focal.objective:Focal", params=FocalParams)
