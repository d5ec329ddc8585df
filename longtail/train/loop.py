"""One training loop for images in memory and on disk, for every objective.

The state of a run is the model, the objective, the optimizer, what an adaptive sampler chose, the best weights so far,
the history and the number of finished epochs. All randomness comes from streams named by (seed, epoch, step), so that
this state is the whole of it and an interrupted run, resumed, computes the same bits as one that was never interrupted.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from longtail.core.errors import ConfigError, TrainingError
from longtail.core.progress import Progress
from longtail.core.seeds import derive_seed
from longtail.data.samplers import Order, Sampler
from longtail.models.classifier import Classifier
from longtail.train.batches import Batch, ImageSet
from longtail.train.checkpointing import Stash, below, with_prefix
from longtail.train.extract import evaluating
from longtail.train.objective import Moment, Objective
from longtail.train.optimizer import create_optimizer
from longtail.train.optimizer_step import Update

Schedule = Callable[[int, float], float]


@dataclass(frozen=True)
class Settings:
    """How to train; see the parameters of the same names."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: Schedule
    seed: int
    optimizer: str = "sgd"
    drop_last: bool = True
    frozen: bool = False
    bn_mode: str = "train"
    select: str = "last"
    precision: str = "float32"
    compile: bool = False
    checkpoint_every: int = 5
    progress: str = "auto"
    label: str = "training"
    part: str = "checkpoint"


@runtime_checkable
class AdaptiveSampler(Order, Protocol):
    """A sampler that chooses among the images by what the model says of them; its choices are kept in checkpoints."""

    @property
    def available(self) -> int:
        """Images of an epoch."""
        ...

    def before_epoch(self, epoch: int, model: Classifier) -> None:
        """Called before every epoch, with the model in eval mode."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@dataclass
class _State:
    model: Classifier
    objective: Objective
    sampler: Order
    optimizer: torch.optim.Optimizer
    epoch: int
    history: list[dict[str, float]]
    best: dict[str, Tensor]
    best_epoch: int
    best_accuracy: float


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        history: one row an epoch: epoch, lr, loss, the objective's logs, val_accuracy in percent.
        chosen_epoch: 1-based.
        computed: epochs that this process computed; the others were resumed.
    """

    history: list[dict[str, float]]
    chosen_epoch: int
    computed: int = field(default=0, compare=False)


def train(
    model: Classifier,
    objective: Objective,
    images: ImageSet,
    val: ImageSet | None,
    sampler: Order,
    settings: Settings,
    device: torch.device,
    scratch: Path,
) -> Outcome:
    """Train ``model`` in place.

    Args:
        model, objective: freshly initialised; they are moved to ``device``.
        images, val: the training images, and the validation images or None.
        sampler: order of the training images, and with an AdaptiveSampler which of them.
        settings: how to train. ``batch_size`` above n becomes n, with a message. Without ``drop_last`` an epoch ends
            with a smaller batch, except one of a single image, of which batch normalisation can make nothing.
        device: where to compute.
        scratch: folder for the checkpoint of this very run, called ``part``; a checkpoint in it is resumed.

    Raises:
        ConfigError: ``select`` without val, or batches of one image where batch norm takes their statistics.
        TrainingError: the loss is not finite; no step was taken with it and the last checkpoint is kept.
    """
    if settings.select == "best_val" and val is None:
        raise ConfigError(f"{settings.label}: select: best_val given, but there are no val images")
    available = sampler.available if isinstance(sampler, AdaptiveSampler) else len(images.labels)
    settings, steps, draws = _fit_batch(settings, available)
    state = _start(model, objective, sampler, settings, device)
    if settings.batch_size == 1 and any(isinstance(m, _BatchNorm) and m.training for m in model.modules()):
        raise ConfigError(
            f"{settings.label}: batch_size: 1 given, at least 2 expected, since batch normalisation takes statistics "
            "of each batch; bn_mode: eval fixes them"
        )
    stash = Stash(scratch, settings.checkpoint_every)
    _resume(state, stash, settings.part)
    resumed = state.epoch
    partner = objective.partner_sampler(images.labels)
    if settings.compile:
        model.backbone.compile()
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = settings.precision == "tf32"
    update = Update(state.optimizer, device, settings.precision)
    progress = Progress(settings.epochs * steps, settings.label, settings.progress, done=state.epoch * steps)
    with progress:
        while state.epoch < settings.epochs:
            epoch = state.epoch
            if isinstance(sampler, AdaptiveSampler):
                with evaluating(model):
                    sampler.before_epoch(epoch, model)
            batches = _batches(images, sampler, partner, objective.views, settings, epoch, draws)
            row = _run_epoch(model, state, batches, settings, steps, update, progress)
            if val is not None:
                row["val_accuracy"] = accuracy(model, val, device)
            state.history.append({"epoch": epoch + 1, **row})
            state.epoch += 1
            if settings.select == "best_val" and row["val_accuracy"] > state.best_accuracy:
                state.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
                state.best_epoch, state.best_accuracy = state.epoch, row["val_accuracy"]
            if stash.due(state.epoch, state.epoch == settings.epochs):
                _save(state, stash, settings.part)
    computed = settings.epochs - resumed
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if settings.select == "best_val":
        model.load_state_dict(state.best)
        return Outcome(state.history, state.best_epoch, computed)
    return Outcome(state.history, settings.epochs, computed)


@torch.no_grad()
def accuracy(model: nn.Module, images: ImageSet, device: torch.device) -> float:
    """Top-1 accuracy in percent, in eval mode and float32; the model's mode is restored."""
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with evaluating(model):
        for pixels, labels in images.eval_batches(512):
            correct += (model(pixels).argmax(dim=1) == labels).sum()
    return round(100 * int(correct) / len(images.labels), 4)


def curves(history: list[dict[str, float]]) -> pd.DataFrame:
    """A training history as a table: epoch, lr, loss, then the other columns by name, whether or not it was resumed."""
    table = pd.DataFrame(history)
    first = ["epoch", "lr", "loss"]
    return table[first + sorted(set(table.columns) - set(first))]


def set_mode(model: Classifier, frozen: bool, bn_mode: str) -> None:
    """Train mode, with the backbone's batch-norm statistics fixed where ``bn_mode`` is ``eval``."""
    model.train()
    model.backbone.requires_grad_(not frozen)
    if bn_mode == "eval":
        model.backbone.eval()


def _fit_batch(settings: Settings, available: int) -> tuple[Settings, int, int]:
    """The settings with a possible batch size, steps an epoch, and images drawn an epoch."""
    if settings.batch_size > available:
        print(f"batch_size: {settings.batch_size} is more than the {available} training images; {available} is used")
        settings = replace(settings, batch_size=available)
    steps, rest = divmod(available, settings.batch_size)
    if settings.drop_last or rest <= 1:
        return settings, steps, steps * settings.batch_size
    return settings, steps + 1, available


def _start(model: Classifier, objective: Objective, sampler: Order, settings: Settings, device: torch.device) -> _State:
    model.to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    objective.to(device)
    objective.attach(model)
    set_mode(model, settings.frozen, settings.bn_mode)
    optimizer = create_optimizer(
        settings.optimizer,
        [model.backbone, model.head, objective],
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    return _State(model, objective, sampler, optimizer, 0, [], {}, 0, -1.0)


def _batches(
    images: ImageSet, sampler: Order, partner: Sampler | None, views: int, settings: Settings, epoch: int, draws: int
) -> Iterator[Batch]:
    def stream(source: Order, name: str) -> Iterator[Batch]:
        seed = derive_seed(settings.seed, name, epoch)
        return images.train_batches(source.epoch(epoch, draws), settings.batch_size, views, seed)

    if partner is None:
        yield from stream(sampler, "augment")
        return
    for batch, other in zip(stream(sampler, "augment"), stream(partner, "partner"), strict=True):
        batch.partner = other
        yield batch


def _run_epoch(
    model: Classifier,
    state: _State,
    batches: Iterator[Batch],
    settings: Settings,
    steps: int,
    update: Update,
    progress: Progress,
) -> dict[str, float]:
    sums: dict[str, Tensor] = {}
    lr = settings.lr
    for step, batch in enumerate(batches):
        lr = settings.lr * settings.schedule(state.epoch, step / steps)
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(derive_seed(settings.seed, "step", state.epoch, step))
        moment = Moment(state.epoch, settings.epochs, step, steps)
        loss, logs = state.objective.step(model, batch, moment, update)
        state.objective.after_step(model, moment)
        for name, value in {"loss": loss, **logs}.items():
            sums[name] = sums[name] + value.detach() if name in sums else value.detach().clone()
        if step + 1 < steps:
            progress.advance(1, update.note)
    # The only wait for the device in an epoch.
    values = torch.stack([value.double() / steps for value in sums.values()] + [update.failed().double()]).tolist()
    means = dict(zip(sums, values, strict=False))
    if values[-1]:
        raise TrainingError(
            f"{settings.label}: loss or weights are not finite in epoch {state.epoch + 1} of {settings.epochs}; the "
            "last checkpoint is kept. Lower the learning rate (lr), or raise warmup_epochs"
        )
    update.note = f"epoch {state.epoch + 1}, loss {means['loss']:.4f}"
    progress.advance(1, update.note)
    return {"lr": lr, **means}


def _save(state: _State, stash: Stash, part: str) -> None:
    tensors = {
        **with_prefix("model.", state.model.state_dict()),
        **with_prefix("objective.", state.objective.state_dict()),
        **with_prefix("best.", state.best),
    }
    if isinstance(state.sampler, AdaptiveSampler):
        tensors |= with_prefix("sampler.", state.sampler.state_dict())
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items() if value is not None}
    meta = {
        "epoch": state.epoch,
        "history": state.history,
        "best_epoch": state.best_epoch,
        "best_accuracy": state.best_accuracy,
    }
    stash.save(part, tensors, meta)


def _resume(state: _State, stash: Stash, part: str) -> None:
    found = stash.load(part)
    if found is None:
        return
    tensors, meta = found
    state.model.load_state_dict(below("model.", tensors))
    state.objective.load_state_dict(below("objective.", tensors))
    if isinstance(state.sampler, AdaptiveSampler):
        state.sampler.load_state_dict(below("sampler.", tensors))
    device = next(state.model.parameters()).device
    state.best = {name: tensor.to(device) for name, tensor in below("best.", tensors).items()}
    optimizer_state: dict[int, dict[str, Any]] = {}
    for name, tensor in below("optimizer.", tensors).items():
        index, _, key = name.partition(".")
        optimizer_state.setdefault(int(index), {})[key] = tensor
    groups = copy.deepcopy(state.optimizer.state_dict()["param_groups"])
    state.optimizer.load_state_dict({"state": optimizer_state, "param_groups": groups})
    # Checkpoints hold plain order, but the fused step walks parameter and momentum side by side in memory.
    for parameter, values in state.optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter).copy_(value)
    state.epoch, state.history = meta["epoch"], meta["history"]
    state.best_epoch, state.best_accuracy = meta["best_epoch"], meta["best_accuracy"]
    print(f"resuming after epoch {state.epoch}")
