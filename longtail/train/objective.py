"""The seam between the training loop and what it minimises.

The loop owns the batches, the schedule, the optimizer, checkpoints and random state. An objective owns the loss and
whatever else a method needs: how many augmented views, a second batch from another sampler, more than one pass a step,
extra heads, momentum encoders and queues. All of these live on the objective as modules, parameters and buffers, so
they are trained, checkpointed and resumed without a word from the method, and none reaches the exported backbone.
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
class Setting:
    """What an objective may know of its task: C classes, (C,) training counts, D features, epochs, a seed."""

    num_classes: int
    counts: np.ndarray
    num_features: int
    epochs: int
    seed: int
    head: str = "linear"
    scale: float = 1.0


@dataclass(frozen=True)
class Moment:
    """Where training stands: 0-based epoch of ``epochs``, 0-based step of ``steps`` in this epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int


class Update(Protocol):
    """One optimizer step, in the hands of the objective."""

    def autocast(self) -> AbstractContextManager:
        """The precision of forward passes."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Clear the gradients and compute those of ``loss``; a loss that is not finite ends training."""
        ...

    def apply(self) -> None:
        """Let the optimizer step with the gradients at hand; a no-op once a loss was not finite."""
        ...


class Objective(nn.Module):
    """Base of all objectives: one view, one batch, one pass a step.

    Attributes:
        views: augmented views of each image in a batch.
    """

    views: int = 1

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    def create_head(self) -> nn.Module:
        """The head that the model carries and that predicts."""
        setting = self.setting
        return create_head(setting.head, setting.num_features, setting.num_classes, setting.scale)

    def partner_sampler(self, labels: np.ndarray) -> Sampler | None:
        """The sampler of a second batch that comes with each batch as ``batch.partner``, or None."""
        return None

    def attach(self, model: Classifier) -> None:
        """Called once before training with the initialised model: the place to copy a momentum encoder."""

    def loss(self, model: Classifier, batch: Batch, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss, and scalars by name for the training curves."""
        raise AssertionError(f"{type(self).__name__} defines neither loss nor step")

    def step(self, model: Classifier, batch: Batch, moment: Moment, update: Update) -> tuple[Tensor, dict[str, Tensor]]:
        """One step. Methods with several passes override it; they call ``update.backward`` for each of them."""
        with update.autocast():
            loss, logs = self.loss(model, batch, moment)
        update.backward(loss)
        update.apply()
        return loss.detach(), logs

    def after_step(self, model: Classifier, moment: Moment) -> None:
        """Called after the optimizer's step: the place to move a momentum encoder or a queue."""
