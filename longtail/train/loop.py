"""The one training loop.

It owns epochs, progress, the history, the best epoch and checkpoints. A :class:`Task` owns what is trained: a network
on images, a head on features, a flow. Each component carries its own state, so a resumed run computes the same bits as
one that was never interrupted.

The loop reads the device once per epoch: the sums of all logged values and the mark of failure come back together.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from longtail.core.errors import TrainingError
from longtail.core.progress import Progress
from longtail.train.checkpointing import CheckpointStore, add_prefix, strip_prefix

LOG = logging.getLogger(__name__)
Score = tuple[float, ...]


@dataclass(frozen=True)
class EpochReport:
    """The result of an epoch, as the task reports it.

    Attributes:
        columns: further columns of the history.
        score: larger is better, compared element by element; None if this epoch is not a candidate.
        rule: name of the score, such as ``val``.
    """

    columns: Mapping[str, float]
    score: Score | None = None
    rule: str = ""


class Task(Protocol):
    """Something to train: its weights, its steps, and the rest of its state.

    Attributes:
        steps: steps per epoch.
        stopped: whether training ends before the last epoch.
    """

    steps: int
    stopped: bool

    def start_epoch(self, epoch: int) -> None:
        """Called before the steps of a 0-based epoch."""
        ...

    def step(self, epoch: int, step: int) -> Mapping[str, Tensor]:
        """Take one step, both numbers 0-based. Returns scalars on the device by name, ``loss`` among them."""
        ...

    def has_failed(self) -> Tensor:
        """A scalar on the device: whether a weight, or a loss since the start, is not finite.

        The loop itself checks the mean loss of the epoch, so a task without further checks looks at its weights alone.
        """
        ...

    def end_epoch(self, epoch: int, means: Mapping[str, float]) -> EpochReport:
        """Called after the steps of a 1-based epoch, with the means of the logged scalars."""
        ...

    def advise(self) -> str:
        """What the user can change if training fails: the end of a sentence."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The tensors to keep of the best epoch."""
        ...

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load the result of ``weights``."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able values from which training resumes, ``weights`` included."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Load the result of ``state``; the tensors are on the CPU."""
        ...


@dataclass
class _Best:
    """The best epoch so far; the first one on ties."""

    epoch: int = 0
    score: Score | None = None
    rule: str = ""
    weights: dict[str, Tensor] = field(default_factory=dict)

    def consider(self, epoch: int, report: EpochReport, task: Task) -> None:
        if report.score is not None and (self.score is None or report.score > self.score):
            weights = {name: tensor.detach().clone() for name, tensor in task.weights().items()}
            self.epoch, self.score, self.rule, self.weights = epoch, report.score, report.rule, weights


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        history: one row per epoch: ``epoch`` (1-based), the means of the logged scalars, and the task's columns.
            Accuracies are fractions in [0, 1].
        epochs: epochs of training, fewer than asked for if the task stopped.
        chosen_epoch: 1-based epoch that the weights are from; 0 for the start.
        rule: name of the score that chose it; empty if it is the last one.
        computed: epochs that this process computed; the others were resumed.
    """

    history: list[dict[str, float]]
    epochs: int
    chosen_epoch: int
    rule: str = ""
    computed: int = field(default=0, compare=False)

    def columns(self) -> dict[str, list[float]]:
        """The history by column."""
        return {name: [row[name] for row in self.history] for name in (self.history[0] if self.history else ())}


def run(
    task: Task,
    *,
    epochs: int,
    label: str,
    part: str,
    store: CheckpointStore,
    progress: str = "auto",
    start: Callable[[], EpochReport] | None = None,
) -> Outcome:
    """Train ``task`` for at most ``epochs`` epochs, from the last checkpoint of ``part`` if there is one.

    The task ends with the weights of the best epoch, or of the last one if no epoch had a score.

    Args:
        task: freshly initialized.
        epochs: at least 1.
        label: what the progress report calls the run.
        part: name of the checkpoint in ``store``.
        store: where checkpoints are kept.
        progress: mode of the report.
        start: gives the score of the initial weights, which then count as epoch 0.

    Raises:
        TrainingError: a loss, a weight or the mean loss of an epoch is not finite. The last checkpoint is kept.
    """
    history: list[dict[str, float]] = []
    best, epoch = _Best(), 0
    found = store.load(part)
    if found is not None:
        epoch, history, best = _resume(task, *found)
        LOG.info(f"{label}: resuming after epoch {epoch}")
    elif start is not None:
        best.consider(0, start(), task)
    resumed = epoch
    note = ""
    with Progress(epochs * task.steps, label, progress, done=epoch * task.steps) as report:
        while epoch < epochs and not task.stopped:
            task.start_epoch(epoch)
            sums: dict[str, Tensor] = {}
            for step in range(task.steps):
                for name, value in task.step(epoch, step).items():
                    sums[name] = sums[name] + value.detach() if name in sums else value.detach().clone()
                if step + 1 < task.steps:
                    report.advance(1, note)
            means = _read(task, sums, label, epoch, epochs)
            epoch += 1
            finished = task.end_epoch(epoch, means)
            history.append({"epoch": epoch, **means, **finished.columns})
            best.consider(epoch, finished, task)
            note = f"epoch {epoch}, loss {means['loss']:.4f}"
            report.advance(1, note)
            if store.is_due(epoch, task.stopped or epoch == epochs):
                _save(task, store, part, epoch, history, best)
    if best.score is None:
        return Outcome(history, epoch, epoch, computed=epoch - resumed)
    task.set_weights(best.weights)
    return Outcome(history, epoch, best.epoch, best.rule, epoch - resumed)


def _read(task: Task, sums: dict[str, Tensor], label: str, epoch: int, epochs: int) -> dict[str, float]:
    """The means over the epoch. This is the only wait for the device."""
    scaled = [value.double() / task.steps for value in sums.values()]
    values = torch.stack([*scaled, task.has_failed().double()]).tolist()
    means = dict(zip(sums, values, strict=False))
    if values[-1] or not math.isfinite(means["loss"]):
        raise TrainingError(
            f"{label}: loss or weights are not finite in epoch {epoch + 1} of {epochs} (loss {means['loss']:g}); "
            f"{task.advise()}"
        )
    return means


def _save(
    task: Task, store: CheckpointStore, part: str, epoch: int, history: list[dict[str, float]], best: _Best
) -> None:
    tensors, values = task.state()
    kept = {"epoch": best.epoch, "score": best.score, "rule": best.rule}
    meta = {"epoch": epoch, "history": history, "best": kept, "task": values}
    store.save(part, add_prefix("task.", tensors) | add_prefix("best.", best.weights), meta)


def _resume(task: Task, tensors: dict[str, Tensor], meta: dict[str, Any]) -> tuple[int, list[dict[str, float]], _Best]:
    task.load_state(strip_prefix("task.", tensors), meta["task"])
    devices = {name: tensor.device for name, tensor in task.weights().items()}
    weights = {name: tensor.to(devices[name]) for name, tensor in strip_prefix("best.", tensors).items()}
    kept = meta["best"]
    score = None if kept["score"] is None else tuple(kept["score"])
    return meta["epoch"], meta["history"], _Best(kept["epoch"], score, kept["rule"], weights)
