"""The training task of the heads.

SGD as in Kang et al.'s official code: momentum without dampening or Nesterov, weight decay on every trained parameter
(g' = g + wd p; v = m v + g'; p = p - lr v), a cosine rate set before each epoch, floor(N/B) steps per epoch. All
gradients are written out, so there is no autograd.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longtail.data.samplers import Order
from longtail.methods.heads.base import row_blocks
from longtail.methods.heads.gradient.params import SgdParams
from longtail.methods.heads.gradient.row_loss import RowLoss
from longtail.methods.heads.gradient.scorers import Scorer
from longtail.train.loop import EpochReport
from longtail.train.schedule import create_schedule


class RowsTask:
    """Trains a scorer on rows of features or logits.

    Args:
        scorer: what is trained, in place.
        rows: (N, K), on the device.
        y: (N,) int64 class positions.
        val: the same of the validation rows, or None.
        sampler: the order of the rows.
        params: momentum, and the epochs of the whole schedule.
        batch_size: B, at most N.
        lr, weight_decay: of SGD.
        select: ``last``, ``best_val`` (accuracy) or ``auto`` (mean class accuracy, if there are validation rows).
        loss: of a batch.
        after_step: called after every step, for example to project the parameters.
    """

    stopped = False

    def __init__(
        self,
        scorer: Scorer,
        rows: Tensor,
        y: np.ndarray,
        val: tuple[Tensor, np.ndarray] | None,
        sampler: Order,
        params: SgdParams,
        batch_size: int,
        lr: float,
        weight_decay: float,
        select: str,
        loss: RowLoss | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        self.steps = len(rows) // batch_size
        assert self.steps > 0, "batch_size must not exceed the number of rows"
        self._scorer, self._sampler, self._params, self._batch_size = scorer, sampler, params, batch_size
        self._lr, self._weight_decay, self._select = lr, weight_decay, select
        self._rows, self._targets = rows, torch.from_numpy(y).to(rows.device)
        self._val = None if val is None else (val[0], torch.from_numpy(val[1]).to(rows.device))
        self._multiplier = create_schedule("cosine", epochs=params.epochs)
        self._velocity = [torch.zeros_like(p) for p in scorer.parameters]
        self._loss, self._after_step = loss or RowLoss(), after_step
        self._rate = lr
        self._order: tuple[Tensor, ...] = ()

    def start_epoch(self, epoch: int) -> None:
        self._rate = self._lr * self._multiplier(epoch, 0.0)
        order = torch.from_numpy(self._sampler.epoch(epoch, self.steps * self._batch_size)).to(self._rows.device)
        self._order = order.split(self._batch_size)

    @torch.no_grad()
    def step(self, epoch: int, step: int) -> dict[str, Tensor]:
        scorer, params, batch = self._scorer, self._params, self._order[step]
        x, y = self._rows.index_select(0, batch), self._targets.index_select(0, batch)[:, None]
        loss, gradient = self._loss(scorer.logits(x), y)
        for p, v in zip(scorer.parameters, self._velocity, strict=True):
            v.mul_(params.momentum).add_(p, alpha=self._weight_decay)
        scorer.add_gradients(x, gradient, self._velocity, 1 / self._batch_size)
        for p, v in zip(scorer.parameters, self._velocity, strict=True):
            p.add_(v, alpha=-self._rate)
        if self._after_step is not None:
            self._after_step()
        return {"loss": loss}

    def has_failed(self) -> Tensor:
        # A loss that is not finite shows in the mean of the epoch, which the loop checks.
        return ~torch.stack([torch.isfinite(p).all() for p in self._scorer.parameters]).all()

    def end_epoch(self, epoch: int, means: Mapping[str, float]) -> EpochReport:
        return self.report()

    def report(self) -> EpochReport:
        """The rate, and how the present weights do on the validation rows."""
        columns = {"lr": self._rate}
        if self._val is None:
            return EpochReport(columns)
        correct, counts = self._hits(*self._val)
        columns["val_accuracy"] = float(correct.sum() / counts.sum())
        if self._select == "best_val":
            return EpochReport(columns, (columns["val_accuracy"],), "val")
        present = counts > 0
        columns["val_macro"] = float(np.mean(correct[present] / counts[present]))
        return EpochReport(columns, (columns["val_macro"],) if self._select == "auto" else None, "val")

    def advise(self) -> str:
        return f"lower {self._params.path}.lr, now {self._lr:g}, or check the scale of the features"

    def weights(self) -> dict[str, Tensor]:
        return {str(number): p for number, p in enumerate(self._scorer.parameters)}

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        for number, p in enumerate(self._scorer.parameters):
            p.copy_(weights[str(number)])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        velocity = {f"velocity.{number}": v for number, v in enumerate(self._velocity)}
        return self.weights() | velocity, {}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self.set_weights(tensors)
        for number, v in enumerate(self._velocity):
            v.copy_(tensors[f"velocity.{number}"])

    @torch.no_grad()
    def _hits(self, rows: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Correct predictions and rows of each class, (C,) each."""
        num_classes = len(self._scorer.parameters[0])
        correct = torch.zeros(num_classes, dtype=torch.int64, device=rows.device)
        for block in row_blocks(len(rows), 8 * (rows.shape[1] + num_classes)):
            right = self._scorer.logits(rows[block]).argmax(dim=1) == targets[block]
            correct += torch.bincount(targets[block][right], minlength=num_classes)
        return correct.cpu().numpy(), torch.bincount(targets, minlength=num_classes).cpu().numpy()
