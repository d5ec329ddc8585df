"""Outputs of a stage that does not apply: its method is switched off, or the dataset has no images."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from longtail.artifacts.left_out import write_left_out
from longtail.artifacts.tables import write_csv
from longtail.data.manifest import read_info
from stages.context import Context
from stages.paths import COST, PREPARED

CURVE = ("epoch", "lr", "loss")


def without_images() -> str:
    """Why a stage that needs images is left out; empty if the dataset has images."""
    return read_info(PREPARED).without_images


def leave_out(context: Context, reason: str, files: Iterable[Path], tables: Mapping[Path, Sequence[str]]) -> None:
    """Write all outputs of a stage without having run it, and print why.

    Args:
        context: the run of the stage. Its cost file of an earlier run is removed.
        reason: as ``key: value`` to blame and perhaps more.
        files: checkpoints and HDF5 files.
        tables: columns of each CSV or TSV file, which gets no rows.
    """
    for path in files:
        write_left_out(path, reason)
    for path, columns in tables.items():
        write_csv(path, pd.DataFrame(columns=list(columns)), sep="\t" if path.suffix == ".tsv" else ",")
    (COST / f"{context.stage}.json").unlink(missing_ok=True)
    print(f"left out: {reason}")
