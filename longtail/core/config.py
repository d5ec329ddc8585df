"""``params.yaml`` bound to frozen dataclasses: unknown keys, wrong types and values out of range are errors.

DVC passes ``-S imb_factor=abc`` through unseen, so this loader is the only guard, and it runs before any work starts.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml

from longtail.core.errors import ConfigError

T = TypeVar("T")
TWO_VIEWS = ("paco", "fsgl")  # objectives that see two augmented views of an image
Auto = Literal["auto"]
Augment = Literal[
    "auto",
    "none",
    "crop",
    "crop_flip",
    "cutout",
    "autoaugment",
    "randaugment",
    "resized_crop",
    "resized_crop_jitter",
    "sim",
    "simclr",
    "simclr_noflip",
    "moco",
    "moco_noflip",
]
Schedule = Literal[
    "constant", "cosine", "step", "cosine_per_step", "cosine_from_base", "fsgl_imagenet", "fsgl_imagenet_released"
]


def _range(low: float | None = None, high: float | None = None, *, above: float | None = None, **options: Any) -> Any:
    """A field whose numbers lie in [low, high] (or above ``above``); strings such as ``auto`` are not compared."""
    return field(metadata={"low": low, "high": high, "above": above}, **options)


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Limits of the groups: many > many_above, few < few_below training images, medium between."""

    many_above: int = _range(0, default=100)
    few_below: int = _range(0, default=20)

    def check(self) -> None:
        if self.few_below > self.many_above + 1:
            raise ConfigError(
                f"shots.few_below: {self.few_below} is above shots.many_above + 1 = {self.many_above + 1}; "
                "a class would be both many and few"
            )


@dataclass(frozen=True, kw_only=True)
class Lists:
    """List files of ``dataset: file_lists``, absolute or relative to data_root; lines are ``relative/path label``."""

    train: str | None = None
    val: str | None = None
    test: str | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained: what ``pretrain``, ``train`` and ``ipdpp`` share, each with defaults of its own."""

    group: ClassVar[str]

    augment: Augment = "auto"
    jitter_strength: float = _range(0, 2.5, default=1.0)
    epochs: int = _range(1, default=60)
    batch_size: int = _range(1, default=64)
    drop_last: bool | Auto = "auto"
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = _range(above=0, default=3e-3)
    momentum: float = _range(0, 1, default=0.9)
    weight_decay: float = _range(0, default=0.05)
    schedule: Schedule = "cosine_per_step"
    warmup_epochs: int | Auto = _range(0, default="auto")
    milestones: list[int] | Auto = "auto"
    gamma: float = _range(above=0, default=0.01)
    precision: Literal["float32", "tf32", "bf16"] = "float32"

    @property
    def warmup(self) -> int:
        """Epochs of the warm-up; ``auto`` is a tenth of the epochs, and none with a schedule that has its own."""
        if self.warmup_epochs != "auto":
            return self.warmup_epochs
        return 0 if self.schedule.startswith("fsgl") else self.epochs // 10

    def check(self) -> None:
        if self.milestones != "auto" and (
            sorted(set(self.milestones)) != self.milestones or min(self.milestones, default=0) < 0
        ):
            raise ConfigError(f"{self.group}.milestones: {self.milestones} given, epochs in ascending order expected")
        if self.warmup > self.epochs:
            raise ConfigError(
                f"{self.group}.warmup_epochs: {self.warmup_epochs} is more than {self.group}.epochs: {self.epochs}"
            )
        if self.schedule.startswith("fsgl") and self.warmup_epochs not in ("auto", 0):
            raise ConfigError(
                f"{self.group}.warmup_epochs: {self.warmup_epochs} given, 0 or auto expected with schedule: "
                f"{self.schedule}, which has a warm-up of its own"
            )


@dataclass(frozen=True, kw_only=True)
class BNS:
    """Balanced negative sampling (``longtail.methods.objectives.bns``)."""

    variant: Literal["code", "paper"] = "code"
    temperature: float = _range(above=0, default=0.5)
    extra_positives: int = _range(0, default=1)
    negatives: int = _range(1, default=4)
    projector_hidden: int = _range(1, default=2048)
    projector_dim: int = _range(1, default=128)

    def check(self) -> None:
        if self.variant == "code" and self.temperature < 0.3:
            raise ConfigError(
                f"pretrain.bns.temperature: {self.temperature:g} given, at least 0.3 expected with variant: code, "
                "whose loss takes exp(similarity / temperature) before the sigmoid"
            )


@dataclass(frozen=True, kw_only=True)
class MoCo:
    """Momentum contrast (``longtail.methods.objectives.moco``)."""

    temperature: float = _range(above=0, default=0.1)
    queue: int | Auto = _range(1, default="auto")
    dim: int = _range(1, default=128)
    momentum: float = _range(0, 0.999999, default=0.99)
    splits: int = _range(1, default=8)


@dataclass(frozen=True, kw_only=True)
class Pretrain(Training):
    """Initial weights of the backbone: seeded ones, or those of pretraining on the images of the split."""

    group: ClassVar[str] = "pretrain"

    method: Literal["none", "bns", "rotation", "moco"] = "none"
    bns: BNS = field(default_factory=BNS)
    moco: MoCo = field(default_factory=MoCo)
    fixed_order: bool = False
    epochs: int = _range(1, default=200)
    batch_size: int = _range(2, default=128)


@dataclass(frozen=True, kw_only=True)
class PaCo:
    """Parametric contrastive learning (``longtail.methods.objectives.paco``)."""

    temperature: float = _range(above=0, default=0.2)
    alpha: float = _range(0, default=0.01)
    beta: float = _range(above=0, default=1.0)
    gamma: float = _range(0, default=1.0)
    queue: int = _range(1, default=1024)
    dim: int = _range(1, default=32)
    momentum: float = _range(0, 0.999999, default=0.999)


@dataclass(frozen=True, kw_only=True)
class FSGL:
    """Feature scaling guided learning, and GLMC without scaling and SAM (``longtail.methods.objectives.fsgl``)."""

    gamma: float = _range(0, 10, default=0.5)
    fsm_order: Literal["rank", "index"] = "rank"
    fsm_variant: Literal["linear", "uniform", "head_half"] = "linear"
    label_exponent: float = _range(0, 10, default=1.2)
    resample_exponent: float = _range(0, 10, default=0.0)
    consistency_weight: float = _range(0, default=4.0)
    rho: float = _range(0, default=0.05)
    freeze_bn_second: bool = False
    cutmix_area_label: bool = False
    masked_bce_weight: float = _range(0, default=0.0)


@dataclass(frozen=True, kw_only=True)
class Train(Training):
    """Backbone training."""

    group: ClassVar[str] = "train"

    objective: Literal[
        "ce", "focal", "class_balanced", "ldam", "balanced_softmax", "logit_adjustment", "paco", "fsgl"
    ] = "ce"
    rule: Literal["none", "resample", "reweight", "drw"] = "none"
    drw_epoch: int | Auto = _range(0, default="auto")
    beta: float = _range(0, 1, default=0.9999)
    focal_gamma: float = _range(0, 100, default=1.0)
    focal_released: bool = False
    margin: float = _range(0, 2, default=0.5)
    adjustment: float = _range(0, 10, default=1.0)
    mix: Literal["none", "mixup", "cutmix"] = "none"
    mix_alpha: float = _range(1e-3, 100, default=1.0)
    paco: PaCo = field(default_factory=PaCo)
    fsgl: FSGL = field(default_factory=FSGL)
    backbone: str = "resnet8"
    width: int | Auto = _range(1, default="auto")
    head: Literal["auto", "linear", "cosine"] = "auto"
    scale: float = _range(above=0, default=30.0)
    frozen: bool = False
    bn_mode: Literal["auto", "train", "eval"] = "auto"
    sampler: Literal["instance", "class_aware", "square_root", "progressive"] = "instance"
    samples_per_class: int = _range(1, default=4)
    per_class: int | Literal["auto", "all"] = _range(1, default="auto")
    second_augment: Augment = "auto"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = _range(above=0, default=0.1)
    weight_decay: float = _range(0, default=2e-4)
    schedule: Schedule = "cosine"
    warmup_epochs: int | Auto = _range(0, default=0)
    select: Literal["last", "best_val"] = "last"

    def check(self) -> None:
        super().check()
        if self.objective == "ldam" and self.head == "linear":
            raise ConfigError("train.head: linear given, cosine (or auto) expected with train.objective: ldam")
        if self.second_augment != "auto" and self.objective not in TWO_VIEWS:
            raise ConfigError(
                f"train.second_augment: {self.second_augment} given, auto expected with train.objective: "
                f"{self.objective}, which sees one view of an image ({', '.join(TWO_VIEWS)} see two)"
            )
        if self.objective in TWO_VIEWS:
            if self.rule in ("reweight", "drw"):
                raise ConfigError(
                    f"train.rule: {self.rule} given, none or resample expected with train.objective: {self.objective}, "
                    "which weighs the classes itself"
                )
            if self.mix != "none":
                raise ConfigError(
                    f"train.mix: {self.mix} given, none expected with train.objective: {self.objective}, which decides "
                    "itself what it mixes"
                )
        if self.objective == "fsgl" and self.head == "cosine" and self.fsgl.gamma > 0:
            raise ConfigError(
                "train.head: cosine given, linear (or auto) expected with train.objective: fsgl, whose scaling of "
                "features a cosine head does not see"
            )
        if self.rule == "drw" and self.drw_epoch != "auto" and self.drw_epoch >= self.epochs:
            raise ConfigError(
                f"train.drw_epoch: {self.drw_epoch} given, below train.epochs: {self.epochs} expected with train.rule: "
                "drw, whose weights would never count"
            )
        if self.rule == "resample" and self.sampler != "instance":
            raise ConfigError(
                f"train.sampler: {self.sampler} given, instance expected with train.rule: resample, which draws itself"
            )


@dataclass(frozen=True, kw_only=True)
class Joint:
    """The stage-1 head as it is: nothing to set."""


@dataclass(frozen=True, kw_only=True)
class NCM:
    """Nearest class mean."""

    feature: Literal["un", "l2n", "cl2n"] = "cl2n"
    distance: Literal["l2", "cos", "true_cosine"] = "l2"


@dataclass(frozen=True, kw_only=True)
class Tau:
    """tau-normalisation; ``value: auto`` selects tau on ``select_on``."""

    value: float | Auto = _range(0, 10, default="auto")
    grid_max: float = _range(0, 10, default=2.0)
    grid_step: float = _range(above=0, high=10, default=0.1)
    select_on: Literal["val", "test"] = "val"


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """cRT and LWS: class-aware sampling on cached features, or online on augmented images."""

    mode: Literal["cached", "online"] = "cached"
    bn_mode: Literal["train", "eval"] = "eval"
    epochs: int = _range(1, default=10)
    batch_size: int = _range(1, default=64)
    lr: float = _range(above=0, default=0.2)
    momentum: float = _range(0, 1, default=0.9)
    weight_decay: float = _range(0, default=5e-4)
    samples_per_class: int = _range(1, default=4)
    select: Literal["last", "best_val"] = "last"


@dataclass(frozen=True, kw_only=True)
class LogitAdjustment:
    """The stage-1 head less ``adjustment`` times the log prior."""

    adjustment: float = _range(0, 10, default=1.0)


@dataclass(frozen=True, kw_only=True)
class Dlsa:
    """DLSA: ``auto`` leaves a choice to the preset; ``longtail.methods.dlsa.settings`` explains each."""

    preset: Literal[
        "small",
        "latent",
        "imagenet_lt_paco",
        "imagenet_lt_paco_cbs",
        "imagenet_lt_paco_m2m",
        "imagenet_lt_paco_cos",
        "imagenet_lt_ce",
        "imagenet_lt_cbs",
        "places_lt_paco",
        "places_lt_ce",
        "places_lt_ce_cos",
        "inaturalist18_paco",
    ] = "small"
    depth: int | Auto = _range(0, 100, default="auto")
    proportion: float | Auto = _range(above=0, high=1, default="auto")
    routing: Literal["density", "random"] | Auto = "auto"
    standardize: bool | Auto = "auto"
    flow_epochs: int | Auto = _range(1, default="auto")
    flow_batch_size: int | Auto = _range(2, default="auto")
    flow_lr: float | Auto = _range(above=0, default="auto")
    blocks: int | Auto = _range(1, 100, default="auto")
    hidden_layers: int | Auto = _range(0, 100, default="auto")
    log_scale_limit: float | Auto = _range(0, default="auto")
    clusters: int | Auto = _range(1, default="auto")
    centre_std: float | Auto = _range(above=0, default="auto")
    q: float | Auto = _range(0, 10, default="auto")
    likelihood_weight: float | Auto = _range(0, default="auto")
    balance_weight: float | Auto = _range(0, default="auto")
    purity_weight: float | Auto = _range(0, default="auto")
    balance_momentum: float | Auto = _range(0, 0.999999, default="auto")
    flow_select: Literal["held_out", "purity", "last"] | Auto = "auto"
    patience: int | Auto = _range(1, default="auto")
    heads: Literal["separate", "shared"] | Auto = "auto"
    classifier: Literal["linear", "cosine"] | Auto = "auto"
    loss: Literal["bsm", "ce"] | Auto = "auto"
    loss_counts: Literal["stage", "all"] | Auto = "auto"
    sampler: Literal["shuffle", "class_aware"] | Auto = "auto"
    cluster_prior: Literal["frequency", "balanced"] | Auto = "auto"
    z: Literal["features", "latent", "none"] | Auto = "auto"
    warm_start: bool | Auto = "auto"
    second_branch: Literal["zero", "random"] | Auto = "auto"
    epochs: int | Auto = _range(0, default="auto")
    batch_size: int | Auto = _range(1, default="auto")
    lr: float | Auto = _range(above=0, default="auto")
    eval_every: int | Auto = _range(1, default="auto")
    select_on: Literal["val", "test", "last"] | Auto = "auto"


@dataclass(frozen=True, kw_only=True)
class Ipdpp(Training):
    """Finetuning on a subset drawn by IP-DPP, beside the same on a uniform one."""

    group: ClassVar[str] = "ipdpp"

    sampler: Literal["ipdpp", "uniform_official", "feature_kdpp"] = "ipdpp"
    scale: Literal["n", "n2"] = "n"
    k: int | str = _range(1, default="10*n_min")
    reselect_every: int = _range(1, default=10)
    p_source: Literal["auto", "head", "model"] = "auto"
    beta: float = _range(0, 100, default=0.0)
    epsilon: float = _range(above=0, default=1e-3)
    ridge: float = _range(0, default=1e-3)
    freeze: Literal["none", "encoder"] = "none"
    bn_mode: Literal["train", "eval"] = "train"
    batch_size: int = _range(1, default=16)
    select: Literal["last", "best_val"] = "last"

    def check(self) -> None:
        super().check()
        if isinstance(self.k, str) and not re.fullmatch(r"[1-9]\d* ?\* ?n_min", self.k):
            raise ConfigError(
                f"ipdpp.k: {self.k!r} given, a whole number of images or a multiple like 10*n_min expected"
            )


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and how to compute. No stage depends on it: it changes results by rounding at most."""

    device: str = "auto"
    threads: int = _range(1, 1024, default=1)
    workers: int = _range(0, 1024, default=2)
    compile: bool = False
    progress: Literal["auto", "bar", "lines", "off"] = "auto"
    checkpoint_every: int = _range(1, default=5)

    def check(self) -> None:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"runtime.device: {self.device!r} is not allowed; use auto, cpu, cuda or cuda:N")


@dataclass(frozen=True, kw_only=True)
class Params:
    """All of params.yaml: the protocol at the top level, one group a stage or method."""

    dataset: Literal["digits", "cifar10", "cifar100", "image_folder", "file_lists"] = "digits"
    data_root: str | None = None
    lists: Lists = field(default_factory=Lists)
    image_size: int | Auto = _range(4, 4096, default="auto")
    storage: Literal["auto", "memory", "paths"] = "auto"
    normalize: Literal["auto", "none", "dataset", "cifar", "imagenet", "inaturalist"] = "auto"
    relabel: bool = False
    imb_type: Literal["exp", "step", "natural"] = "exp"
    imb_factor: float = _range(1, 1e6, default=100)
    val_per_class: int = _range(0, default=10)
    split_seed: int = _range(0, 2**32 - 1, default=0)
    seed: int = _range(0, 2**63 - 1, default=0)
    shots: Shots = field(default_factory=Shots)
    pretrain: Pretrain = field(default_factory=Pretrain)
    train: Train = field(default_factory=Train)
    joint: Joint = field(default_factory=Joint)
    ncm: NCM = field(default_factory=NCM)
    crt: HeadTraining = field(default_factory=HeadTraining)
    tau: Tau = field(default_factory=Tau)
    lws: HeadTraining = field(default_factory=lambda: HeadTraining(epochs=5))
    logit_adjustment: LogitAdjustment = field(default_factory=LogitAdjustment)
    dlsa: Dlsa = field(default_factory=Dlsa)
    ipdpp: Ipdpp = field(default_factory=Ipdpp)
    runtime: Runtime = field(default_factory=Runtime)

    def check(self) -> None:
        if self.dataset in ("image_folder", "file_lists") and self.data_root is None:
            raise ConfigError(f"data_root: not given; dataset: {self.dataset} needs the folder that holds the images")
        if self.dataset == "file_lists" and (self.lists.train is None or self.lists.test is None):
            raise ConfigError("lists.train and lists.test: dataset: file_lists needs both (lists.val is optional)")


class _Yaml12Loader(yaml.SafeLoader):
    """Safe YAML with the numbers and booleans of YAML 1.2 (``1e-4`` is one, ``off`` is text); no duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise ConfigError(f"{key}: given as a key (line {key_node.start_mark.line + 1}); keys are words")
            if key in seen:
                raise ConfigError(f"{key}: given twice (line {key_node.start_mark.line + 1}); keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Yaml12Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("float", "int", "bool")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Yaml12Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """YAML as params.yaml is read."""
    return yaml.load(text, Loader=_Yaml12Loader)  # noqa: S506 - a SafeLoader


def load_params(path: str | Path) -> Params:
    """Read and check a params.yaml.

    Raises:
        ConfigError: names the key, what was given and what is allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} is missing: run from the top of the repository")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, expected keys and values")
    return bind(Params, content)


def bind(kind: type[T], content: dict[str, Any], prefix: str = "") -> T:
    """Build the dataclass ``kind`` from ``content``, strictly; keys left out keep their defaults."""
    hints = typing.get_type_hints(kind)
    fields = {spec.name: spec for spec in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in content:
        if key not in fields:
            raise ConfigError(_unknown(f"{prefix}{key}", str(key), list(fields)))
    values = {}
    for name, value in content.items():
        where = f"{prefix}{name}"
        values[name] = _convert(hints[name], value, where)
        _check_range(fields[name].metadata, values[name], where)
    bound = kind(**values)
    if hasattr(bound, "check"):
        bound.check()
    return bound


def _unknown(where: str, key: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f" (did you mean {where.removesuffix(key)}{close[0]}?)" if close else ""
    return f"{where}: unknown key{hint}; allowed here: {', '.join(allowed) or 'nothing'}"


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {value!r} given, a group of keys expected")
        return bind(typing.cast(type, hint), value, f"{where}.")
    for option in typing.get_args(hint) if _is_union(hint) else (hint,):
        accepted, converted = _accept(option, value)
        if accepted:
            return converted
    hinted = f" ({_imbalance_hint(value)})" if where == "imb_factor" else ""
    raise ConfigError(f"{where}: {value!r} given, {_describe(hint)} expected{hinted}")


def _accept(option: Any, value: Any) -> tuple[bool, Any]:
    if typing.get_origin(option) is Literal:
        return value in typing.get_args(option) and not isinstance(value, bool), value
    if typing.get_origin(option) is list:
        (inner,) = typing.get_args(option)
        if not isinstance(value, list):
            return False, value
        items = [_accept(inner, item) for item in value]
        return all(accepted for accepted, _ in items), [item for _, item in items]
    if option is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
        return number, float(value) if number else value
    if option is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return whole and not isinstance(value, bool), int(value) if whole else value
    return isinstance(value, option), value


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _describe(hint: Any) -> str:
    if _is_union(hint):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        options = [str(option) for option in typing.get_args(hint)]
        return options[0] if len(options) == 1 else f"one of {', '.join(options)}"
    if typing.get_origin(hint) is list:
        return f"a list, each of it {_describe(typing.get_args(hint)[0])}"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "null"}
    return names[hint]


def _check_range(limits: Any, value: Any, where: str) -> None:
    if not limits or isinstance(value, str):
        return
    low, high, above = limits["low"], limits["high"], limits["above"]
    if (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above):
        return
    bounds = (("at least", low), ("above", above), ("at most", high))
    allowed = " and ".join(f"{word} {_short(bound)}" for word, bound in bounds if bound is not None)
    hinted = f" ({_imbalance_hint(value)})" if where == "imb_factor" else ""
    raise ConfigError(f"{where}: {_short(value)} given, {allowed} expected{hinted}")


def _short(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _imbalance_hint(value: Any) -> str:
    meaning = "imb_factor is n_max / n_min, the largest class over the smallest"
    if isinstance(value, float) and 0 < value < 1:
        return f"{meaning}; papers that write {value:g} for n_min / n_max mean imb_factor: {1 / value:g}"
    return meaning
