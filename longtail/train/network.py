"""Training of a network on images, for every objective.

All randomness comes from streams named by (seed, epoch, step). So the state of a run is the model, the objective, the
optimizer and the choices of an adaptive sampler, and a resumed run computes the same bits as an uninterrupted one.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from longtail.core.errors import ConfigError
from longtail.core.seeds import derive_seed
from longtail.data.samplers import Order, Sampler
from longtail.models.classifier import Classifier
from longtail.models.trainable import set_trainable
from longtail.train.batches import Batch, ImageSet
from longtail.train.checkpointing import CheckpointStore, add_prefix, strip_prefix
from longtail.train.extract import evaluating, evaluation_batch
from longtail.train.loop import EpochReport, Outcome, run
from longtail.train.objective import Objective, Position
from longtail.train.optimizer import create_optimizer
from longtail.train.optimizer_step import OptimizerStep

LOG = logging.getLogger(__name__)
Schedule = Callable[[int, float], float]  # as ``longtail.train.schedule.create_schedule`` makes


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; see the parameters of the same names.

    Attributes:
        schedule: (0-based epoch, fraction of it) -> multiplier of ``lr``.
        trainable: what is trained of the backbone, see ``longtail.models.trainable``.
        backbone_lr_factor: factor of ``lr`` for the backbone.
        bn_mode: ``eval`` fixes the batch-norm statistics of the backbone.
        label: what the progress report calls the run.
        part: name of its checkpoint.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: Schedule
    seed: int
    optimizer: str = "sgd"
    drop_last: bool = True
    trainable: str = "all"
    backbone_lr_factor: float = 1.0
    bn_mode: str = "train"
    select: str = "last"
    precision: str = "float32"
    compile: bool = False
    checkpoint_every: int = 5
    progress: str = "auto"
    label: str = "training"
    part: str = "network"


@runtime_checkable
class AdaptiveSampler(Order, Protocol):
    """A sampler that chooses images from the model's predictions. Its choices are kept in checkpoints."""

    @property
    def available(self) -> int:
        """Images per epoch."""
        ...

    def before_epoch(self, epoch: int, model: Classifier) -> None:
        """Called before every epoch, with the model in eval mode."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


def train_network(
    model: Classifier,
    objective: Objective,
    images: ImageSet,
    val: ImageSet | None,
    sampler: Order,
    settings: TrainingSettings,
    device: torch.device,
    scratch: Path,
) -> Outcome:
    """Train ``model`` in place.

    Args:
        model, objective: freshly initialized; they are moved to ``device``.
        images, val: the training images, and the validation images or None.
        sampler: the order of the training images; an AdaptiveSampler also chooses among them.
        settings: how to train. A ``batch_size`` above n becomes n, with a message. Without ``drop_last`` an epoch ends
            with a smaller batch, unless that has a single image: batch normalization needs at least two.
        device: where to compute.
        scratch: folder of the checkpoint of this run; an existing checkpoint is resumed.

    Raises:
        ConfigError: ``select`` without val, or batches of one image while batch normalization uses their statistics.
        TrainingError: the loss is not finite.
    """
    if settings.select == "best_val" and val is None:
        raise ConfigError(f"{settings.label}: select must be last without validation images, got best_val")
    available = sampler.available if isinstance(sampler, AdaptiveSampler) else len(images.labels)
    task = _NetworkTask(model, objective, images, val, sampler, _clamp_batch(settings, available), device, available)
    store = CheckpointStore(scratch, settings.checkpoint_every)
    try:
        return run(
            task,
            epochs=settings.epochs,
            label=settings.label,
            part=settings.part,
            store=store,
            progress=settings.progress,
        )
    finally:
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@torch.no_grad()
def accuracy(model: nn.Module, images: ImageSet, device: torch.device) -> float:
    """Top-1 accuracy in [0, 1], in eval mode and float32. The model's mode is restored."""
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with evaluating(model):
        for pixels, labels in images.eval_batches(evaluation_batch(images)):
            correct += (model(pixels).argmax(dim=1) == labels).sum()
    return int(correct) / len(images.labels)


def training_curves(history: list[dict[str, float]]) -> pd.DataFrame:
    """A history as a table for people: epoch, lr, loss, then the other columns by name. Accuracies are in percent."""
    first = ["epoch", "lr", "loss"]
    table = pd.DataFrame(history, columns=None if history else first)
    table = table[first + sorted(set(table.columns) - set(first))]
    in_percent = {name: (100 * table[name]).round(6) for name in table.columns if name.endswith("accuracy")}
    return table.assign(**in_percent)


def set_mode(model: Classifier, trainable: str, bn_mode: str) -> None:
    """Train mode, with fixed batch-norm statistics in the backbone if ``bn_mode`` is ``eval``."""
    model.train()
    set_trainable(model.backbone, trainable)
    if bn_mode == "eval":
        model.backbone.eval()


def _clamp_batch(settings: TrainingSettings, available: int) -> TrainingSettings:
    if settings.batch_size <= available:
        return settings
    LOG.info(
        f"{settings.label}: batch_size {settings.batch_size} is more than the {available} training images; "
        f"{available} is used"
    )
    return replace(settings, batch_size=available)


class _NetworkTask:
    """The task of :func:`train_network`."""

    stopped = False

    def __init__(
        self,
        model: Classifier,
        objective: Objective,
        images: ImageSet,
        val: ImageSet | None,
        sampler: Order,
        settings: TrainingSettings,
        device: torch.device,
        available: int,
    ) -> None:
        self._model, self._objective, self._sampler = model, objective, sampler
        self._images, self._val = images, val
        self._settings, self._device = settings, device
        full, rest = divmod(available, settings.batch_size)
        keeps_rest = not settings.drop_last and rest > 1
        self.steps = full + keeps_rest
        self._draws = available if keeps_rest else full * settings.batch_size
        model.to(device)
        # On the CPU channels last pays for bfloat16 alone, on a GPU always (its images come in this order already).
        self._order_views = device.type == "cpu" and settings.precision == "bf16"
        if device.type == "cuda" or self._order_views:
            model.to(memory_format=torch.channels_last)
        objective.to(device)
        objective.attach(model)
        set_mode(model, settings.trainable, settings.bn_mode)
        if settings.batch_size == 1 and any(isinstance(m, _BatchNorm) and m.training for m in model.modules()):
            raise ConfigError(
                f"{settings.label}: batch_size must be at least 2, got 1, since batch normalization uses the statistics"
                " of each batch; bn_mode: eval fixes them"
            )
        self._optimizer = create_optimizer(
            settings.optimizer,
            [model.backbone, model.head, objective],
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            slower=None if settings.backbone_lr_factor == 1 else (model.backbone, settings.backbone_lr_factor),
            constant=objective.at_constant_rate(),
        )
        self._partner = objective.partner_sampler(images.labels)
        if settings.compile:
            model.backbone.compile()
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = settings.precision == "tf32"
        self._update = OptimizerStep(self._optimizer, device, settings.precision)
        self._batches: Iterator[Batch] = iter(())
        self._rate = settings.lr

    def start_epoch(self, epoch: int) -> None:
        if isinstance(self._sampler, AdaptiveSampler):
            with evaluating(self._model):
                self._sampler.before_epoch(epoch, self._model)
        self._batches = self._draw_batches(epoch)

    def step(self, epoch: int, step: int) -> dict[str, Tensor]:
        settings = self._settings
        batch = next(self._batches)
        if self._order_views:
            batch.to_channels_last()
        self._rate = settings.lr * settings.schedule(epoch, step / self.steps)
        for group in self._optimizer.param_groups:
            rate = settings.lr if "constant_lr" in group else self._rate
            group["lr"] = rate * group.get("lr_factor", 1.0)
        torch.manual_seed(derive_seed(settings.seed, "step", epoch, step))
        position = Position(epoch, settings.epochs, step, self.steps)
        loss, logs = self._objective.step(self._model, batch, position, self._update)
        self._objective.after_step(self._model, position)
        return {"loss": loss, **logs}

    def has_failed(self) -> Tensor:
        return self._update.has_failed()

    def end_epoch(self, epoch: int, means: Mapping[str, float]) -> EpochReport:
        # An iterator at its end has stopped its loader processes, which evaluation would otherwise run beside its own.
        assert next(self._batches, None) is None, f"more than {self.steps} batches in epoch {epoch}"
        columns, score = {"lr": self._rate}, None
        if self._val is not None:
            columns["val_accuracy"] = accuracy(self._model, self._val, self._device)
            if self._settings.select == "best_val":
                score = (columns["val_accuracy"],)
        return EpochReport(columns, score, "val")

    def advise(self) -> str:
        return "lower the learning rate (lr) or raise warmup_epochs"

    def weights(self) -> dict[str, Tensor]:
        return self._model.state_dict()

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        self._model.load_state_dict(weights)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = add_prefix("model.", self._model.state_dict())
        tensors |= add_prefix("objective.", self._objective.state_dict())
        if isinstance(self._sampler, AdaptiveSampler):
            tensors |= add_prefix("sampler.", self._sampler.state_dict())
        for index, values in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items() if value is not None}
        return tensors, {}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self._model.load_state_dict(strip_prefix("model.", tensors))
        self._objective.load_state_dict(strip_prefix("objective.", tensors))
        if isinstance(self._sampler, AdaptiveSampler):
            self._sampler.load_state_dict(strip_prefix("sampler.", tensors))
        optimizer_state: dict[int, dict[str, Any]] = {}
        for name, tensor in strip_prefix("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            optimizer_state.setdefault(int(index), {})[key] = tensor
        groups = copy.deepcopy(self._optimizer.state_dict()["param_groups"])
        self._optimizer.load_state_dict({"state": optimizer_state, "param_groups": groups})
        # Checkpoints hold plain order, but the fused step walks parameter and momentum side by side in memory.
        for parameter, kept in self._optimizer.state.items():
            for key, value in kept.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    kept[key] = torch.empty_like(parameter).copy_(value)

    def _draw_batches(self, epoch: int) -> Iterator[Batch]:
        def stream(source: Order, name: str) -> Iterator[Batch]:
            seed = derive_seed(self._settings.seed, name, epoch)
            order = source.epoch(epoch, self._draws)
            return self._images.train_batches(order, self._settings.batch_size, self._objective.views, seed)

        if self._partner is None:
            yield from stream(self._sampler, "augment")
            return
        partner: Sampler = self._partner
        for batch, other in zip(stream(self._sampler, "augment"), stream(partner, "partner"), strict=True):
            batch.partner = other
            yield batch
