"""Training of one flow filter, with the held-out check that keeps it from memorising the tail."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longtail.core.errors import TrainingError
from longtail.core.progress import Progress
from longtail.core.seeds import derive_seed
from longtail.methods.dlsa.filter import FlowFilter, create_filter, host
from longtail.methods.dlsa.losses import balance_loss, class_weights, likelihood_loss, purity_loss
from longtail.methods.dlsa.mixture import mixture_log_density
from longtail.methods.dlsa.pairs import PairSampler
from longtail.methods.dlsa.routing import cluster_class_counts
from longtail.methods.dlsa.settings import Settings
from longtail.train.checkpointing import Stash, below, with_prefix
from longtail.train.optimizer_step import Update

LOG = logging.getLogger(__name__)
MIN_BATCH = 16  # a smaller last batch is dropped: its unbiased variance is noise, and of one row NaN
PURE, MIN_SIZE, MAX_SIZE = 0.7, 10, 5000  # the released snapshot rule
THIRDS = 3  # of the classes, by training count


@dataclass(frozen=True)
class Rows:
    """Rows of one split part that are still on their way. x: (n, d); y: (n,) int64, on one device."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass
class FlowHistory:
    """One entry per epoch; ``log_likelihood[part]`` holds (C,) class means, NaN for classes without a row."""

    columns: dict[str, list[float]] = field(default_factory=dict)
    log_likelihood: dict[str, list[list[float]]] = field(default_factory=dict)

    def append(self, columns: Mapping[str, float], log_likelihood: Mapping[str, np.ndarray]) -> None:
        for name, value in columns.items():
            self.columns.setdefault(name, []).append(value)
        for part, means in log_likelihood.items():
            self.log_likelihood.setdefault(part, []).append(means.tolist())


def can_train(train: Rows) -> bool:
    """Whether rows suffice for a flow: two classes, so that pairs exist, and two rows for a variance."""
    return len(train) >= 2 and len(torch.unique(train.y)) >= 2


def frequency_groups(counts: np.ndarray) -> np.ndarray:
    """(C,) int: 0, 1 or 2 for the thirds of the classes from most to fewest training rows. counts: (C,)."""
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return rank * THIRDS // len(counts)


def train_filter(
    parts: Mapping[str, Rows],
    counts: np.ndarray,
    settings: Settings,
    seed: int,
    label: str,
    stash: Stash,
    progress: str,
) -> tuple[FlowFilter, int, str, FlowHistory]:
    """Train a filter on ``parts["train"]``; the others are measured after every epoch, and ``val`` may choose it.

    counts: (C,) rows of each class in the whole training set.
    Returns the filter, the 1-based epoch it is from, the rule that chose it, and the history.
    Raises TrainingError where a loss or a log-likelihood stops being finite; no step is taken with it.
    """
    train = parts["train"]
    num_classes, groups = len(counts), frequency_groups(counts)
    model = create_filter(train.x, settings, seed)
    batch_size = min(settings.flow_batch_size, len(train))
    sizes = batch_sizes(len(train), batch_size)
    pairs = PairSampler(train.y)
    weights = class_weights(torch.bincount(train.y, minlength=num_classes), settings.q).to(train.x.dtype)
    run = _Run(model, torch.zeros_like(model.centres[:, 0]))
    _resume(run, stash, label)
    optimizer = torch.optim.SGD(model.flow.parameters(), lr=settings.flow_lr, fused=True)
    update = Update(optimizer, train.x.device)
    with Progress(settings.flow_epochs * len(sizes), label, progress, done=run.epoch * len(sizes)) as report:
        while run.epoch < settings.flow_epochs and not run.stopped:
            model.train()
            order = pairs.draw(derive_seed(seed, "pairs", run.epoch), sum(sizes))
            batches = zip(order[0].split(sizes), order[1].split(sizes), strict=True)
            sums = torch.zeros(4, dtype=train.x.dtype, device=train.x.device)
            for step, (positive, negative) in enumerate(batches):
                losses = _step(run, train, positive, negative, weights, settings, run.epoch * len(sizes) + step + 1)
                update.backward(losses[0])
                update.apply()
                sums += torch.stack(losses).detach()
                if step + 1 < len(sizes):
                    report.advance(1, update.note)
            values = torch.stack([*(sums / len(sizes)), update.failed().to(sums)]).tolist()
            if values[-1] or not np.isfinite(values[0]):
                raise TrainingError(
                    f"{label}: the likelihood is not finite in epoch {run.epoch + 1} of {settings.flow_epochs}; lower "
                    "dlsa.flow_lr, bound dlsa.log_scale_limit, or set dlsa.standardize: true"
                )
            run.epoch += 1
            _measure(run, parts, groups, num_classes, settings, dict(zip(_LOSSES, values, strict=False)), label)
            update.note = f"epoch {run.epoch}, loss {values[0]:.4f}"
            report.advance(1, update.note)
            if stash.due(run.epoch, run.stopped or run.epoch == settings.flow_epochs):
                _save(run, stash, label)
    if run.best:
        model.load_state_dict(run.best)
    kept, rule = run.best_epoch or run.epoch, run.rule or "last"
    LOG.info(f"{label}: {run.epoch} epochs, epoch {kept} kept ({rule})")
    return model.eval(), kept, rule, run.history


def batch_sizes(rows: int, batch_size: int) -> list[int]:
    """Sizes of an epoch's batches: a last one below 16 (or below batch_size, if that is less) is dropped."""
    whole, rest = divmod(rows, batch_size)
    return [batch_size] * whole + [rest] * (rest >= MIN_BATCH)


_LOSSES = ("loss", "likelihood", "purity", "balance")


@dataclass
class _Run:
    model: FlowFilter
    average: Tensor
    epoch: int = 0
    stopped: bool = False
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_score: list[float] = field(default_factory=list)
    rule: str = ""
    group_best: list[float] = field(default_factory=lambda: [-np.inf] * THIRDS)
    group_epoch: list[int] = field(default_factory=lambda: [0] * THIRDS)
    history: FlowHistory = field(default_factory=FlowHistory)


def _step(
    run: _Run, train: Rows, positive: Tensor, negative: Tensor, weights: Tensor, settings: Settings, step: int
) -> list[Tensor]:
    """The total and the three losses of one batch of pairs. Both halves share a pass, not their statistics."""
    components = run.model.components(train.x[torch.stack([positive, negative])])
    log_density = mixture_log_density(components[0])
    likelihood = likelihood_loss(log_density, weights[train.y[positive]])
    purity = purity_loss(components[0], components[1])
    balance, average = balance_loss(components[0], run.average, step, settings.balance_momentum)
    run.average.copy_(average)
    total = (
        settings.likelihood_weight * likelihood + settings.purity_weight * purity + settings.balance_weight * balance
    )
    return [total, likelihood, purity, balance]


def _measure(
    run: _Run,
    parts: Mapping[str, Rows],
    groups: np.ndarray,
    num_classes: int,
    settings: Settings,
    losses: dict[str, float],
    label: str,
) -> None:
    """Log-likelihoods and clusters after an epoch; keeps the weights if the rule says so."""
    means, cluster = {}, np.zeros(0, np.int64)
    for part, rows in parts.items():
        log_density, assigned = run.model.measure(rows.x)
        if part != "test" and not bool(torch.isfinite(log_density).all()):
            raise TrainingError(
                f"{label}: the log-likelihood of a {part} row is not finite after epoch {run.epoch}; lower "
                "dlsa.flow_lr, bound dlsa.log_scale_limit, or set dlsa.standardize: true"
            )
        means[part] = class_means(host(log_density), host(rows.y), num_classes)
        if part == "train":
            cluster = host(assigned)
    table = cluster_class_counts(cluster, host(parts["train"].y), settings.clusters, num_classes)
    size = table.sum(axis=1)
    pure = int(((table.max(axis=1) > PURE * size) & (size > MIN_SIZE)).sum())
    columns = {"epoch": run.epoch, **losses, "pure_clusters": pure, "largest_cluster": int(size.max())}
    run.history.append(columns, means)

    held_out = group_likelihoods(means["val"], groups) if "val" in means else np.full(THIRDS, np.nan)
    if settings.flow_select == "held_out" and np.isfinite(held_out).any():
        _keep_if_better(run, [float(np.nanmean(held_out))], "held_out")
        for group in np.flatnonzero(np.isfinite(held_out)):
            if held_out[group] > run.group_best[group]:
                run.group_best[group], run.group_epoch[group] = float(held_out[group]), run.epoch
            run.stopped |= run.epoch - run.group_epoch[group] >= settings.patience
    elif settings.flow_select == "purity":
        if pure and size.max() < MAX_SIZE:
            _keep_if_better(run, [pure, 0.0], "purity")
        elif np.isfinite(held_out).any():  # the released rule would keep epoch 1 for good
            _keep_if_better(run, [0.0, float(np.nanmean(held_out))], "held_out")


def _keep_if_better(run: _Run, score: list[float], rule: str) -> None:
    if score > run.best_score:
        run.best_score, run.best_epoch, run.rule = score, run.epoch, rule
        run.best = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def class_means(values: np.ndarray, y: np.ndarray, num_classes: int) -> np.ndarray:
    """(C,) float64 means of values (n,) by class; NaN for classes without a row."""
    counts = np.bincount(y, minlength=num_classes)
    sums = np.bincount(y, weights=values, minlength=num_classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def group_likelihoods(means: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(3,) means over the classes of each group that have rows; NaN for a group without."""
    present = np.isfinite(means)
    members = [present & (groups == group) for group in range(THIRDS)]
    return np.array([means[member].mean() if member.any() else np.nan for member in members])


def _save(run: _Run, stash: Stash, part: str) -> None:
    tensors = {
        **with_prefix("model.", run.model.state_dict()),
        **with_prefix("best.", run.best),
        "average": run.average,
    }
    plain = ("epoch", "stopped", "best_epoch", "best_score", "rule", "group_best", "group_epoch")
    meta: dict[str, Any] = {name: getattr(run, name) for name in plain}
    stash.save(part, tensors, meta | {"columns": run.history.columns, "log_likelihood": run.history.log_likelihood})


def _resume(run: _Run, stash: Stash, part: str) -> None:
    found = stash.load(part)
    if found is None:
        return
    tensors, meta = found
    run.model.load_state_dict(below("model.", tensors))
    run.best = {name: tensor.to(run.average.device) for name, tensor in below("best.", tensors).items()}
    run.average.copy_(tensors["average"])
    run.history = FlowHistory(meta.pop("columns"), meta.pop("log_likelihood"))
    for name, value in meta.items():
        setattr(run, name, value)
    print(f"{part}: resuming after epoch {run.epoch}")
