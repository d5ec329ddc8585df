"""The chain of DLSA: a sequence of flow filters, each of which keeps its dense rows, and one classifier per route.

Route l of 1..L takes the rows that filter l keeps; route L+1 takes the others. The docstring of the package
explains L, N, d, C and K.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from longtail.core.head import LinearHead, unit_rows
from longtail.core.seeds import derive_seed
from longtail.methods.dlsa.classifiers import RouteHead
from longtail.methods.dlsa.filter import FlowFilter, moments, to_numpy
from longtail.methods.dlsa.flow_training import FlowHistory, Rows, can_train, frequency_groups, train_filter
from longtail.methods.dlsa.head_training import BLOCK_ROWS, RoutedRows, train_head
from longtail.methods.dlsa.routing import cluster_prior, random_scores, threshold
from longtail.methods.dlsa.settings import Settings
from longtail.methods.dlsa.start import Starts, base_head, on_standardized
from longtail.train.checkpointing import CheckpointStore

LOG = logging.getLogger(__name__)
SHARE_GAP = 0.2


@dataclass(frozen=True)
class Level:
    """A trained filter with its threshold, its cluster prior (K, C), the epoch kept and the rule that chose it."""

    filter: FlowFilter
    threshold: float
    prior: np.ndarray
    epoch: int
    rule: str
    history: FlowHistory


@dataclass(frozen=True)
class Routing:
    """The results of the flows for N rows: route (N,) int64; log_density (N, L) float; cluster (N, L) int64."""

    route: np.ndarray
    log_density: np.ndarray
    cluster: np.ndarray


@dataclass(frozen=True)
class TrainedHead:
    """A classifier, the epoch it is from, the part that chose it, and its history."""

    head: RouteHead
    epoch: int
    selected_on: str
    history: dict[str, list[float]]


@dataclass
class Chain:
    """Levels and heads.

    Attributes:
        unit_input: the first branch sees x / ||x||, as a cosine stage-1 head does.
        moments: offset and scale (d,) of the features that the heads see, or None.
        heads: route -> its classifier; several routes may share one.
    """

    settings: Settings
    num_classes: int
    seed: int
    unit_input: bool
    moments: tuple[Tensor, Tensor] | None = None
    levels: list[Level] = field(default_factory=list)
    heads: dict[int, TrainedHead] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return len(self.levels)

    def routing(self, X: Tensor) -> Routing:
        """Routes of rows X (N, d). The route of a row is independent of the batch."""
        route = np.full(len(X), self.depth + 1, dtype=np.int64)
        densities = np.empty((len(X), self.depth), to_numpy(X[:0]).dtype)
        clusters = np.empty((len(X), self.depth), np.int64)
        for number, level in reversed(list(enumerate(self.levels, start=1))):
            log_density, cluster = level.filter.measure(X)
            densities[:, number - 1], clusters[:, number - 1] = to_numpy(log_density), to_numpy(cluster)
            route[self._deciding(X, densities[:, number - 1], number) >= level.threshold] = number
        return Routing(route, densities, clusters)

    def scores(self, X: Tensor) -> np.ndarray:
        """(N, C) logits, each row from the classifier of its route."""
        rows = self.routed(X, None)
        scores = np.empty((len(X), self.num_classes), to_numpy(X[:0]).dtype)
        with torch.no_grad():
            for trained in unique_heads(self.heads):
                members = rows.rows_of(trained.head.routes)
                for block in members.split(BLOCK_ROWS):
                    scores[to_numpy(block)] = to_numpy(rows.logits(trained.head, block))
        return scores

    def routed(self, X: Tensor, y: Tensor | None) -> RoutedRows:
        """Rows X (N, d) with labels y (N,) or None, and their routes, ready for the classifiers."""
        routing, device = self.routing(X), X.device
        prior = _stacked([level.prior for level in self.levels], self.num_classes).to(X)
        prior_row = np.full(len(X), len(prior) - 1, dtype=np.int64)
        z = None
        if self.settings.z == "latent":
            z = X.new_empty(len(X), self.settings.flow_width(X.shape[1])) if self.levels else X.clone()
        start = 0
        for number, level in enumerate(self.levels, start=1):
            mine = routing.route == number
            prior_row[mine] = start + routing.cluster[mine, number - 1]
            start += len(level.prior)
            if z is not None:
                last = number == self.depth
                members = torch.from_numpy((mine | (routing.route > number)) if last else mine).to(device)
                z[members] = level.filter.latents(X[members])
        x = torch.from_numpy(unit_rows(to_numpy(X))).to(device) if self.unit_input else X
        route, prior_row_of = (torch.from_numpy(column).to(device) for column in (routing.route, prior_row))
        return RoutedRows(x, y, route, prior, prior_row_of, z, self.moments)

    def _deciding(self, X: Tensor, log_density: np.ndarray, number: int) -> np.ndarray:
        """(N,) float64, compared with the threshold of level ``number``: densities, or a control's random scores."""
        if self.settings.routing == "density":
            return log_density.astype(np.float64)
        return random_scores(to_numpy(X), derive_seed(self.seed, "random routing", number))


def fit_chain(
    parts: Mapping[str, Rows],
    starts: Starts,
    settings: Settings,
    seed: int,
    store: CheckpointStore,
    progress: str,
    name: str = "dlsa",
    held_out: np.ndarray | None = None,
) -> Chain:
    """Train filters and heads.

    Args:
        parts: ``train``, with rows of every class, and ``val`` and ``test`` if there are any. Test rows are only
            measured, unless ``settings.select_on`` is ``test``.
        starts: the heads of warm starts, which also decide for routes on which nothing can be trained. Without one, a
            head is fitted if there is such a route.
        settings: the settings of DLSA.
        seed: seed of everything.
        store: where checkpoints are kept.
        progress: mode of the report.
        name: identifier of the chain, for its checkpoints and its progress report.
        held_out: (N,) bool, training rows that the flows are measured on, like val, instead of trained on. Thresholds
            and priors use all rows. If the heads select on val and there are no val rows, their epochs are chosen by
            training on the other rows; then they are trained on all rows for as many epochs.
    """
    train = parts["train"]
    counts = np.bincount(to_numpy(train.y))
    chain = Chain(settings, len(counts), seed, starts.whole is not None and starts.whole.unit_input)
    if settings.standardize and not chain.unit_input:
        chain.moments = moments(train.x)
    kept = np.ones(len(train), dtype=bool) if held_out is None else ~held_out
    clusters: list[np.ndarray] = []
    left = {part: np.ones(len(rows), dtype=bool) for part, rows in parts.items()}
    for number in range(1, settings.depth + 1):
        followed = {part: (rows, left[part]) for part, rows in parts.items() if part != "train"}
        if held_out is not None:
            followed["val"] = (train, left["train"] & held_out)
        followed["train"] = (train, left["train"] & kept)
        remaining = {part: _subset(rows, mask) for part, (rows, mask) in followed.items() if mask.any()}
        if "train" not in remaining or not can_train(remaining["train"]):
            LOG.info(
                "%s: level %d is left with fewer than two classes, so the chain has depth %d", name, number, number - 1
            )
            break
        trained = train_filter(
            remaining,
            counts,
            settings,
            derive_seed(seed, "level", number),
            f"{name} flow {number} of {settings.depth}",
            f"{name}-flow-{number}",
            store,
            progress,
        )
        measured = {part: trained.filter.measure(rows.x) for part, rows in parts.items()}
        deciding = {
            part: chain._deciding(parts[part].x, to_numpy(log_p), number) for part, (log_p, _) in measured.items()
        }
        limit = float(threshold(deciding["train"][left["train"]], settings.proportion))
        clusters.append(to_numpy(measured["train"][1]))
        prior = _prior(clusters[-1], to_numpy(train.y), chain)
        chain.levels.append(Level(trained.filter, limit, prior, trained.epoch, trained.rule, trained.history))
        left = {part: left[part] & (deciding[part] < limit) for part in parts}

    routed = {part: chain.routed(rows.x, rows.y) for part, rows in parts.items()}
    judges = {part: rows for part, rows in routed.items() if part != "train"}
    fold = None
    if held_out is not None:
        fold = _fold(chain, routed["train"], clusters, held_out)
        judges.setdefault("val", fold[1])
    if chain.levels and "val" in judges:
        _remark_on_shares(routed["train"], judges["val"], counts, chain.depth, name)
    routes = list(range(1, chain.depth + 2))
    groups = [routes] if settings.heads == "shared" else [[route] for route in routes]
    for served in groups:
        job = _HeadJob(served, chain, store, progress, name)
        if fold is None or settings.select_on != "val" or "val" in routed:
            head = job.train(routed["train"], judges, settings, starts.whole)
        else:
            head = job.train(fold[0], {"val": fold[1]}, settings, starts.fold, "-fold")
            again = replace(settings, select_on="last", epochs=head.epoch)
            head = replace(head, head=job.train(routed["train"], {}, again, starts.whole).head)
        chain.heads |= dict.fromkeys(served, head)
    return chain


def _prior(cluster: np.ndarray, y: np.ndarray, chain: Chain) -> np.ndarray:
    balanced = chain.settings.cluster_prior == "balanced"
    return cluster_prior(cluster, y, chain.settings.clusters, chain.num_classes, balanced=balanced)


def _stacked(priors: list[np.ndarray], num_classes: int) -> Tensor:
    """The priors of all levels, and a row of zeros for the regular route."""
    return torch.from_numpy(np.concatenate([*priors, np.zeros((1, num_classes), np.float32)]))


def _fold(
    chain: Chain, train: RoutedRows, clusters: list[np.ndarray], held_out: np.ndarray
) -> tuple[RoutedRows, RoutedRows]:
    """The training rows without those held out, and the latter. Their labels are in no cluster prior of either."""
    assert train.y is not None
    y, kept = to_numpy(train.y), ~held_out
    prior = _stacked([_prior(cluster[kept], y[kept], chain) for cluster in clusters], chain.num_classes).to(train.x)
    mask = torch.from_numpy(held_out).to(train.x.device)
    return train.only(~mask, prior), train.only(mask, prior)


def unique_heads(heads: Mapping[int, TrainedHead]) -> list[TrainedHead]:
    """Each head once, by its first route."""
    return [trained for route, trained in sorted(heads.items()) if trained.head.routes[0] == route]


@dataclass(frozen=True)
class _HeadJob:
    """The training of the classifier of the routes ``served``."""

    served: list[int]
    chain: Chain
    store: CheckpointStore
    progress: str
    name: str

    def train(
        self,
        train: RoutedRows,
        judges: dict[str, RoutedRows],
        settings: Settings,
        start: LinearHead | None,
        suffix: str = "",
    ) -> TrainedHead:
        """The classifier, trained on its rows of ``train``. Without such rows it is the unchanged starting head."""
        served, chain, depth = self.served, self.chain, self.chain.depth
        seed = derive_seed(chain.seed, "head", served[0])
        assert train.y is not None
        members = train.rows_of(served)
        head = RouteHead(train.x.shape[1], chain.num_classes, served, depth, settings).to(train.x)
        warm = settings.warm_start or not len(members)
        if warm and start is None:
            start = base_head(to_numpy(train.x), to_numpy(train.y), seed=chain.seed)
        weight, bias = on_standardized(start, chain.moments) if warm and start is not None else (None, None)
        head.initialize(seed, weight, bias, settings.second_branch if len(members) else "zero")
        if not len(members):
            LOG.info("%s: no training row takes route %d, whose classifier is the starting head", self.name, served[0])
        # A cluster-aided classifier has the class counts of its own rows as prior, the regular one those of all rows.
        alone_and_aided = len(served) == 1 and served[0] <= depth and settings.loss_counts == "stage"
        counted = members if alone_and_aided else train.route > 0
        label = f"{self.name} head" if len(served) > 1 else f"{self.name} head {served[0]} of {depth + 1}"
        epoch, selected_on, history = train_head(
            head,
            train,
            torch.bincount(train.y[counted], minlength=chain.num_classes).cpu().numpy(),
            judges,
            settings,
            seed,
            label,
            f"{self.name}-head-{served[0]}{suffix}",
            self.store,
            self.progress,
        )
        return TrainedHead(head.eval(), epoch, selected_on, history)


def _remark_on_shares(train: RoutedRows, val: RoutedRows, counts: np.ndarray, depth: int, label: str) -> None:
    """Log where training and held-out rows of the same classes take different routes."""
    groups = frequency_groups(counts)
    for group, name in enumerate(("most", "middle", "fewest")):
        seen, held_out = (_shares(part, groups == group, depth) for part in (train, val))
        if seen is None or held_out is None:
            continue
        route = int(np.abs(seen - held_out).argmax())
        if abs(seen[route] - held_out[route]) > SHARE_GAP:
            LOG.info(
                f"{label}: of the third of the classes with the {name} training rows, {seen[route]:.0%} of the "
                f"training rows but {held_out[route]:.0%} of the held-out rows take route {route + 1}"
            )


def _shares(part: RoutedRows, classes: np.ndarray, depth: int) -> np.ndarray | None:
    """(depth + 1,) shares of the routes among the rows of ``classes`` (C,) bool; None without such rows."""
    assert part.y is not None
    routes = to_numpy(part.route)
    routes = routes[classes[to_numpy(part.y)] & (routes > 0)]
    return np.bincount(routes, minlength=depth + 2)[1:] / len(routes) if len(routes) else None


def _subset(rows: Rows, mask: np.ndarray) -> Rows:
    keep = torch.from_numpy(mask).to(rows.x.device)
    return Rows(rows.x[keep], rows.y[keep])
