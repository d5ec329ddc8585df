"""Parameters of heads that are trained by gradient descent, and what they report."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from longtail.core.params import Auto, Group, key, only_with

LR, WEIGHT_DECAY, BATCH_SIZE = 0.2, 5e-4, 512  # of the released ImageNet-LT configurations


@dataclass(frozen=True, kw_only=True)
class SgdParams(Group):
    """Training of a head on stored features."""

    auto_batch_size: ClassVar[int] = BATCH_SIZE

    epochs: int = key(10, "passes over the training rows, with a cosine rate", low=1)
    batch_size: int | Auto = key("auto", "rows per step. auto: 512, at most an eighth of the rows", low=1)
    lr: float | Auto = key("auto", "base learning rate", above=0, published="0.2")
    momentum: float = key(0.9, "momentum of SGD", low=0, high=1)
    weight_decay: float | Auto = key("auto", "weight decay", low=0, published="5e-4")
    select: Literal["auto", "last", "best_val"] = key(
        "auto",
        "epoch kept. `best_val`: the first of highest accuracy on val. auto: the first of highest mean class accuracy "
        "on held-out rows, if any",
        published="best on val",
    )

    def batch_rows(self, rows: int) -> int:
        """Rows per step for ``rows`` training rows; more than those if a number says so."""
        return max(1, min(self.auto_batch_size, rows // 8)) if self.batch_size == "auto" else self.batch_size


@dataclass(frozen=True, kw_only=True)
class HeadTrainingParams(SgdParams):
    """Training of a head on class-aware batches. The released ImageNet-LT rate is 0.2 for batches of 512."""

    mode: Literal["cached", "online"] = key(
        "cached", "`cached`: stored features; `online`: augmented images through the frozen backbone"
    )
    bn_mode: Literal["train", "eval"] = key(
        "eval",
        "`online`: `train` lets the batch-norm statistics of the frozen backbone drift, as the released code does",
        unused=only_with(mode="online"),
    )
    samples_per_class: int = key(4, "rows per turn of the class-aware sampler", low=1)
    select: Literal["auto", "last", "best_val"] = key(
        "auto",
        "epoch kept. `best_val`: the first of highest accuracy on val. auto: the first of highest mean class accuracy "
        "on held-out rows, if any; the last one with `mode: online`",
        published="best on val",
    )

    @property
    def released_lr(self) -> float:
        """The rate; the released one if it is ``auto``."""
        return LR if self.lr == "auto" else self.lr

    @property
    def released_weight_decay(self) -> float:
        """The weight decay; the released one if it is ``auto``."""
        return WEIGHT_DECAY if self.weight_decay == "auto" else self.weight_decay


def selection_notes(
    params: HeadTrainingParams, epoch: int, selected_on: str = ""
) -> dict[str, str | int | float | bool]:
    """How a head was trained, the 1-based epoch it is from, and the rows that chose it."""
    notes: dict[str, str | int | float | bool] = {"mode": params.mode, "epoch": epoch, "select": params.select}
    if selected_on or params.select == "best_val":
        notes["selected_on"] = selected_on or "val"
    return notes | ({"bn_mode": params.bn_mode} if params.mode == "online" else {})


def chosen_notes(epoch: int, selected_on: str, **settings: float) -> dict[str, str | int | float | bool]:
    """The settings in use, the 1-based epoch of the weights, and the rows that chose these; empty for none."""
    return {**settings, "epoch": epoch, **({"selected_on": selected_on} if selected_on else {})}


def history_arrays(history: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """Columns of a training history as arrays of a head file, ``history/NAME``."""
    return {f"history/{name}": np.asarray(values, np.float64) for name, values in history.items()}
