"""The settings of DLSA: what is computed for given data by default, and the published configurations.

Every field may be ``auto``; then the preset decides, and the preset ``small`` decides by the size of the data.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any, ClassVar, Literal, get_type_hints

from longtail.core.params import Auto, Group, key, not_with, refuse

ALL_DIMS, SMALL_DIMS = 256, 128  # of preset small: flows of wider features see 128 principal components
SMALL_RATE, SMALL_EPOCHS = 0.25, 50  # of heads that start from the base head; higher rates drive them apart
GIVEN_RATE = 4.0  # of heads that start from another one, which have further to go


@dataclass(frozen=True, kw_only=True)
class Settings(Group):
    """Every choice of DLSA. The defaults are the released ones."""

    path: ClassVar[str] = "dlsa"

    depth: int = key(
        1, "number of flow filters; 0 is the control", low=0, high=100, published="`small` 1; papers 1 or 3"
    )
    proportion: float = key(
        0.3,
        "share of a level's training rows that its filter keeps; 1 keeps every row, so nothing is routed",
        above=0,
        high=1,
        published="0.3",
        unused=not_with(depth=0),
    )
    routing: Literal["density", "random"] = key(
        "density",
        "`random`: rows are routed at random in the same shares, as a control",
        published="density",
        unused=not_with(depth=0),
    )
    standardize: bool = key(
        False,
        "whether features are scaled to mean 0 and variance 1, before the flow and for the heads",
        published="`small` true; papers false",
    )
    flow_dims: int | Literal["all"] = key(
        "all",
        "input of a flow: `all` features, or this number of principal components, scaled to variance 1. A flow takes "
        "time in proportion to the square of this number",
        low=2,
        published="`small` all up to d = 256, 128 above; papers all",
        unused=not_with(depth=0),
    )
    flow_epochs: int = key(
        50,
        "epochs of a flow, which trains by SGD without momentum at a constant rate",
        low=1,
        published="`small` 50; papers 30 to 60",
        unused=not_with(depth=0),
    )
    flow_batch_size: int = key(
        1024,
        "pairs per step of a flow",
        low=2,
        published="`small` min(1024, N/8); papers 512 or 1024",
        unused=not_with(depth=0),
    )
    flow_lr: float = key(0.2, "learning rate of a flow", above=0, published="0.2", unused=not_with(depth=0))
    blocks: int = key(2, "blocks of the flow", low=1, high=100, published="2", unused=not_with(depth=0))
    hidden_layers: int = key(1, "hidden layers per block", low=0, high=100, published="1", unused=not_with(depth=0))
    log_scale_limit: float = key(
        0.0,
        "limit c: the log-scale a becomes c tanh(a/c); 0: unbounded, as released",
        low=0,
        published="`small` 5; papers 0",
        unused=not_with(depth=0),
    )
    clusters: int = key(
        500, "number K of fixed centers", low=1, published="`small` min(C, N/20); papers 500", unused=not_with(depth=0)
    )
    center_std: float = key(
        0.05,
        "standard deviation of the centers; `small` keeps the cluster posterior as sharp as at d = 2048",
        above=0,
        published="`small` 0.05 sqrt(2048/d); papers 0.05",
        unused=not_with(depth=0),
    )
    q: float = key(
        2.0,
        "weights the likelihood of a row by (n_max/n_c)^q",
        low=0,
        high=10,
        published="`small` 1; papers 2",
        unused=not_with(depth=0),
    )
    likelihood_weight: float = key(
        2.0,
        "weight of the likelihood loss; `small` keeps its ratio to the other losses as at (d, C) = (2048, 1000)",
        low=0,
        published="`small` 4.096 C/d; papers 1 or 2",
        unused=not_with(depth=0),
    )
    balance_weight: float = key(
        1.0, "weight of the balance loss", low=0, published="`small` 1; papers 1 or 2", unused=not_with(depth=0)
    )
    purity_weight: float = key(
        0.02,
        "weight of the purity loss",
        low=0,
        published="`small` 0.02; papers 0.02 or 0.03",
        unused=not_with(depth=0),
    )
    balance_momentum: float = key(
        0.7,
        "momentum of the running mean posterior",
        low=0,
        below=1,
        published="0.7",
        unused=not_with(depth=0, balance_weight=0),
    )
    flow_select: Literal["held_out", "purity", "last"] = key(
        "purity",
        "epoch kept: `held_out` (by the log-likelihood of held-out rows, which also stops the training), `purity` "
        "(the released count of pure clusters), or `last`",
        published="`small` held_out; papers purity",
        unused=not_with(depth=0),
    )
    patience: int = key(
        5,
        "epochs that a group's held-out log-likelihood may go without a new best",
        low=1,
        published="5",
        unused=not_with(depth=0, flow_select=("purity", "last")),
    )
    heads: Literal["separate", "shared"] = key(
        "separate",
        "one head per route, or one `shared` first branch for all routes with a correction per route",
        published="separate",
        unused=not_with(depth=0),
    )
    classifier: Literal["linear", "cosine"] = key(
        "linear", "kind of the branches of a head", published="`small` linear; papers linear, cosine"
    )
    loss: Literal["bsm", "ce"] = key(
        "bsm", "`bsm`: balanced softmax; `ce`: cross-entropy", published="`small` bsm; papers bsm, ce"
    )
    loss_counts: Literal["stage", "all"] = key(
        "stage",
        "class counts of the balanced softmax of a cluster-aided classifier: of `all` rows, or of the rows of its "
        "own level (`stage`). The regular classifier always takes all",
        published="`small` all; papers stage",
        unused=not_with(depth=0, loss="ce"),
    )
    sampler: Literal["shuffle", "class_aware"] = key(
        "shuffle", "how the heads draw rows", published="`small` shuffle; papers shuffle, class_aware"
    )
    cluster_prior: Literal["frequency", "balanced"] = key(
        "frequency",
        "class shares of a cluster's rows; `balanced`: all classes have equal weight",
        published="frequency",
        unused=not_with(depth=0),
    )
    z: Literal["features", "latent", "none"] = key(
        "features",
        "input of the second branch beside the cluster prior: `features` (as released), `latent` (as in the paper's "
        "figure), or `none`",
        published="features",
    )
    warm_start: bool = key(
        False, "whether the first branch starts from a trained head", published="`small` true; papers PaCo true"
    )
    start: Literal["given", "base"] = key(
        "given",
        "head of warm starts: the stage-1 head (`given`), or the base head with a uniform prior, a regularized "
        "softmax regression on the features. A base head that is `given` gets a uniform prior with `loss: bsm`",
        published="`small` base; papers given",
        unused=not_with(warm_start=False),
    )
    second_branch: Literal["zero", "random"] = key(
        "random", "initial weights of the second branch", published="`small` zero; papers random"
    )
    epochs: int = key(
        150,
        "epochs of a head, which trains by SGD without momentum at a constant rate",
        low=0,
        published="`small` 50 from the base head, else 150; papers 150",
    )
    batch_size: int = key(128, "rows per step of a head", low=1, published="128")
    lr: float = key(
        1e-2,
        "learning rate of the heads. `small`: for standardized features and a start from the base head; 4 / d from "
        "another",
        above=0,
        published="`small` 0.25 / d; papers 1e-2 or 1e-4",
    )
    eval_every: int = key(
        5, "epochs between checks of a head", low=1, published="`small` 1 from the base head, else 5; papers 5"
    )
    select_on: Literal["val", "test", "last"] = key(
        "val",
        "rows that choose the epoch: the first with the best mean class accuracy, the start included. `test` is only "
        "for replication and marks the result",
        published="val",
    )

    def flow_width(self, width: int) -> int:
        """Inputs of a flow on ``width`` features."""
        return width if self.flow_dims == "all" else min(width, self.flow_dims)

    def check(self) -> None:
        if self.classifier == "cosine":
            self.require(
                "second_branch",
                self.second_branch != "zero",
                "random with dlsa.classifier: cosine, whose weights count by direction only",
            )


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


def _or_auto() -> list[tuple[str, Any, Any]]:
    """Every key of :class:`Settings`, which may also be ``auto``."""
    hints = get_type_hints(Settings)
    return [
        (spec.name, hints[spec.name] | Auto, field(default="auto", metadata=spec.metadata)) for spec in fields(Settings)
    ]


def _check_contradictions(params: Any) -> None:
    given = {
        name: value for name, value in vars(params).items() if name not in ("enabled", "preset") and value != "auto"
    }
    base = Settings(**PUBLISHED.get(params.preset, {}))
    if given.get("classifier", base.classifier) == "cosine":
        params.require(
            "second_branch",
            given.get("second_branch") != "zero",
            "random with dlsa.classifier: cosine, whose weights count by direction only",
        )


DlsaParams: Any = make_dataclass(
    "DlsaParams",
    [
        (
            "enabled",
            bool,
            key(True, "false: no DLSA and no rows of it in the table; the other keys may stay as they are"),
        ),
        (
            "preset",
            str,
            key(
                "small",
                "`small` (settings by the size of the data), `latent` (without routing), or a published "
                "configuration; it "
                "decides every key that is `auto`",
                choices=lambda: PRESETS,
            ),
        ),
        *_or_auto(),
    ],
    bases=(Group,),
    namespace={
        "__module__": __name__,
        "path": "dlsa",
        "check": _check_contradictions,
        "__doc__": "DLSA: the preset decides what is `auto`.",
    },
    frozen=True,
    kw_only=True,
)


def starts_from_given(preset: str, start: str) -> bool:
    """Whether warm starts begin from the stage-1 head with these values of ``preset`` and ``start``."""
    return start == "given" if start != "auto" else preset in PUBLISHED


def small(rows: int, width: int, num_classes: int) -> Settings:
    """The choice for splits of thousands of rows: N rows, C classes, and flows of ``width`` inputs.

    The center spread keeps the posterior as sharp as the official one is at d = 2048, and the likelihood weight keeps
    that loss, which grows with d and shrinks with C, as large beside the others as at (2048, 1000). ``loss_counts`` is
    ``all``: a route is a function of the features, so by Bayes' rule the correction for the training counts does not
    depend on it. ``resolve`` adds ``flow_dims`` and the rate and epochs of the heads.
    """
    return Settings(
        standardize=True,
        flow_batch_size=max(2, min(1024, rows // 8)),
        log_scale_limit=5.0,
        clusters=max(2, min(num_classes, rows // 20)),
        center_std=0.05 * math.sqrt(2048 / width),
        q=1.0,
        likelihood_weight=2.0 * (2048 / width) * (num_classes / 1000),
        flow_select="held_out",
        loss_counts="all",
        warm_start=True,
        start="base",
        second_branch="zero",
    )


def resolve(
    preset: str,
    given: Mapping[str, Any],
    rows: int,
    width: int,
    num_classes: int,
    mean_square: float,
    unit_input: bool = False,
) -> Settings:
    """The preset's settings for data of this size, under the values given; ``auto`` means not given.

    ``small`` and ``latent`` depend on the size; ``latent`` is ``small`` without routing: one head sees the features,
    the flow's latent and a balanced cluster prior.

    Their heads that start from the base head, which is already balanced and regularized, are trained gently: 50 epochs
    at the rate 0.25 / |x|^2. Others get 150 epochs at 4 / |x|^2, which is within a factor of two of the largest rate at
    which SGD on a softmax loss is stable. |x|^2 is d for standardized features, else ``mean_square``; ``unit_input``
    says that the heads see rows of norm 1, which are not standardized.

    Raises:
        ConfigError: names the setting, its value and what is allowed.
    """
    if preset not in PRESETS:
        raise refuse("dlsa.preset", f"one of {', '.join(PRESETS)}", preset)
    chosen = {name: value for name, value in given.items() if not (isinstance(value, str) and value == "auto")}
    base = Settings(**PUBLISHED.get(preset, {}))
    if preset not in PUBLISHED:
        dims: int | Literal["all"] = "all" if width <= ALL_DIMS else SMALL_DIMS
        wanted = Settings(flow_dims=chosen.get("flow_dims", dims))
        base = replace(small(rows, wanted.flow_width(width), num_classes), flow_dims=dims)
    if preset == "latent":
        base = replace(base, proportion=1.0, heads="shared", z="latent", cluster_prior="balanced")
    cosine = chosen.get("classifier", base.classifier) == "cosine"
    settings = replace(base, **({"second_branch": "random"} if cosine else {}) | chosen)
    if preset in PUBLISHED:
        return settings
    gentle = settings.warm_start and settings.start == "base"
    square = width if settings.standardize and not unit_input else mean_square
    rate = (SMALL_RATE if gentle else GIVEN_RATE) / max(square, 1e-12)
    of_heads: dict[str, Any] = {"lr": min(10.0, rate)} | ({"epochs": SMALL_EPOCHS, "eval_every": 1} if gentle else {})
    return replace(settings, **{name: value for name, value in of_heads.items() if name not in chosen})
