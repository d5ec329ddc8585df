"""Parameters that every training of a network shares, and where and how to compute."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from longtail.augment.policies import POLICIES
from longtail.augment.styles import STYLES
from longtail.core.params import Auto, Group, key, only_with, refuse

OWN_WARMUP = ("fsgl_imagenet", "fsgl_imagenet_released")  # schedules with a warm-up of their own


def augment_choices() -> list[str]:
    """What ``augment`` may be."""
    return ["auto", *POLICIES.available()]


def policy_modules(names: Iterable[str]) -> list[str]:
    """Modules of the policies, with all that ``auto`` can mean."""
    found = set(names)
    if "auto" in found:
        found |= {"none", *(name for style in STYLES.values() for name in style)}
    return [POLICIES.module(name) for name in sorted(found - {"auto"})]


def jitters_nothing(params: "TrainingParams") -> str:
    """Why ``jitter_strength`` has no effect; empty if a policy jitters colors, or may."""
    names = params.policies()
    if "auto" in names or any(POLICIES.get(name).jitters for name in names):
        return ""
    return f"augment: {params.augment}"


@dataclass(frozen=True, kw_only=True)
class TrainingParams(Group):
    """How a network is trained. ``pretrain``, ``train`` and ``ipdpp`` share these keys, each with its own defaults."""

    augment: str = key("auto", "augmentation policy", choices=augment_choices)
    jitter_strength: float = key(
        1.0, "strength of the color jitter of `sim`, `simclr` and `moco`", low=0, high=2.5, unused=jitters_nothing
    )
    epochs: int = key(60, "passes over the training images", low=1)
    batch_size: int = key(64, "images per step", low=1)
    drop_last: bool | Auto = key(
        "auto", "whether an incomplete last batch is dropped; a last batch of one image always is"
    )
    optimizer: Literal["sgd", "adamw"] = key(
        "adamw",
        "`sgd`: weight decay on every parameter; `adamw`: betas 0.9 and 0.95, weight decay on tensors of two or more "
        "dimensions only",
    )
    lr: float = key(3e-3, "base learning rate", above=0)
    momentum: float = key(0.9, "momentum of `sgd`", low=0, high=1, unused=only_with(optimizer="sgd"))
    weight_decay: float = key(0.05, "weight decay", low=0)
    schedule: Literal[
        "constant", "cosine", "step", "cosine_per_step", "cosine_from_base", "fsgl_imagenet", "fsgl_imagenet_released"
    ] = key(
        "cosine_per_step",
        "constant within an epoch: `constant`, `cosine` (the last epoch runs at 0), `cosine_from_base` (one epoch "
        "later: "
        "the first epoch runs at the base rate), `step`, `fsgl_imagenet` (with its own warm-up) and "
        "`fsgl_imagenet_released` (what its release does with it); changing with every step: `cosine_per_step`",
    )
    warmup_epochs: int | Auto = key(
        "auto", "linear warm-up: epoch t of w runs at t/w. auto: a tenth of the epochs", low=0
    )
    milestones: list[int] | Auto = key(
        "auto",
        "epochs after which `step` multiplies the rate by `gamma`. auto: 80 % and 90 % of the epochs",
        unused=only_with(schedule="step"),
    )
    gamma: float = key(0.01, "factor of `step` at each milestone", above=0, unused=only_with(schedule="step"))
    precision: Literal["float32", "tf32", "bf16"] = key(
        "float32", "`tf32`: TF32 on a GPU; `bf16`: autocast. Features are always extracted in float32"
    )

    @property
    def warmup(self) -> int:
        """Epochs of warm-up. ``auto`` is a tenth of the epochs, and none for a schedule that has its own."""
        if self.warmup_epochs != "auto":
            return self.warmup_epochs
        return 0 if self.schedule in OWN_WARMUP else self.epochs // 10

    def policies(self) -> list[str]:
        """The augmentation policies of all views, or ``auto``."""
        return [self.augment]

    def modules(self) -> tuple[str, ...]:
        return tuple(policy_modules(self.policies()))

    def check(self) -> None:
        if self.milestones != "auto":
            ascending = sorted(set(self.milestones)) == self.milestones and min(self.milestones, default=0) >= 0
            self.require("milestones", ascending, "epochs in ascending order")
        self.require("warmup_epochs", self.warmup <= self.epochs, f"at most {self.full_name('epochs')} = {self.epochs}")
        if self.schedule in OWN_WARMUP:
            self.require(
                "warmup_epochs",
                self.warmup_epochs in ("auto", 0),
                f"0 or auto with {self.full_name('schedule')}: {self.schedule}, which has its own warm-up",
            )


@dataclass(frozen=True, kw_only=True)
class RuntimeParams(Group):
    """Where and how to compute. No stage depends on it: it changes results by rounding at most."""

    path: ClassVar[str] = "runtime"

    device: str = key("auto", "`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`")
    threads: int = key(
        1,
        "torch threads. Beside another busy process, two threads on two cores are far slower than one",
        low=1,
        high=1024,
    )
    workers: int = key(2, "loader processes, and decoding threads of `prepare`", low=0, high=1024)
    compile: bool = key(False, "`torch.compile` the backbone in training; needs a C++ compiler")
    progress: Literal["auto", "bar", "lines", "off"] = key(
        "auto", "how progress is shown. auto: a bar on a terminal, lines in a log"
    )
    checkpoint_every: int = key(5, "epochs between checkpoints of unfinished training", low=1)

    def check(self) -> None:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise refuse("runtime.device", "auto, cpu, cuda or cuda:N", self.device)
