"""How heads are trained: softmax cross-entropy by SGD on rows that stay on the device.

torch is imported where it is used, so importing the heads does not need it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from longtail.core.errors import ConfigError
from longtail.core.seeds import derive_seed
from longtail.data.samplers import create_sampler
from longtail.methods.heads.gradient.params import HeadTrainingParams, SgdParams
from longtail.methods.heads.gradient.scorers import Scorer
from longtail.train.device import torch_device

if TYPE_CHECKING:
    import torch

    from longtail.methods.heads.gradient.row_loss import RowLoss
    from longtail.train.checkpointing import CheckpointStore
    from longtail.train.loop import Outcome

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadSgd:
    """SGD with a cosine schedule on shuffled rows or, for cRT and LWS, on class-aware batches.

    Attributes:
        params: epochs, batch size and so on. A batch size above N becomes N, with a message.
        device: a torch device.
        seed: seed of the sampler.
        progress: mode of the progress report.
        store: where checkpoints of unfinished training are kept; None keeps none.
    """

    params: SgdParams
    device: str
    seed: int
    progress: str = "off"
    store: CheckpointStore | None = None

    @property
    def method(self) -> str:
        """The name of the method in messages."""
        return self.params.path

    def torch_device(self) -> torch.device:
        """The device, checked to be there."""
        return torch_device(self.device, self.method)

    def train(
        self,
        scorer: Scorer,
        rows: torch.Tensor,
        y: np.ndarray,
        val: tuple[torch.Tensor, np.ndarray] | None,
        *,
        lr: float,
        weight_decay: float,
        select: str,
        epochs: int | None = None,
        part: str = "",
        judge_start: bool = False,
        loss: RowLoss | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> Outcome:
        """Train the parameters of ``scorer`` in place.

        Args:
            scorer: what is trained.
            rows: (N, K), on the device.
            y: (N,) int64 class positions.
            val: the same of the validation rows, or None.
            lr, weight_decay, select: those of ``params``, or what the method puts in the place of ``auto``.
            epochs: stop after this many epochs of the schedule; None trains all.
            judge_start: whether the start counts as epoch 0 for ``select``.
            part: ending of the checkpoint's name, for a method that trains several times.
            loss: of a batch; None is cross-entropy.
            after_step: called after every step.

        Raises:
            ConfigError: ``select: best_val`` without validation rows.
            TrainingError: the loss or a parameter stops being finite.
        """
        from longtail.methods.heads.gradient.task import RowsTask
        from longtail.train.checkpointing import CheckpointStore
        from longtail.train.loop import run

        params = self.params
        if select == "best_val" and val is None:
            raise ConfigError(f"{self.method}.select must be last without X_val and y_val, got best_val")
        wanted = params.batch_rows(len(y))
        batch_size = min(wanted, len(y))
        if batch_size < wanted:
            LOG.info(f"{self.method}: batch_size {wanted} is more than the {len(y)} rows; {batch_size} is used")
        stream = derive_seed(self.seed, self.method, "sampler")
        if isinstance(params, HeadTrainingParams):
            sampler = create_sampler(
                "class_aware", y, seed=stream, epochs=params.epochs, samples_per_class=params.samples_per_class
            )
        else:
            sampler = create_sampler("instance", y, seed=stream, epochs=params.epochs)
        task = RowsTask(scorer, rows, y, val, sampler, params, batch_size, lr, weight_decay, select, loss, after_step)
        return run(
            task,
            epochs=params.epochs if epochs is None else epochs,
            label=self.method + (f" ({part.replace('_', ' ')})" if part else ""),
            part="_".join(filter(None, (self.method, part))),
            store=self.store or CheckpointStore(),
            progress=self.progress,
            start=task.report if judge_start else None,
        )
