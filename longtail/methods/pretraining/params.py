"""Parameters of pretraining."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from longtail.core.params import key, only_with
from longtail.methods.pretraining import METHODS, NONE, WEIGHTS
from longtail.train.params import TrainingParams

AUTO = "auto"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".pth.tar")


@dataclass(frozen=True, kw_only=True)
class PretrainParams(TrainingParams):
    """Initial weights of the backbone. A method with parameters of its own has a group of its name in ``pretrain``."""

    path: ClassVar[str] = "pretrain"

    method: str = key(
        NONE,
        "`none`: seeded initial weights; `weights`: those of a file or of timm; `bns`: balanced negative sampling; "
        "`rotation`, `moco`, `simsiam`: self-supervised, without labels",
        choices=lambda: [NONE, WEIGHTS, *METHODS.available()],
    )
    weights: str = key(
        AUTO,
        "`auto`: the weights that timm publishes for `train.backbone`; or a file (`.safetensors`, `.pt`, `.pth`, "
        "`.bin`, `.pth.tar`), with `~` and variables. Make its path absolute, or queued runs will not find it",
        unused=only_with(method=WEIGHTS),
    )
    head: Literal["none", "file"] = key(
        "none",
        "`file`: the classifier of the weights, which must have the dataset's number of classes, is the head that "
        "training starts from; with `train.frozen: true` it is kept, and nothing is trained",
        unused=only_with(method=WEIGHTS),
    )
    fixed_order: bool = key(
        False,
        "whether all epochs use the same order of the images; some images are then never seen",
        published="BNS true",
    )
    epochs: int = key(200, "passes over the training images", low=1, published="BNS 1000")
    batch_size: int = key(128, "images per step", low=2, published="BNS 512; CIFAR-10 1024")

    @property
    def file(self) -> Path | None:
        """The file of the weights; None without one."""
        if self.method != WEIGHTS or self.weights == AUTO:
            return None
        return Path(os.path.expandvars(self.weights)).expanduser()

    def modules(self) -> tuple[str, ...]:
        if self.method == NONE:
            return ()
        if self.method == WEIGHTS:
            return ("longtail.models.weights",)
        return METHODS.module(self.method), METHODS.get(self.method).module, *super().modules()

    def inactive(self) -> str:
        return f"method: {self.method}" if self.method in (NONE, WEIGHTS) else ""

    def unaffected(self) -> tuple[str, ...]:
        return ("weights", "head")  # whose own rules decide

    def check(self) -> None:
        super().check()
        known = self.weights == AUTO or self.weights.endswith(SUFFIXES)
        self.require("weights", known, f"auto or a file that ends in {', '.join(SUFFIXES)}")
