"""CSV, TSV and JSON with stable bytes: LF line ends, sorted JSON keys, finite numbers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from longtail.artifacts.atomic import atomic_open
from longtail.core.errors import ArtifactError


def write_csv(path: str | Path, table: pd.DataFrame, sep: str = ",") -> None:
    """Write a table atomically, without its row index."""
    with atomic_open(path) as file:
        table.to_csv(file, sep=sep, index=False, lineterminator="\n")


def read_csv(
    path: str | Path, *, made_by: str, columns: Sequence[str], text: Sequence[str] = (), sep: str = ","
) -> pd.DataFrame:
    """Read a table that must have exactly ``columns``; those in ``text`` stay strings, as written.

    Raises:
        ArtifactError: missing, unreadable or with other columns; names the file and its stage.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: make it with `dvc repro {made_by}`")
    try:
        table = pd.read_csv(path, sep=sep, keep_default_na=False, dtype=dict.fromkeys(text, str), encoding="utf-8")
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); make it again with `dvc repro -f {made_by}`") from error
    if list(table.columns) != list(columns):
        raise ArtifactError(
            f"{path} has columns {list(table.columns)}, expected {list(columns)}; "
            f"make it again with `dvc repro -f {made_by}`"
        )
    # pandas fills a row that was cut off with empty fields.
    broken = [name for name in columns if name not in text and len(table) and table[name].dtype.kind not in "iufb"]
    if broken:
        raise ArtifactError(
            f"{path} is damaged (column {broken[0]} is not all numbers); make it again with `dvc repro -f {made_by}`"
        )
    return table


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically with sorted keys; NaN and infinities are refused with a ValueError."""
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with atomic_open(path) as file:
        file.write(text + "\n")


def read_json(path: str | Path, *, made_by: str) -> Any:
    """Read JSON; an ArtifactError names a missing or damaged file and its stage."""
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: make it with `dvc repro {made_by}`")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}); make it again with `dvc repro -f {made_by}`") from error
