"""Training of one flow filter, with the held-out check that keeps it from memorizing the tail."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longtail.core.errors import TrainingError
from longtail.core.seeds import derive_seed
from longtail.methods.dlsa.filter import FlowFilter, create_filter, to_numpy
from longtail.methods.dlsa.losses import balance_loss, class_weights, likelihood_loss, purity_loss
from longtail.methods.dlsa.mixture import mixture_log_density
from longtail.methods.dlsa.pairs import PairSampler
from longtail.methods.dlsa.routing import cluster_class_counts
from longtail.methods.dlsa.settings import Settings
from longtail.train.checkpointing import CheckpointStore, add_prefix, strip_prefix
from longtail.train.loop import EpochReport, run
from longtail.train.optimizer_step import OptimizerStep

LOG = logging.getLogger(__name__)
MIN_BATCH = 16  # a smaller last batch is dropped: its unbiased variance is noise, and NaN for a single row
PURE, MIN_SIZE, MAX_SIZE = 0.7, 10, 5000  # the released snapshot rule
THIRDS = 3  # of the classes, by training count


@dataclass(frozen=True)
class Rows:
    """Rows of one split part that no earlier level has kept. x: (n, d); y: (n,) int64, on one device."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass
class FlowHistory:
    """One entry per epoch; ``log_likelihood[part]`` holds (C,) class means, NaN for classes without a row."""

    columns: dict[str, list[float]] = field(default_factory=dict)
    log_likelihood: dict[str, list[list[float]]] = field(default_factory=dict)


def can_train(train: Rows) -> bool:
    """Whether there are enough rows for a flow: two classes to form pairs, and two rows for a variance."""
    return len(train) >= 2 and len(torch.unique(train.y)) >= 2


def frequency_groups(counts: np.ndarray) -> np.ndarray:
    """(C,) int: 0, 1 or 2 for the thirds of the classes from most to fewest training rows. counts: (C,)."""
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return rank * THIRDS // len(counts)


@dataclass(frozen=True)
class TrainedFilter:
    """A filter, the 1-based epoch it is from, the rule that chose it, and its history."""

    filter: FlowFilter
    epoch: int
    rule: str
    history: FlowHistory


def train_filter(
    parts: Mapping[str, Rows],
    counts: np.ndarray,
    settings: Settings,
    seed: int,
    label: str,
    part: str,
    store: CheckpointStore,
    progress: str,
) -> TrainedFilter:
    """Train a filter on ``parts["train"]``. The other parts are measured after every epoch, and ``val`` may choose it.

    Args:
        parts: rows by part.
        counts: (C,) rows per class in the whole training set.
        settings: the settings of DLSA.
        seed: seed of the filter.
        label: what the progress report calls it.
        part, store: name and place of its checkpoint.
        progress: mode of the report.

    Raises:
        TrainingError: a loss or a log-likelihood stops being finite.
    """
    task = _FlowTask(parts, counts, settings, seed, label)
    outcome = run(task, epochs=settings.flow_epochs, label=label, part=part, store=store, progress=progress)
    rule = outcome.rule or "last"
    LOG.info(f"{label}: {outcome.epochs} epochs, epoch {outcome.chosen_epoch} kept ({rule})")
    return TrainedFilter(
        task.filter.eval(), outcome.chosen_epoch, rule, FlowHistory(outcome.columns(), task.likelihoods)
    )


def batch_sizes(rows: int, batch_size: int) -> list[int]:
    """Sizes of the batches of an epoch. A last batch that is smaller than the others and than 16 is dropped."""
    full, rest = divmod(rows, batch_size)
    return [batch_size] * full + [rest] * (rest >= MIN_BATCH)


class _FlowTask:
    """The task of :func:`train_filter`: SGD without momentum on pairs of rows of different classes."""

    def __init__(
        self, parts: Mapping[str, Rows], counts: np.ndarray, settings: Settings, seed: int, label: str
    ) -> None:
        train = parts["train"]
        self._parts, self._settings, self._seed, self._label = parts, settings, seed, label
        self._num_classes, self._groups = len(counts), frequency_groups(counts)
        self.filter = create_filter(train.x, settings, seed)
        self._sizes = batch_sizes(len(train), min(settings.flow_batch_size, len(train)))
        self.steps = len(self._sizes)
        self._pairs = PairSampler(train.y)
        class_counts = torch.bincount(train.y, minlength=self._num_classes)
        self._class_weights = class_weights(class_counts, settings.q).to(train.x.dtype)
        self._average = torch.zeros_like(self.filter.centers[:, 0])
        self._update = OptimizerStep(
            torch.optim.SGD(self.filter.flow.parameters(), lr=settings.flow_lr, fused=True), train.x.device
        )
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._group_best = [-np.inf] * THIRDS
        self._group_epoch = [0] * THIRDS
        self.likelihoods: dict[str, list[list[float]]] = {}
        self.stopped = False

    def start_epoch(self, epoch: int) -> None:
        self.filter.train()
        positive, negative = self._pairs.draw(derive_seed(self._seed, "pairs", epoch), sum(self._sizes))
        self._batches = list(zip(positive.split(self._sizes), negative.split(self._sizes), strict=True))

    def step(self, epoch: int, step: int) -> dict[str, Tensor]:
        """One batch of pairs. Both halves share a pass, but not their statistics."""
        train, settings = self._parts["train"], self._settings
        positive, negative = self._batches[step]
        components = self.filter.components(train.x[torch.stack([positive, negative])])
        log_density = mixture_log_density(components[0])
        likelihood = likelihood_loss(log_density, self._class_weights[train.y[positive]])
        purity = purity_loss(components[0], components[1])
        number = epoch * self.steps + step + 1
        balance, average = balance_loss(components[0], self._average, number, settings.balance_momentum)
        self._average.copy_(average)
        total = (
            settings.likelihood_weight * likelihood
            + settings.purity_weight * purity
            + settings.balance_weight * balance
        )
        self._update.backward(total)
        self._update.apply()
        return {"loss": total, "likelihood": likelihood, "purity": purity, "balance": balance}

    def has_failed(self) -> Tensor:
        return self._update.has_failed()

    def end_epoch(self, epoch: int, means: Mapping[str, float]) -> EpochReport:
        """Measure log-likelihoods and clusters, and score the epoch by the rule."""
        settings = self._settings
        by_part, cluster = {}, np.zeros(0, np.int64)
        for part, rows in self._parts.items():
            log_density, assigned = self.filter.measure(rows.x)
            if part != "test" and not bool(torch.isfinite(log_density).all()):
                raise TrainingError(
                    f"{self._label}: the log-likelihood of a {part} row is not finite after epoch {epoch}; "
                    f"{self.advise()}"
                )
            by_part[part] = class_means(to_numpy(log_density), to_numpy(rows.y), self._num_classes)
            self.likelihoods.setdefault(part, []).append(by_part[part].tolist())
            if part == "train":
                cluster = to_numpy(assigned)
        labels = to_numpy(self._parts["train"].y)
        table = cluster_class_counts(cluster, labels, settings.clusters, self._num_classes)
        size = table.sum(axis=1)
        pure = int(((table.max(axis=1) > PURE * size) & (size > MIN_SIZE)).sum())
        columns = {"pure_clusters": pure, "largest_cluster": int(size.max())}

        held_out = group_likelihoods(by_part["val"], self._groups) if "val" in by_part else np.full(THIRDS, np.nan)
        has_held_out = bool(np.isfinite(held_out).any())
        if settings.flow_select == "held_out" and has_held_out:
            self._watch_groups(epoch, held_out)
            return EpochReport(columns, (float(np.nanmean(held_out)),), "held_out")
        if settings.flow_select == "purity":
            if pure and size.max() < MAX_SIZE:
                return EpochReport(columns, (pure, 0.0), "purity")
            if has_held_out:  # the released rule would keep epoch 1 for good
                return EpochReport(columns, (0.0, float(np.nanmean(held_out))), "held_out")
        return EpochReport(columns)

    def _watch_groups(self, epoch: int, held_out: np.ndarray) -> None:
        """Stop once a group's held-out log-likelihood has had no new best for ``patience`` epochs."""
        for group in np.flatnonzero(np.isfinite(held_out)):
            if held_out[group] > self._group_best[group]:
                self._group_best[group], self._group_epoch[group] = float(held_out[group]), epoch
            self.stopped |= epoch - self._group_epoch[group] >= self._settings.patience

    def advise(self) -> str:
        return "lower dlsa.flow_lr, bound dlsa.log_scale_limit, or set dlsa.standardize: true"

    def weights(self) -> dict[str, Tensor]:
        return self.filter.state_dict()

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        self.filter.load_state_dict(weights)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        values = {
            "stopped": self.stopped,
            "group_best": self._group_best,
            "group_epoch": self._group_epoch,
            "likelihoods": self.likelihoods,
        }
        return add_prefix("filter.", self.filter.state_dict()) | {"average": self._average}, values

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self.filter.load_state_dict(strip_prefix("filter.", tensors))
        self._average.copy_(tensors["average"])
        self.stopped, self.likelihoods = values["stopped"], values["likelihoods"]
        self._group_best, self._group_epoch = values["group_best"], values["group_epoch"]


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
