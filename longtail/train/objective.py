"""What a training minimizes, as the training loop sees it.

The loop owns the batches, the schedule, the optimizer, checkpoints and random state. An objective owns the loss and
whatever else a method needs: several augmented views, a second batch from another sampler, several passes per step,
extra heads, momentum encoders and queues. All of these are modules, parameters and buffers of the objective. So they
are trained, checkpointed and resumed automatically, and none of them reaches the exported backbone.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from longtail.data.samplers import Sampler
from longtail.models.classifier import Classifier, create_head
from longtail.train.batches import Batch


@dataclass(frozen=True)
class TaskInfo:
    """What an objective may know about its task.

    Attributes:
        num_classes: C.
        counts: (C,) int64 training images per class.
        num_features: D, the width of the pooled features.
        epochs: epochs of training.
        seed: seed of the run.
        head, scale: kind of the prediction head, and the scale of a cosine head.
    """

    num_classes: int
    counts: np.ndarray
    num_features: int
    epochs: int
    seed: int
    head: str = "linear"
    scale: float = 1.0


@dataclass(frozen=True)
class Position:
    """The position in training: 0-based epoch out of ``epochs``, 0-based step out of ``steps`` in this epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int


class Update(Protocol):
    """One optimizer step, under the control of the objective."""

    def autocast(self) -> AbstractContextManager:
        """The precision of forward passes."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Clear the gradients and compute those of ``loss``. A loss that is not finite ends training."""
        ...

    def apply(self) -> None:
        """Let the optimizer step with the current gradients; does nothing once a loss was not finite."""
        ...


class Objective(nn.Module):
    """Base of all objectives: one view, one batch, one pass per step.

    Attributes:
        views: augmented views of each image in a batch.
        task: what it knows about its task.
    """

    views: int = 1

    def __init__(self, task: TaskInfo) -> None:
        super().__init__()
        self.task = task

    def create_head(self) -> nn.Module:
        """The head that the model carries and that predicts."""
        task = self.task
        return create_head(task.head, task.num_features, task.num_classes, task.scale)

    def partner_sampler(self, labels: np.ndarray) -> Sampler | None:
        """The sampler of a second batch, which comes with each batch as ``batch.partner``; None for none."""
        return None

    def at_constant_rate(self) -> list[nn.Module]:
        """Modules of the objective whose learning rate stays at its base value whatever the schedule is."""
        return []

    def attach(self, model: Classifier) -> None:
        """Called once before training with the initialized model, for example to copy a momentum encoder."""

    def loss(self, model: Classifier, batch: Batch, position: Position) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss, and scalars by name for the training curves. Accuracies are fractions in [0, 1]."""
        raise AssertionError(f"{type(self).__name__} defines neither loss nor step")

    def step(
        self, model: Classifier, batch: Batch, position: Position, update: Update
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step. Methods with several passes override it and call ``update.backward`` for each of them."""
        with update.autocast():
            loss, logs = self.loss(model, batch, position)
        update.backward(loss)
        update.apply()
        return loss.detach(), logs

    def after_step(self, model: Classifier, position: Position) -> None:
        """Called after the optimizer's step, for example to move a momentum encoder or a queue."""
