"""Logit-adjusted cross-entropy (Menon et al., ICLR 2021)."""

from dataclasses import dataclass
from typing import ClassVar

from longtail.core.params import Group, key
from longtail.methods.objectives import ObjectiveEntry


@dataclass(frozen=True, kw_only=True)
class LogitAdjustmentParams(Group):
    """Parameters of the logit-adjusted loss."""

    path: ClassVar[str] = "train.logit_adjustment"

    adjustment: float = key(1.0, "factor of the log prior; 1 is balanced softmax", low=0, high=10)


OBJECTIVE = ObjectiveEntry(
    implementation="longtail.methods.objectives.logit_adjustment.objective:LogitAdjustment",
    params=LogitAdjustmentParams,
)
