"""Training of DLSA's classifiers on rows that stay on the device."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longtail.core.errors import TrainingError
from longtail.core.progress import Progress
from longtail.core.seeds import derive_seed, generator
from longtail.data.samplers import create_sampler
from longtail.methods.dlsa.classifiers import RouteHead
from longtail.methods.dlsa.losses import balanced_softmax_loss, log_prior
from longtail.methods.dlsa.settings import Settings
from longtail.train.checkpointing import Stash, below, with_prefix
from longtail.train.optimizer_step import Update

BLOCK_ROWS = 4096


@dataclass(frozen=True)
class RoutedRows:
    """Rows with what the flows say of them, all on one device.

    x: (N, d). y: (N,) int64, or None. route: (N,) int64, 1-based. prior: (K_all + 1, C), the cluster priors of all
    levels one below the other and a zero row; prior_row: (N,) int64 into it. z: (N, d) latents, each row's of the flow
    of its route (of the last flow for the regular route), or None where z is the features or nothing.
    """

    x: Tensor
    y: Tensor | None
    route: Tensor
    prior: Tensor
    prior_row: Tensor
    z: Tensor | None

    def logits(self, head: RouteHead, rows: Tensor) -> Tensor:
        """(B, C) of the rows at positions (B,)."""
        x = self.x[rows]
        z = x if self.z is None else self.z[rows]
        return head(x, z, self.prior[self.prior_row[rows]], self.route[rows])

    def of(self, routes: list[int]) -> Tensor:
        """Ascending positions of the rows that took one of ``routes``."""
        return torch.isin(self.route, torch.tensor(routes, device=self.route.device)).nonzero()[:, 0]


@dataclass
class HeadHistory:
    """Columns: epoch, loss, and ``NAME_accuracy`` in [0, 1] where it was measured (NaN in other epochs)."""

    columns: dict[str, list[float]] = field(default_factory=dict)


def train_head(
    head: RouteHead,
    train: RoutedRows,
    counts: np.ndarray,
    judges: dict[str, RoutedRows],
    settings: Settings,
    seed: int,
    label: str,
    stash: Stash,
    progress: str,
) -> tuple[int, str, HeadHistory]:
    """Train ``head`` in place on the rows of its routes.

    counts: (C,) of the balanced softmax. judges: rows by part; the one named ``settings.select_on`` chooses the epoch,
    by mean accuracy of the classes present, the starting weights included and the first epoch on ties; without rows of
    these routes the last epoch stays.
    Returns the 1-based epoch (0 for the start), the part that chose it or ``last``, and the history.
    """
    assert train.y is not None
    rows = train.of(head.routes)
    device, dtype = train.x.device, train.x.dtype
    selected_on, judge, judged = "last", None, None
    if settings.select_on in judges:
        judge = judges[settings.select_on]
        judged = judge.of(head.routes)
        selected_on = settings.select_on if len(judged) else "last"
    run = _Run(head)
    if not len(rows) or not settings.epochs:
        return 0, "last", run.history
    draw = _draws(train.y[rows].cpu().numpy(), settings, seed)
    batch_size = min(settings.batch_size, len(rows))
    prior = log_prior(torch.from_numpy(counts)).to(device, dtype)
    if settings.loss == "ce":
        prior = torch.zeros_like(prior)
    if not _resume(run, stash, label) and judge is not None and selected_on != "last":
        _consider(run, macro_accuracy(head, judge, judged))
    update = Update(torch.optim.SGD(head.parameters(), lr=settings.lr, fused=True), device)
    steps = -(-len(rows) // batch_size)
    with Progress(settings.epochs * steps, label, progress, done=run.epoch * steps) as report:
        while run.epoch < settings.epochs:
            order = rows[torch.from_numpy(draw(run.epoch)).to(device)]
            total = torch.zeros((), dtype=dtype, device=device)
            for step, batch in enumerate(order.split(batch_size)):
                loss = balanced_softmax_loss(train.logits(head, batch), train.y[batch], prior)
                update.backward(loss)
                update.apply()
                total += loss.detach()
                if step + 1 < steps:
                    report.advance(1, update.note)
            mean, failed = torch.stack([total / steps, update.failed().to(total)]).tolist()
            if failed or not np.isfinite(mean):
                raise TrainingError(
                    f"{label}: loss or weights are not finite in epoch {run.epoch + 1} of {settings.epochs}; "
                    f"lower dlsa.lr, now {settings.lr:g}"
                )
            run.epoch += 1
            last = run.epoch == settings.epochs
            row: dict[str, float] = {"epoch": run.epoch, "loss": mean}
            if judge is not None and selected_on != "last":
                accuracy = np.nan
                if last or run.epoch % settings.eval_every == 0:
                    accuracy = macro_accuracy(head, judge, judged)
                    _consider(run, accuracy)
                row[f"{selected_on}_accuracy"] = accuracy
            for name, value in row.items():
                run.history.columns.setdefault(name, []).append(value)
            update.note = f"epoch {run.epoch}, loss {mean:.4f}"
            report.advance(1, update.note)
            if stash.due(run.epoch, last):
                _save(run, stash, label)
    if run.best:
        head.load_state_dict(run.best)
        return run.best_epoch, selected_on, run.history
    return run.epoch, selected_on, run.history


@torch.no_grad()
def macro_accuracy(head: RouteHead, judge: RoutedRows, rows: Tensor | None) -> float:
    """Mean over the classes present of their accuracy in [0, 1]."""
    assert rows is not None and judge.y is not None
    y = judge.y[rows]
    correct = torch.cat([judge.logits(head, block).argmax(dim=1) for block in rows.split(BLOCK_ROWS)]) == y
    counts = torch.bincount(y)
    hits = torch.bincount(y[correct], minlength=len(counts))
    return float((hits[counts > 0].double() / counts[counts > 0]).mean())


@dataclass
class _Run:
    head: RouteHead
    epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_score: float = -1.0
    history: HeadHistory = field(default_factory=HeadHistory)


def _consider(run: _Run, score: float) -> None:
    if score > run.best_score:
        run.best_score, run.best_epoch = score, run.epoch
        run.best = {name: tensor.detach().clone() for name, tensor in run.head.state_dict().items()}


def _draws(y: np.ndarray, settings: Settings, seed: int) -> Callable[[int], np.ndarray]:
    """epoch -> (n,) positions into y: shuffled, or class-aware over the classes present."""
    if settings.sampler == "class_aware":
        present = np.unique(y, return_inverse=True)[1]
        sampler = create_sampler(
            "class_aware", present, seed=derive_seed(seed, "sampler"), epochs=settings.epochs, samples_per_class=1
        )
        return lambda epoch: sampler.epoch(epoch, len(y))
    return lambda epoch: generator(seed, "shuffle", epoch).permutation(len(y))


def _save(run: _Run, stash: Stash, part: str) -> None:
    tensors = {**with_prefix("head.", run.head.state_dict()), **with_prefix("best.", run.best)}
    meta: dict[str, Any] = {name: getattr(run, name) for name in ("epoch", "best_epoch", "best_score")}
    stash.save(part, tensors, meta | {"columns": run.history.columns})


def _resume(run: _Run, stash: Stash, part: str) -> bool:
    found = stash.load(part)
    if found is None:
        return False
    tensors, meta = found
    run.head.load_state_dict(below("head.", tensors))
    device = next(run.head.parameters()).device
    run.best = {name: tensor.to(device) for name, tensor in below("best.", tensors).items()}
    run.history = HeadHistory(meta.pop("columns"))
    for name, value in meta.items():
        setattr(run, name, value)
    print(f"{part}: resuming after epoch {run.epoch}")
    return True
