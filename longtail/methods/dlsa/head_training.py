"""Training of DLSA's classifiers on rows that stay on the device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from longtail.core.seeds import derive_seed, generator
from longtail.data.samplers import create_sampler
from longtail.methods.dlsa.classifiers import RouteHead
from longtail.methods.dlsa.losses import balanced_softmax_loss, log_prior
from longtail.methods.dlsa.settings import Settings
from longtail.train.checkpointing import CheckpointStore
from longtail.train.loop import EpochReport, run
from longtail.train.optimizer_step import OptimizerStep

BLOCK_ROWS = 4096


@dataclass(frozen=True)
class RoutedRows:
    """Rows with their routes and cluster priors, all on one device.

    Attributes:
        x: (N, d).
        y: (N,) int64, or None.
        route: (N,) int64, 1-based; 0 for rows that are left out.
        prior: (K_all + 1, C): the cluster priors of all levels, stacked, and a row of zeros.
        prior_row: (N,) int64, the row of ``prior`` that belongs to each row.
        z: (N, d') latents, from the flow of the route of each row (from the last flow for the regular route), or None
            if z is the features or nothing.
        moments: offset and scale (d,) that standardize x, or None.
    """

    x: Tensor
    y: Tensor | None
    route: Tensor
    prior: Tensor
    prior_row: Tensor
    z: Tensor | None
    moments: tuple[Tensor, Tensor] | None = None

    def logits(self, head: RouteHead, rows: Tensor) -> Tensor:
        """(B, C) of the rows at positions (B,)."""
        x = self.x[rows]
        if self.moments is not None:
            offset, scale = self.moments
            x = x.sub_(offset).div_(scale)
        z = x if self.z is None else self.z[rows]
        return head(x, z, self.prior[self.prior_row[rows]], self.route[rows])

    def rows_of(self, routes: list[int]) -> Tensor:
        """Ascending positions of the rows that took one of ``routes``."""
        return torch.isin(self.route, torch.tensor(routes, device=self.route.device)).nonzero()[:, 0]

    def only(self, rows: Tensor, prior: Tensor) -> Self:
        """The same with the cluster priors ``prior``, where all but ``rows`` (N,) bool take no route."""
        return replace(self, route=torch.where(rows, self.route, 0), prior=prior)


def train_head(
    head: RouteHead,
    train: RoutedRows,
    counts: np.ndarray,
    judges: dict[str, RoutedRows],
    settings: Settings,
    seed: int,
    label: str,
    part: str,
    store: CheckpointStore,
    progress: str,
) -> tuple[int, str, dict[str, list[float]]]:
    """Train ``head`` in place on the rows of its routes.

    Args:
        head: freshly initialized.
        train: all training rows.
        counts: (C,) class counts of the balanced softmax.
        judges: rows by part. Those of ``settings.select_on`` choose the epoch by the mean accuracy of the classes
            present; the initial weights count as epoch 0, and the first epoch wins ties. Without rows of these routes
            the last epoch is kept.
        settings: the settings of DLSA.
        seed: seed of the order of rows.
        label: what the progress report calls it.
        part, store: name and place of its checkpoint.
        progress: mode of the report.

    Returns:
        The 1-based epoch (0 for the start), the part that chose it or ``last``, and the history by column: epoch, loss,
        and ``PART_accuracy`` in [0, 1], NaN in epochs without a check.
    """
    rows = train.rows_of(head.routes)
    if not len(rows) or not settings.epochs:
        return 0, "last", {}
    judge = judges.get(settings.select_on)
    judged = None if judge is None else judge.rows_of(head.routes)
    if judge is None or judged is None or not len(judged):
        judge = judged = None
    task = _HeadTask(head, train, rows, counts, judge, judged, settings, seed)
    outcome = run(
        task,
        epochs=settings.epochs,
        label=label,
        part=part,
        store=store,
        progress=progress,
        start=None if judge is None else task.judge,
    )
    return outcome.chosen_epoch, settings.select_on if judge is not None else "last", outcome.columns()


@torch.no_grad()
def macro_accuracy(head: RouteHead, judge: RoutedRows, rows: Tensor | None) -> float:
    """Mean over the classes present of their accuracy in [0, 1]."""
    assert rows is not None and judge.y is not None
    y = judge.y[rows]
    correct = torch.cat([judge.logits(head, block).argmax(dim=1) for block in rows.split(BLOCK_ROWS)]) == y
    counts = torch.bincount(y)
    hits = torch.bincount(y[correct], minlength=len(counts))
    return float((hits[counts > 0].double() / counts[counts > 0]).mean())


class _HeadTask:
    """The task of :func:`train_head`: SGD without momentum at a constant rate."""

    stopped = False

    def __init__(
        self,
        head: RouteHead,
        train: RoutedRows,
        rows: Tensor,
        counts: np.ndarray,
        judge: RoutedRows | None,
        judged: Tensor | None,
        settings: Settings,
        seed: int,
    ) -> None:
        assert train.y is not None
        self._head, self._train, self._labels, self._rows = head, train, train.y, rows
        self._judge, self._judged, self._settings = judge, judged, settings
        device, dtype = train.x.device, train.x.dtype
        self._draw = _draws(train.y[rows].cpu().numpy(), settings, seed)
        self._batch_size = min(settings.batch_size, len(rows))
        self.steps = -(-len(rows) // self._batch_size)
        prior = log_prior(torch.from_numpy(counts)).to(device, dtype)
        self._prior = torch.zeros_like(prior) if settings.loss == "ce" else prior
        self._update = OptimizerStep(torch.optim.SGD(head.parameters(), lr=settings.lr, fused=True), device)
        self._batches: tuple[Tensor, ...] = ()

    def start_epoch(self, epoch: int) -> None:
        order = torch.from_numpy(self._draw(epoch)).to(self._rows.device)
        self._batches = self._rows[order].split(self._batch_size)

    def step(self, epoch: int, step: int) -> dict[str, Tensor]:
        batch = self._batches[step]
        loss = balanced_softmax_loss(self._train.logits(self._head, batch), self._labels[batch], self._prior)
        self._update.backward(loss)
        self._update.apply()
        return {"loss": loss}

    def has_failed(self) -> Tensor:
        return self._update.has_failed()

    def end_epoch(self, epoch: int, means: Mapping[str, float]) -> EpochReport:
        if self._judge is None:
            return EpochReport({})
        if epoch < self._settings.epochs and epoch % self._settings.eval_every:
            return EpochReport({f"{self._settings.select_on}_accuracy": np.nan})
        return self.judge()

    def judge(self) -> EpochReport:
        """The accuracy on the rows that choose the epoch."""
        assert self._judge is not None
        accuracy = macro_accuracy(self._head, self._judge, self._judged)
        return EpochReport({f"{self._settings.select_on}_accuracy": accuracy}, (accuracy,))

    def advise(self) -> str:
        return f"lower dlsa.lr, now {self._settings.lr:g}"

    def weights(self) -> dict[str, Tensor]:
        return self._head.state_dict()

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        self._head.load_state_dict(weights)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self._head.state_dict(), {}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self._head.load_state_dict(tensors)


def _draws(y: np.ndarray, settings: Settings, seed: int) -> Callable[[int], np.ndarray]:
    """epoch -> (n,) positions into y: shuffled, or class-aware over the classes present."""
    if settings.sampler == "class_aware":
        present = np.unique(y, return_inverse=True)[1]
        sampler = create_sampler(
            "class_aware", present, seed=derive_seed(seed, "sampler"), epochs=settings.epochs, samples_per_class=1
        )
        return lambda epoch: sampler.epoch(epoch, len(y))
    return lambda epoch: generator(seed, "shuffle", epoch).permutation(len(y))
