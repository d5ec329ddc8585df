"""The settings of DLSA: what is computed for given data by default, and the published configurations.

Every field may be ``auto``; then the preset decides, and the preset ``small`` decides by the size of the data.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from longtail.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every choice made.

    Attributes:
        depth: number of flow filters; 0 is the control, one head for all rows.
        proportion: share of a stage's training rows that its filter keeps; 1 keeps every row, so nothing is routed.
        routing: ``density``, or ``random`` with the same shares (a control).
        standardize: features to zero mean and unit variance before the flow.
        flow_epochs, flow_batch_size, flow_lr: SGD without momentum at a constant rate.
        blocks, hidden_layers, log_scale_limit: of the flow; 0 leaves the log-scale unbounded, as released.
        clusters, centre_std: number and spread of the fixed centres.
        q: exponent of the class weights.
        likelihood_weight, balance_weight, purity_weight: of the three losses.
        balance_momentum: of the running mean posterior.
        flow_select: the epoch kept: ``held_out`` (log-likelihood of held-out rows, which also stops the training),
            ``purity`` (the released count of pure clusters), or ``last``.
        patience: epochs that a group's held-out log-likelihood may go without a new best.
        heads: ``separate``, one for each route, or ``shared``, one for all with a correction for each route.
        classifier, loss, sampler: ``linear | cosine``, ``bsm | ce``, ``shuffle | class_aware``.
        loss_counts: class counts of the balanced softmax: ``all`` rows, or those of the head's own ``stage`` (as
            released; the regular classifier always takes all).
        cluster_prior: class shares of a cluster's rows by ``frequency``, or ``balanced``: classes weigh the same.
        z: what the second branch sees beside the cluster prior: ``features``, ``latent`` or ``none``.
        warm_start: the first branch starts from the given head.
        second_branch: starts at ``zero`` or ``random``.
        epochs, batch_size, lr: of the heads; SGD without momentum at a constant rate.
        eval_every, select_on: epochs between checks, and the rows that choose the epoch: ``val``, ``test`` or ``last``.
    """

    depth: int = 1
    proportion: float = 0.3
    routing: Literal["density", "random"] = "density"
    standardize: bool = False
    flow_epochs: int = 50
    flow_batch_size: int = 1024
    flow_lr: float = 0.2
    blocks: int = 2
    hidden_layers: int = 1
    log_scale_limit: float = 0.0
    clusters: int = 500
    centre_std: float = 0.05
    q: float = 2.0
    likelihood_weight: float = 2.0
    balance_weight: float = 1.0
    purity_weight: float = 0.02
    balance_momentum: float = 0.7
    flow_select: Literal["held_out", "purity", "last"] = "purity"
    patience: int = 5
    heads: Literal["separate", "shared"] = "separate"
    classifier: Literal["linear", "cosine"] = "linear"
    loss: Literal["bsm", "ce"] = "bsm"
    sampler: Literal["shuffle", "class_aware"] = "shuffle"
    loss_counts: Literal["stage", "all"] = "stage"
    cluster_prior: Literal["frequency", "balanced"] = "frequency"
    z: Literal["features", "latent", "none"] = "features"
    warm_start: bool = False
    second_branch: Literal["zero", "random"] = "random"
    epochs: int = 150
    batch_size: int = 128
    lr: float = 1e-2
    eval_every: int = 5
    select_on: Literal["val", "test", "last"] = "val"


_PACO = {"depth": 3, "warm_start": True, "lr": 1e-4}
_PLACES = {"flow_batch_size": 512, "flow_epochs": 60, "likelihood_weight": 1.0, "balance_weight": 2.0,
           "purity_weight": 0.03}  # fmt: skip
_COSINE = {"classifier": "cosine", "loss": "ce"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "imagenet_lt_paco": _PACO,
    "imagenet_lt_paco_cbs": _PACO | {"loss": "ce", "sampler": "class_aware"},
    "imagenet_lt_paco_m2m": _PACO,  # the release falls through to no resampling: the same as imagenet_lt_paco
    "imagenet_lt_paco_cos": _PACO | _COSINE | {"depth": 1},
    "imagenet_lt_ce": {},
    "imagenet_lt_cbs": {},  # the same settings on the features of a class-balanced backbone
    "places_lt_paco": _PLACES | {"warm_start": True, "lr": 1e-4},
    "places_lt_ce": _PLACES,
    "places_lt_ce_cos": _PLACES | _COSINE,
    "inaturalist18_paco": _PACO | {"flow_epochs": 30, "likelihood_weight": 1.0},
}
PRESETS = ("small", "latent", *PUBLISHED)

_ABOVE_ZERO = ("flow_lr", "lr", "centre_std", "batch_size", "flow_batch_size", "clusters", "blocks", "patience",
               "eval_every", "flow_epochs")  # fmt: skip
_AT_LEAST_ZERO = ("depth", "q", "likelihood_weight", "balance_weight", "purity_weight", "hidden_layers", "epochs",
                  "log_scale_limit")  # fmt: skip


def small(rows: int, width: int, num_classes: int) -> Settings:
    """The choice for splits of thousands of rows: N rows, d features, C classes; ``resolve`` adds the heads' rate.

    The centre spread keeps the posterior as sharp as the official one is at d = 2048, and the likelihood weight keeps
    that loss, which grows with d and shrinks with C, as large beside the others as at (2048, 1000). ``loss_counts`` is
    ``all``: a route is a function of the features, so by Bayes' rule the correction for the training counts does not
    depend on it.
    """
    return Settings(
        standardize=True,
        flow_batch_size=max(2, min(1024, rows // 8)),
        log_scale_limit=5.0,
        clusters=max(2, min(num_classes, rows // 20)),
        centre_std=0.05 * math.sqrt(2048 / width),
        q=1.0,
        likelihood_weight=2.0 * (2048 / width) * (num_classes / 1000),
        flow_select="held_out",
        loss_counts="all",
        warm_start=True,
        second_branch="zero",
    )


def resolve(
    preset: str, given: Mapping[str, Any], rows: int, width: int, num_classes: int, mean_square: float
) -> Settings:
    """The preset's settings for data of this size, under the values given; ``auto`` means not given.

    ``small`` and ``latent`` depend on the size; ``latent`` is ``small`` without routing: one head sees the features,
    the flow's latent and a balanced cluster prior. Their rate of the heads is, within a factor of two, the largest at
    which SGD on a softmax loss is stable: 4 / |x|^2, with ``mean_square`` for |x|^2, or d if the latent, of unit
    variance, is longer.

    Raises:
        ConfigError: names the setting, its value and what is allowed.
    """
    if preset not in PRESETS:
        raise ConfigError(f"dlsa.preset: {preset!r} given, one of {', '.join(PRESETS)} expected")
    base = Settings(**PUBLISHED.get(preset, {}))
    if preset not in PUBLISHED:
        base = small(rows, width, num_classes)
    if preset == "latent":
        base = replace(base, proportion=1.0, heads="shared", z="latent", cluster_prior="balanced")
    chosen = {name: _plain(value) for name, value in given.items() if not (isinstance(value, str) and value == "auto")}
    settings = replace(base, **chosen)
    if preset not in PUBLISHED and "lr" not in chosen:
        longest = max(mean_square, width if settings.z == "latent" else 0, 1e-12)
        settings = replace(settings, lr=min(10.0, 4.0 / longest))
    if settings.classifier == "cosine" and "second_branch" not in chosen:
        settings = replace(settings, second_branch="random")
    _check(settings)
    return settings


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's, and whole floats as whole numbers."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check(settings: Settings) -> None:
    hints = get_type_hints(Settings)
    for spec in fields(Settings):
        value, hint = getattr(settings, spec.name), hints[spec.name]
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                raise ConfigError(f"dlsa.{spec.name}: {value!r} given, one of {', '.join(get_args(hint))} expected")
        elif isinstance(value, bool) != (hint is bool) or not isinstance(value, int | float):
            raise ConfigError(
                f"dlsa.{spec.name}: {value!r} given, {'true or false' if hint is bool else 'a number'} expected"
            )
        elif not math.isfinite(value) or (hint is int and value != int(value)):
            raise ConfigError(f"dlsa.{spec.name}: {value!r} given, a finite {'whole ' * (hint is int)}number expected")
    for name in _ABOVE_ZERO:
        if not getattr(settings, name) > 0:
            raise ConfigError(f"dlsa.{name}: {getattr(settings, name)} given, above 0 expected")
    if settings.flow_batch_size < 2:
        raise ConfigError(f"dlsa.flow_batch_size: {settings.flow_batch_size} given, at least 2 expected")
    for name in _AT_LEAST_ZERO:
        if getattr(settings, name) < 0:
            raise ConfigError(f"dlsa.{name}: {getattr(settings, name)} given, at least 0 expected")
    if not 0 < settings.proportion <= 1:
        raise ConfigError(f"dlsa.proportion: {settings.proportion} given, above 0 and at most 1 expected")
    if not 0 <= settings.balance_momentum < 1:
        raise ConfigError(f"dlsa.balance_momentum: {settings.balance_momentum} given, at least 0 and below 1 expected")
    if settings.classifier == "cosine" and settings.second_branch == "zero":
        raise ConfigError(
            "dlsa.second_branch: zero given with dlsa.classifier: cosine, "
            "whose weights count by direction alone; random expected"
        )
