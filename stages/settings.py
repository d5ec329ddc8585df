"""From a group of parameters to the settings of a training run."""

from typing import Any

from longtail.core.config import Runtime, Training
from longtail.train.loop import Settings
from longtail.train.schedule import create_schedule


def settings_of(group: Training, runtime: Runtime, seed: int, label: str, **further: Any) -> Settings:
    """Settings as ``pretrain``, ``train`` or ``ipdpp`` say; ``further`` are those that the groups do not share."""
    settings: dict[str, Any] = {
        "epochs": group.epochs,
        "batch_size": group.batch_size,
        "lr": group.lr,
        "momentum": group.momentum,
        "weight_decay": group.weight_decay,
        "schedule": create_schedule(
            group.schedule,
            epochs=group.epochs,
            warmup_epochs=group.warmup,
            milestones=None if group.milestones == "auto" else group.milestones,
            gamma=group.gamma,
        ),
        "seed": seed,
        "optimizer": group.optimizer,
        "precision": group.precision,
        "compile": runtime.compile,
        "checkpoint_every": runtime.checkpoint_every,
        "progress": runtime.progress,
        "label": label,
    }
    return Settings(**settings | further)
