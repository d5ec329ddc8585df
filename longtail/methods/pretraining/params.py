"""Parameters of pretraining."""

from dataclasses import dataclass
from typing import ClassVar

from longtail.core.params import key
from longtail.methods.pretraining import METHODS
from longtail.train.params import TrainingParams

NONE = "none"


@dataclass(frozen=True, kw_only=True)
class PretrainParams(TrainingParams):
    """Initial weights of the backbone. A method with parameters of its own has a group of its name in ``pretrain``."""

    path: ClassVar[str] = "pretrain"

    method: str = key(
        NONE,
        "`none`: seeded initial weights; `bns`: balanced negative sampling; `rotation`, `moco`: self-supervised, "
        "without "
        "labels",
        choices=lambda: [NONE, *METHODS.available()],
    )
    fixed_order: bool = key(
        False,
        "whether all epochs use the same order of the images; some images are then never seen",
        published="BNS true",
    )
    epochs: int = key(200, "passes over the training images", low=1, published="BNS 1000")
    batch_size: int = key(128, "images per step", low=2, published="BNS 512; CIFAR-10 1024")

    def modules(self) -> tuple[str, ...]:
        if self.method == NONE:
            return ()
        return METHODS.module(self.method), METHODS.get(self.method).module, *super().modules()

    def inactive(self) -> str:
        return "method: none" if self.method == NONE else ""
