"""All of params.yaml: which group declares which key, and the check of the whole file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from longtail.augment.params import NormalizeParams
from longtail.core.errors import ConfigError
from longtail.core.params import Group, bind, check_given, defaults_of, keys_of, refuse, show, unknown_key
from longtail.core.registry import Registry
from longtail.core.seeds import SeedParams
from longtail.data.params import DatasetParams, SimilarParams, SplitParams
from longtail.data.sources import SOURCES
from longtail.evaluation.shots import Shots
from longtail.methods.heads import HEADS
from longtail.methods.implementation import bind_own, own_groups
from longtail.methods.objectives import OBJECTIVES
from longtail.methods.objectives.params import TrainParams
from longtail.methods.pretraining import METHODS as PRETRAINING
from longtail.methods.pretraining import WEIGHTS
from longtail.methods.pretraining.params import PretrainParams
from longtail.methods.stage_methods import STAGE_METHODS
from longtail.models.names import OWN_NAMES, STEM_DEPTHS, TIMM_BUILT
from longtail.train.params import RuntimeParams

TOP_LEVEL: tuple[type[Group], ...] = (DatasetParams, NormalizeParams, SplitParams, SeedParams)
NAMED: tuple[type[Group], ...] = (SimilarParams, Shots, PretrainParams, TrainParams, RuntimeParams)
# Groups that hold one further group per registered method with parameters of its own.
EXTENDED: dict[str, Registry[Any]] = {"pretrain": PRETRAINING, "train": OBJECTIVES}


def method_groups() -> dict[str, type[Group]]:
    """The group of each head and each method with a stage of its own, by name."""
    return {name: entry.params for registry in (HEADS, STAGE_METHODS) for name, entry in registry.entries().items()}


def groups() -> dict[str, type[Group]]:
    """All named groups, in the order of params.yaml."""
    *before, runtime = ((kind.path, kind) for kind in NAMED)
    return dict(before) | method_groups() | dict([runtime])


@dataclass(frozen=True)
class Params:
    """A checked params.yaml.

    Attributes:
        bound: every group, by its class for the top level, otherwise by its name.
        own: the parameters of the chosen objective (``train``) and pretraining method (``pretrain``), or None.
    """

    bound: dict[Any, Group]
    own: dict[str, Group | None]


def defaults() -> dict[str, Any]:
    """Defaults of all keys as nested mappings, in the order of params.yaml."""
    content: dict[str, Any] = {}
    for kind in TOP_LEVEL:
        content |= defaults_of(kind)
    for name, kind in groups().items():
        content[name] = defaults_of(kind)
        if name in EXTENDED:
            registry = EXTENDED[name]
            content[name] |= {own: defaults_of(registry.get(own).params) for own in own_groups(registry)}
    return content


def check_params(content: Mapping[str, Any]) -> Params:
    """Bind and check all of params.yaml.

    Raises:
        ConfigError: names the key, what is expected and what was given.
    """
    named = groups()
    top = {name for kind in TOP_LEVEL for name in keys_of(kind)}
    for name in content:
        if name not in top and name not in named:
            raise unknown_key(show(name), show(name), [*top, *named])
    bound: dict[Any, Group] = {}
    own: dict[str, Group | None] = {}
    for kind in TOP_LEVEL:
        bound[kind] = bind(kind, {name: value for name, value in content.items() if name in keys_of(kind)})
        check_given(bound[kind])
    for name, kind in named.items():
        given = content.get(name, {})
        bound[name] = bind(kind, given, own_groups(EXTENDED[name]) if name in EXTENDED else ())
        check_given(bound[name])
        if name in EXTENDED:
            own[name] = _check_own(name, bound[name], given)
    params = Params(bound, own)
    _check_together(params)
    return params


def _check_own(name: str, owner: Group, given: Mapping[str, Any]) -> Group | None:
    """Check the groups of all methods in ``train`` or ``pretrain``. Those of methods not chosen must be unset."""
    registry, selector = EXTENDED[name], {"pretrain": "method", "train": "objective"}[name]
    chosen = getattr(owner, selector)
    for other in own_groups(registry):
        group = bind_own(registry, other, name, given)
        assert group is not None
        if other != chosen:
            check_unset(group, f"{name}.{selector}: {chosen}")
        check_given(group)
    return bind_own(registry, chosen, name, given) if chosen in registry else None


def check_unset(group: Group, reason: str, names: Iterable[str] | None = None) -> None:
    """Refuse keys of a group, all or the given ones, that differ from their default although they have no effect.

    Raises:
        ConfigError: names the key, its default, and ``reason``.
    """
    default = type(group)()
    for name in names or keys_of(type(group)):
        if getattr(group, name) != getattr(default, name):
            raise refuse(
                group.full_name(name),
                f"{show(getattr(default, name))}, its default, since it has no effect with {reason}",
                getattr(group, name),
            )


def _check_together(params: Params) -> None:
    """Refuse contradictions between groups that would otherwise end a run hours later."""
    dataset, split, train = params.bound[DatasetParams], params.bound[SplitParams], params.bound["train"]
    assert isinstance(dataset, DatasetParams) and isinstance(split, SplitParams) and isinstance(train, TrainParams)
    source = SOURCES.get(dataset.dataset)
    if not source.has_images:
        _check_without_images(params, f"dataset: {dataset.dataset}, which has no images")
    if not source.may_be_unsplit:
        check_unset(split, f"dataset: {dataset.dataset}, whose test part is fixed", ["test_share"])
    has_val = source.has_val(dataset)
    if has_val and split.val_per_class != 0:  # 0 says that none are drawn, which is so
        check_unset(split, f"dataset: {dataset.dataset}, which has a val part of its own", ["val_per_class"])
    if split.val_per_class == 0 and has_val is False:
        for name, group in params.bound.items():
            if getattr(group, "select", None) == "best_val" and getattr(group, "enabled", True):
                raise ConfigError(
                    f"{name}.select must be last, got best_val: there are no validation images with val_per_class: 0"
                )
    if SOURCES.get(dataset.dataset).image_shape is not None:
        check_unset(params.bound[NormalizeParams], f"dataset: {dataset.dataset}, whose images are in memory", ["crop"])
    pretrain = params.bound["pretrain"]
    assert isinstance(pretrain, PretrainParams)
    if pretrain.method == WEIGHTS and pretrain.file is None and train.backbone in (*OWN_NAMES, *TIMM_BUILT):
        remark = f"timm:{train.backbone} is timm's network" if train.backbone in STEM_DEPTHS else ""
        expected = f"a file with train.backbone: {train.backbone}, which timm does not publish"
        raise refuse("pretrain.weights", expected, pretrain.weights, remark)
    if source.has_images:
        own_head = "pretrain.head: file" if pretrain.head == "file" else "" if train.frozen else "train.frozen: false"
        if pretrain.head == "file":
            check_unset(train, "pretrain.head: file, which is kept", ["views"])
        if own_head:
            check_unset(params.bound["joint"], f"{own_head}, where the head is not fitted on features")
    entry, own = train.entry, params.own["train"]
    if entry.check is not None:
        entry.check(train, own)


def _check_without_images(params: Params, reason: str) -> None:
    """Refuse what a dataset without images ignores. Other keys of a method that is switched off may stay."""
    check_unset(params.bound[NormalizeParams], reason)
    check_unset(params.bound["similar"], reason)
    for name in ("pretrain", "train", *STAGE_METHODS.names()):
        needs_images = name not in STAGE_METHODS or STAGE_METHODS.get(name).needs_images
        if needs_images and getattr(params.bound[name], "enabled", True):
            check_unset(params.bound[name], reason)
    for name in HEADS.names():
        if getattr(params.bound[name], "mode", "cached") == "online":
            raise refuse(f"{name}.mode", f"cached with {reason}", "online")
