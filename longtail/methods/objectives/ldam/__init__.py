"""Label-distribution-aware margins (Cao et al., NeurIPS 2019)."""

from dataclasses import dataclass
from typing import ClassVar

from longtail.core.params import Group, key
from longtail.methods.objectives import ObjectiveEntry


@dataclass(frozen=True, kw_only=True)
class LDAMParams(Group):
    """Parameters of LDAM. The scale of its cosine head is ``train.scale``."""

    path: ClassVar[str] = "train.ldam"

    margin: float = key(0.5, "margin of the rarest class, in cosine units", low=0, high=2)


OBJECTIVE = ObjectiveEntry(
    implementation="longtail.methods.objectives.ldam.objective:LDAM",
    params=LDAMParams,
    head="cosine",
    heads=("cosine",),
)
