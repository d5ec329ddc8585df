"""What every repair is given and gives back."""

from dataclasses import dataclass, field

import numpy as np

from longtail.artifacts.digest import Scalar
from longtail.artifacts.features import Features
from longtail.core.config import Params
from longtail.core.errors import ConfigError
from longtail.core.head import ClassMeans, LinearHead


@dataclass(frozen=True)
class Inputs:
    """Features of the three split parts, the stage-1 head (None with foreign features) and the repair's own seed."""

    params: Params
    train: Features
    val: Features | None
    test: Features
    head: LinearHead | None
    head_notes: dict[str, Scalar]
    seed: int


@dataclass(frozen=True)
class Repair:
    """A repaired classifier.

    Attributes:
        head: the content of the head file.
        scores: (M, C) of the test rows.
        likelihood: whether softmax(scores) is a model's likelihood.
        selected_on_test: whether something was chosen on the test rows.
        extra, notes: further arrays and remarks of the head file.
    """

    head: LinearHead | ClassMeans
    scores: np.ndarray
    likelihood: bool = True
    selected_on_test: bool = False
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, Scalar] = field(default_factory=dict)


def validation_rows(inputs: Inputs) -> tuple[np.ndarray | None, np.ndarray | None]:
    """X_val and y_val for an estimator's ``fit``; both None where the split holds no val rows."""
    if inputs.val is None or len(inputs.val.labels) == 0:
        return None, None
    return inputs.val.features, inputs.val.labels


def require_val(method: str, select: str, inputs: Inputs) -> None:
    """Refuse ``select: best_val`` where there is nothing to select on."""
    if select == "best_val" and validation_rows(inputs)[0] is None:
        raise ConfigError(
            f"{method}.select: best_val given, but the split has no val images; set val_per_class above 0"
        )


def history_arrays(history: dict[str, list[float]]) -> dict[str, np.ndarray]:
    """Columns of a training history as arrays of a head file, ``history/NAME``."""
    return {f"history/{name}": np.asarray(values, np.float64) for name, values in history.items()}
