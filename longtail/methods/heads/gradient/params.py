"""Parameters that cRT and LWS share, and what they report."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from longtail.core.params import Group, key, only_with


@dataclass(frozen=True, kw_only=True)
class HeadTrainingParams(Group):
    """Training of a head on class-aware batches. The released ImageNet-LT rate is 0.2 for batches of 512."""

    mode: Literal["cached", "online"] = key(
        "cached", "`cached`: stored features; `online`: augmented images through the frozen backbone"
    )
    bn_mode: Literal["train", "eval"] = key(
        "eval",
        "`online`: `train` lets the batch-norm statistics of the frozen backbone drift, as the released code does",
        unused=only_with(mode="online"),
    )
    epochs: int = key(10, "passes over the training rows, with a cosine rate", low=1)
    batch_size: int = key(64, "rows per step", low=1)
    lr: float = key(0.2, "base learning rate", above=0)
    momentum: float = key(0.9, "momentum of SGD", low=0, high=1)
    weight_decay: float = key(5e-4, "weight decay", low=0)
    samples_per_class: int = key(4, "rows per turn of the class-aware sampler", low=1)
    select: Literal["last", "best_val"] = key("last", "epoch kept. `best_val`: the first of highest accuracy on val")


def selection_notes(params: HeadTrainingParams, epoch: int) -> dict[str, str | int | float | bool]:
    """How a head was trained, and the 1-based epoch it is from."""
    notes: dict[str, str | int | float | bool] = {"mode": params.mode, "epoch": epoch, "select": params.select}
    if params.select == "best_val":
        notes["selected_on"] = "val"
    return notes | ({"bn_mode": params.bn_mode} if params.mode == "online" else {})


def history_arrays(history: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """Columns of a training history as arrays of a head file, ``history/NAME``."""
    return {f"history/{name}": np.asarray(values, np.float64) for name, values in history.items()}
