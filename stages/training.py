"""From a group of training parameters to the settings of a run."""

from typing import Any

import numpy as np

from longtail.core.errors import ConfigError
from longtail.train.network import TrainingSettings
from longtail.train.params import RuntimeParams, TrainingParams
from longtail.train.schedule import create_schedule


def training_settings(
    params: TrainingParams, runtime: RuntimeParams, seed: int, label: str, **further: Any
) -> TrainingSettings:
    """Settings of ``pretrain``, ``train`` or ``ipdpp``. ``further`` are those that the groups do not share."""
    settings: dict[str, Any] = {
        "epochs": params.epochs,
        "batch_size": params.batch_size,
        "lr": params.lr,
        "momentum": params.momentum,
        "weight_decay": params.weight_decay,
        "schedule": create_schedule(
            params.schedule,
            epochs=params.epochs,
            warmup_epochs=params.warmup,
            milestones=None if params.milestones == "auto" else params.milestones,
            gamma=params.gamma,
        ),
        "seed": seed,
        "optimizer": params.optimizer,
        "precision": params.precision,
        "compile": runtime.compile,
        "checkpoint_every": runtime.checkpoint_every,
        "progress": runtime.progress,
        "label": label,
    }
    return TrainingSettings(**settings | further)


def require_val(params: Any, val: np.ndarray) -> None:
    """Refuse ``select: best_val`` where the split has no validation images."""
    if params.select == "best_val" and len(val) == 0:
        raise ConfigError(
            f"{params.path}.select must be last, got best_val: the split has no validation images; set "
            f"val_per_class above 0"
        )
