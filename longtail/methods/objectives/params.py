"""Parameters of backbone training."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from longtail.core.params import Auto, Group, key, keys_of, not_with, only_with
from longtail.methods.objectives import OBJECTIVES, ObjectiveEntry
from longtail.models.names import check_name
from longtail.train.params import TrainingParams, augment_choices, policy_modules


def _weights_nothing(params: "WeightingParams") -> str:
    if params.rule != "none" or getattr(params, "always_weighted", False):
        return ""
    return "rule: none"


@dataclass(frozen=True, kw_only=True)
class WeightingParams(Group):
    """When class weights count, and how the images of a batch are mixed."""

    path: ClassVar[str] = "train"

    rule: Literal["none", "resample", "reweight", "drw"] = key(
        "none",
        "for objectives of one view: `reweight` (effective-number weights in all epochs) and `drw` (from "
        "`drw_epoch` on); "
        "for all objectives: `resample` (images drawn with replacement, odds 1 / E_k of their class; needs "
        "`sampler: instance`). LDAM-DRW is `ldam` with `drw`",
    )
    drw_epoch: int | Auto = key(
        "auto", "first epoch with weights, from 0. auto: 80 % of the epochs", low=0, unused=only_with(rule="drw")
    )
    beta: float = key(
        0.9999, "of the effective number E_k = (1 - beta^n_k) / (1 - beta)", low=0, high=1, unused=_weights_nothing
    )
    mix: Literal["none", "mixup", "cutmix"] = key(
        "none", "for objectives of one view: mix the images of a batch, each with its own partner and share"
    )
    mix_alpha: float = key(
        1.0,
        "shares are drawn from Beta(mix_alpha, mix_alpha)",
        low=1e-3,
        high=100,
        unused=only_with(mix=("mixup", "cutmix")),
    )


def create_objective(task: Any, train: "TrainParams", own: Group | None) -> Any:
    """The objective that ``train`` chooses, with its own parameters, for a task."""
    options = dict(vars(own)) if own is not None else {}
    if train.entry.weighted:
        options |= {name: getattr(train, name) for name in keys_of(WeightingParams)}
    return train.entry.load()(task, **options)


def _sees_one_view(params: "TrainParams") -> str:
    return "" if params.entry.views > 1 else f"objective: {params.objective}"


def _without_cosine(params: "TrainParams") -> str:
    return "" if params.head_kind == "cosine" else f"head: {params.head}"


@dataclass(frozen=True, kw_only=True)
class TrainParams(TrainingParams, WeightingParams):
    """Backbone training. Each objective with parameters of its own has a group of its name in ``train``."""

    path: ClassVar[str] = "train"

    objective: str = key("ce", "what the training minimizes", choices=OBJECTIVES.available)
    backbone: str = key(
        "resnet8",
        "`resnet8`, `20`, `32`, `44`, `56`, `110` (16-32-64 channels, parameter-free shortcut), `resnet18`, `resnet34` "
        "(3 x 3 stem), any timm model (`resnet50`, `timm:resnet18`), `resnet10`, or `resnext152_32x4d`",
    )
    width: int | Auto = key("auto", "channels of the first stage. auto: 16, or 64 for `resnet18` and `resnet34`", low=1)
    head: Literal["auto", "linear", "cosine"] = key(
        "auto", "`linear`, or `cosine`: scale * cos(x, w) without bias. auto: `cosine` for `ldam`"
    )
    scale: float = key(30.0, "scale of the cosine head", above=0, unused=_without_cosine)
    frozen: bool = key(
        False,
        "true: no training. Every image goes through the backbone once, and the base head (`joint`) is fitted on the "
        "features",
    )
    views: int = key(
        0,
        "augmented views of each training image that the base head is fitted on beside the image itself",
        low=0,
        high=100,
        unused=only_with(frozen=True),
    )
    trainable: Literal["all", "head", "last_stage", "norm", "bias"] = key(
        "all",
        "what is trained beside the head: `all`; nothing (`head`, linear probing on augmented images); the last stage "
        "of the backbone; its normalization layers; its biases",
        published="BNS head; Decoupling on Places-LT last_stage",
    )
    backbone_lr_factor: float = key(
        1.0, "factor of `lr` for the weights of the backbone", above=0, high=100, unused=not_with(trainable="head")
    )
    bn_mode: Literal["auto", "train", "eval"] = key(
        "auto",
        "batch-norm statistics of the backbone: `train`, or `eval` (fixed). auto: `train` with `trainable: all`, "
        "otherwise `eval`",
    )
    sampler: Literal["instance", "class_aware", "square_root", "progressive"] = key(
        "instance", "how images are drawn; `class_aware` takes `samples_per_class` images per turn of a class"
    )
    samples_per_class: int = key(4, "images per turn of `class_aware`", low=1, unused=only_with(sampler="class_aware"))
    per_class: int | Literal["auto", "all"] = key(
        "auto",
        "train on at most this many images per class, drawn uniformly, or on `all`. auto: ten times the smallest "
        "class with `trainable: head`, otherwise all",
        low=1,
    )
    second_augment: str = key(
        "auto",
        "policy of the second view. auto: `sim` for `paco` (digits: `moco_noflip`), the first view's for `fsgl` and "
        "with `trainable: head`",
        choices=augment_choices,
        unused=_sees_one_view,
    )
    optimizer: Literal["sgd", "adamw"] = key("sgd", "as `pretrain.optimizer`")
    lr: float = key(0.1, "base learning rate", above=0)
    weight_decay: float = key(2e-4, "weight decay", low=0)
    schedule: Literal[
        "constant", "cosine", "step", "cosine_per_step", "cosine_from_base", "fsgl_imagenet", "fsgl_imagenet_released"
    ] = key("cosine", "as `pretrain.schedule`")
    warmup_epochs: int | Auto = key(0, "linear warm-up: epoch t of w runs at t/w. auto: a tenth of the epochs", low=0)
    select: Literal["last", "best_val"] = key("last", "epoch kept. `best_val`: the first of highest accuracy on val")

    @property
    def trains_head_only(self) -> bool:
        """Whether the backbone keeps its weights while the head is trained."""
        return self.trainable == "head"

    @property
    def entry(self) -> ObjectiveEntry:
        """The registered objective."""
        return OBJECTIVES.get(self.objective)

    @property
    def always_weighted(self) -> bool:
        """Whether the objective weights the classes whatever the rule is."""
        return self.entry.always_weighted

    @property
    def head_kind(self) -> str:
        """``linear`` or ``cosine``; ``auto`` is the objective's."""
        return self.entry.head if self.head == "auto" else self.head

    def inactive(self) -> str:
        return "frozen: true" if self.frozen else ""

    def unaffected(self) -> tuple[str, ...]:
        # Of these policies are the views, and the images of the ``online`` mode of cRT and LWS.
        return ("backbone", "width", "views", "augment", "jitter_strength")

    def policies(self) -> list[str]:
        return [self.augment, *([self.second_augment] if self.entry.views > 1 else [])]

    def modules(self) -> tuple[str, ...]:
        return OBJECTIVES.module(self.objective), self.entry.module, *policy_modules(self.policies())

    def check(self) -> None:
        super().check()
        entry, name = self.entry, self.objective
        check_name(self.backbone, None if self.width == "auto" else self.width)
        self.require(
            "head",
            self.head == "auto" or self.head in entry.heads,
            f"{' or '.join(entry.heads)} or auto with train.objective: {name}",
        )
        if not entry.weighted:
            self.require(
                "rule",
                self.rule in ("none", "resample"),
                f"none or resample with train.objective: {name}, which weights the classes itself",
            )
            self.require(
                "mix", self.mix == "none", f"none with train.objective: {name}, which decides itself what to mix"
            )
        if self.rule == "drw" and self.drw_epoch != "auto":
            self.require(
                "drw_epoch",
                self.drw_epoch < self.epochs,
                f"below train.epochs = {self.epochs} with train.rule: drw, or the weights would never count",
            )
        if self.rule == "resample":
            self.require(
                "sampler", self.sampler == "instance", "instance with train.rule: resample, which draws itself"
            )
