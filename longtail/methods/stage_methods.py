"""Methods with a stage of their own, such as DLSA. One package per method; each declares its entry as ``METHOD``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from longtail.core.params import Group
from longtail.core.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

    from longtail.artifacts.predictions import Predictions
    from longtail.evaluation.shots import Shots


class MethodTables(Protocol):
    """What the module ``tables`` of a method offers to ``evaluate``."""

    def read(self, path: Path, made_by: str) -> Any:
        """The artifact, verified. It has ``split_digest``, ``notes`` and ``control_notes``."""
        ...

    def matches(self, artifact: Any, predictions: Predictions) -> bool:
        """Whether the artifact is about the same rows as the prediction table of the method."""
        ...

    def plot_tables(
        self, artifact: Any, predictions: Predictions | None, names: Sequence[str], shots: Shots
    ) -> dict[str, pd.DataFrame]:
        """Tables by the name of their plot. Without an artifact (None) they have no rows."""
        ...

    def diagnostics(self, artifact: Any, predictions: Predictions, shots: Shots) -> dict[str, Any]:
        """Numbers about the method, as JSON."""
        ...


@dataclass(frozen=True, kw_only=True)
class StageMethod:
    """A method that a stage of its own runs, and its rows in the table.

    Attributes:
        stage: name of the stage, which writes a prediction table per row.
        rows: names of its rows, from first to last. The last is the method itself; any before it are its controls.
        params: its group in params.yaml, which has the name of the package. Its first key, ``enabled``, switches the
            method off: the stage then writes outputs that are left out, and the table has none of its rows.
        rank: place of its rows; they follow the heads.
        artifact: name of the file with what the method did, beside its model.
        needs_images: whether features alone are not enough, so that it is left out for a dataset without images.
        tables: full name of a module with the functions of :class:`MethodTables`, which reads the artifact and makes
            plot tables and numbers of it.
    """

    stage: str
    rows: tuple[str, ...]
    params: type[Group]
    rank: int
    artifact: str
    tables: str
    needs_images: bool = False

    def load_tables(self) -> MethodTables:
        """Import the module ``tables``."""
        module: Any = importlib.import_module(self.tables)
        return module


STAGE_METHODS: Registry[StageMethod] = Registry("longtail.methods", "METHOD", "method")
