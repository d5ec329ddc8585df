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

    variant: Literal["code", "paper"] = key(
        "code",
        "`code`: softplus(-mean of exp(cos/t) over positives) + softplus(sum over negatives / 2B); `paper`: the "
        "equation "
        "in the paper, with one log-sigmoid term per pair",
        published="code",
    )
    temperature: float = key(0.5, "t, which divides the cosines; at least 0.3 with `code`", above=0, published="0.5")
    extra_positives: int = key(
        1, "`paper`: other images of the same class per anchor", low=0, unused=only_with(variant="paper")
    )
    negatives: int = key(
        4,
        "`paper`: images of other classes per anchor. They are summed but compared with one mean positive, so use a "
        "lower learning rate if there are many",
        low=1,
        unused=only_with(variant="paper"),
    )
    projector_hidden: int = key(
        2048, "hidden units of the projector, which is discarded after pretraining", low=1, published="2048"
    )
    projector_dim: int = key(128, "dimension of an embedding", low=1, published="128")

    def check(self) -> None:
        if self.variant == "code":
            self.require(
                "temperature",
                self.temperature >= LOWEST_TEMPERATURE,
                f"at least {LOWEST_TEMPERATURE} with variant: code, which takes exp(similarity / temperature) "
                "before the sigmoid",
            )


PRETRAINING = PretrainingEntry(
    implementation="longtail.methods.pretraining.bns.objective:BNS", params=BNSParams, views=2, augment="simclr"
)
