"""The training loop that cRT and LWS share: softmax cross-entropy by SGD over rows that stay on the device.

SGD as in Kang et al.'s official code: momentum without dampening or Nesterov, weight decay on every trained parameter
(g' = g + wd p; v = m v + g'; p = p - lr v), cosine rate set before each epoch, floor(N/B) steps an epoch. The gradient
of softmax cross-entropy is written out, so there is no autograd. Nothing is read back from the device in an epoch.

torch is imported where it is used: importing the heads does not need it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from longtail.core.errors import ConfigError, TrainingError
from longtail.core.progress import Progress
from longtail.core.seeds import derive_seed
from longtail.data.samplers import create_sampler
from longtail.methods.heads.base import row_blocks
from longtail.train.device import torch_device
from longtail.train.schedule import create_schedule

if TYPE_CHECKING:
    import torch

SELECTIONS = ("last", "best_val")


class Scorer(Protocol):
    """Logits as a function of trained parameters and of a batch of rows, with its gradient."""

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        """The trained tensors; the loop updates them in place."""
        ...

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, K) rows -> (B, C) logits."""
        ...

    def add_gradients(
        self, rows: torch.Tensor, logit_gradient: torch.Tensor, into: Sequence[torch.Tensor], factor: float
    ) -> None:
        """Add ``factor`` times the gradient of each parameter, given that of the logits (B, C), to ``into``."""
        ...


@dataclass
class History:
    """One entry per epoch: 1-based number, learning rate, mean loss (nats) of its steps, and val accuracy in [0, 1]."""

    epoch: list[int]
    lr: list[float]
    loss: list[float]
    val_accuracy: list[float]

    def as_dict(self) -> dict[str, list[Any]]:
        """The columns by name; ``val_accuracy`` only where it was measured."""
        columns: dict[str, list[Any]] = {"epoch": self.epoch, "lr": self.lr, "loss": self.loss}
        return columns | ({"val_accuracy": self.val_accuracy} if self.val_accuracy else {})


def train(
    scorer: Scorer,
    rows: torch.Tensor,
    targets: torch.Tensor,
    *,
    method: str,
    epochs: int,
    batch_size: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    draw: Callable[[int, int], np.ndarray],
    multiplier: Callable[[int, float], float],
    val: tuple[torch.Tensor, torch.Tensor] | None = None,
    keep_best: bool = False,
    progress: str = "off",
) -> tuple[int, History]:
    """Trains the scorer's parameters in place; returns the 1-based epoch they are from, and the history.

    rows: (N, K) and targets: (N,) int64, on one device. draw(epoch, count) gives positions into rows, multiplier the
    schedule. With ``keep_best`` the parameters end as they were after the epoch of the highest accuracy on ``val``, the
    first such epoch on ties. progress: mode of the report.
    Raises TrainingError where loss or parameters stop being finite.
    """
    import torch

    assert not keep_best or val is not None
    steps = len(rows) // batch_size
    assert steps > 0, "batch_size must not exceed the number of rows"
    velocity = [torch.zeros_like(p) for p in scorer.parameters]
    minus_one = rows.new_full((batch_size, 1), -1.0)
    history, note = History([], [], [], []), ""
    best_epoch, best_accuracy, best = epochs, -1.0, None
    with torch.no_grad(), Progress(epochs * steps, method, progress) as report:
        for epoch in range(epochs):
            rate = lr * multiplier(epoch, 0.0)
            order = torch.from_numpy(draw(epoch, steps * batch_size)).to(rows.device)
            loss_sum = torch.zeros((), dtype=rows.dtype, device=rows.device)
            for batch in order.split(batch_size):
                x, y = rows.index_select(0, batch), targets.index_select(0, batch)[:, None]
                log_p = torch.log_softmax(scorer.logits(x), dim=1)
                log_p_label = log_p.gather(1, y)
                loss_sum -= log_p_label.mean()
                gradient = log_p.exp_().scatter_add_(1, y, minus_one)  # of the batch's sum
                for p, v in zip(scorer.parameters, velocity, strict=True):
                    v.mul_(momentum).add_(p, alpha=weight_decay)
                scorer.add_gradients(x, gradient, velocity, 1 / batch_size)
                for p, v in zip(scorer.parameters, velocity, strict=True):
                    p.add_(v, alpha=-rate)
                report.advance(note=note)
            finite = torch.stack([torch.isfinite(p).all() for p in scorer.parameters]).all()
            loss, parameters_finite = torch.stack([loss_sum / steps, finite.to(loss_sum.dtype)]).tolist()
            if not (np.isfinite(loss) and parameters_finite):
                raise TrainingError(
                    f"{method}: training diverged in epoch {epoch + 1} of {epochs} (mean loss {loss}); "
                    f"lower lr, now {lr}, or check the features' scale"
                )
            history.epoch.append(epoch + 1)
            history.lr.append(rate)
            history.loss.append(loss)
            note = f"epoch {epoch + 1}, loss {loss:.4f}"
            if val is not None:
                history.val_accuracy.append(_accuracy(scorer, *val))
                if keep_best and history.val_accuracy[-1] > best_accuracy:
                    best_epoch, best_accuracy = epoch + 1, history.val_accuracy[-1]
                    best = [p.clone() for p in scorer.parameters]
        if best is not None:
            for p, kept in zip(scorer.parameters, best, strict=True):
                p.copy_(kept)
    return best_epoch, history


def _accuracy(scorer: Scorer, rows: torch.Tensor, targets: torch.Tensor) -> float:
    import torch

    correct = torch.zeros((), dtype=torch.int64, device=rows.device)
    num_classes = len(scorer.parameters[0])
    for block in row_blocks(len(rows), 8 * (rows.shape[1] + num_classes)):
        correct += (scorer.logits(rows[block]).argmax(dim=1) == targets[block]).sum()
    return correct.item() / len(rows)


@dataclass(frozen=True)
class ClassBalancedSgd:
    """The data pipeline and optimiser settings of cRT and LWS; checks them and trains a scorer.

    Raises ConfigError for a value out of range.
    """

    method: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    samples_per_class: int
    select: str
    device: str
    seed: int
    progress: str = "off"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "samples_per_class"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{self.method}: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(f"{self.method}: {name} must be a finite number >= 0, got {getattr(self, name)}")
        if self.select not in SELECTIONS:
            raise ConfigError(f"{self.method}: select must be one of {', '.join(SELECTIONS)}, got {self.select!r}")

    def torch_device(self) -> torch.device:
        """The device, checked to be there."""
        return torch_device(self.device, self.method)

    def train(
        self,
        scorer: Scorer,
        rows: torch.Tensor,
        y: np.ndarray,
        val: tuple[torch.Tensor, np.ndarray] | None,
    ) -> tuple[int, History]:
        """As the function ``train``, with the class-aware sampler and the cosine schedule. y: (N,) int64."""
        import torch

        if self.select == "best_val" and val is None:
            raise ConfigError(f"{self.method}: select 'best_val' needs X_val and y_val")
        batch_size = min(self.batch_size, len(y))
        if batch_size < self.batch_size:
            logging.getLogger(__name__).info(
                "%s: batch_size %d exceeds the %d rows and becomes %d", self.method, self.batch_size, len(y), batch_size
            )
        sampler = create_sampler(
            "class_aware",
            y,
            seed=derive_seed(self.seed, self.method, "sampler"),
            epochs=self.epochs,
            samples_per_class=self.samples_per_class,
        )
        return train(
            scorer,
            rows,
            torch.from_numpy(y).to(rows.device),
            method=self.method,
            epochs=self.epochs,
            batch_size=batch_size,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            draw=sampler.epoch,
            multiplier=create_schedule("cosine", epochs=self.epochs),
            val=None if val is None else (val[0], torch.from_numpy(val[1]).to(rows.device)),
            keep_best=self.select == "best_val",
            progress=self.progress,
        )


class LinearScorer:
    """logits = x W^T + b; trains W (C, D) and b (C,)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.weight, self.bias = weight, bias

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        return self.weight, self.bias

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        return self.bias.addmm(rows, self.weight.T)

    def add_gradients(
        self, rows: torch.Tensor, logit_gradient: torch.Tensor, into: Sequence[torch.Tensor], factor: float
    ) -> None:
        weight, bias = into
        weight.addmm_(logit_gradient.T, rows, alpha=factor)
        bias.add_(logit_gradient.sum(dim=0), alpha=factor)


class ScaleScorer:
    """logits = s * z with fixed z; trains s (C,).

    Rows are z (B, C) themselves or, given ``weight`` and ``bias``, features from which z = x W^T + b is computed.
    """

    def __init__(
        self, scales: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
    ) -> None:
        self.scales, self.weight, self.bias = scales, weight, bias
        self._z: torch.Tensor | None = None  # of the last call to logits, which gradients belongs to

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        return (self.scales,)

    def fixed_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, C): z of these rows."""
        if self.weight is None:
            return rows
        z = rows @ self.weight.T
        return z if self.bias is None else z + self.bias

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        self._z = self.fixed_logits(rows)
        return self._z * self.scales

    def add_gradients(
        self, rows: torch.Tensor, logit_gradient: torch.Tensor, into: Sequence[torch.Tensor], factor: float
    ) -> None:
        assert self._z is not None
        (scales,) = into
        scales.add_((logit_gradient * self._z).sum(dim=0), alpha=factor)
