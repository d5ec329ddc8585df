"""Balanced negative sampling (Lin & Yuan, NeurIPS 2025)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from longtail.core.params import Group, key, only_with
from longtail.methods.pretraining import PretrainingEntry

LOWEST_TEMPERATURE = 0.3  # of variant code


@dataclass(frozen=True, kw_only=True)
class BNSParams(Group):
    """Parameters of BNS."""

    path: ClassVar[str] = "pretrain.bns"

    variant: Literal["code", "paper"] = key("code", "the loss of the released `code`, or the equation of the `paper`")
    temperature: float = key(0.5, "divides the cosines", above=0)
    extra_positives: int = key(
        1, "`paper`: other images of the same class per anchor", low=0, unused=only_with(variant="paper")
    )
    negatives: int = key(4, "`paper`: images of other classes per anchor", low=1, unused=only_with(variant="paper"))
    projector_hidden: int = key(2048, "hidden units of the projector", low=1)
    projector_dim: int = key(128, "size of an embedding", low=1)

    def check(self) -> None:
        if self.variant == "code":
            self.require(
                "temperature",
                self.temperature >= LOWEST_TEMPERATURE,
                f"at least {LOWEST_TEMPERATURE} with variant: code, which takes exp(similarity / temperature) "
                f"before the "
                "sigmoid",
            )


PRETRAINING = PretrainingEntry(
    implementation="longtail.methods.pretraining.bns.objective:BNS", params=BNSParams, views=2, augment="simclr"
)
