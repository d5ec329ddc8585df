"""CSV, TSV and JSON files whose bytes depend on the content alone.

Lines end with LF, JSON keys are sorted, and numbers in JSON are finite.
"""

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
    path: str | Path,
    *,
    made_by: str,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    text: Sequence[str] = (),
    sep: str = ",",
) -> pd.DataFrame:
    """Read a table that must have exactly ``columns``, or these and then all ``optional`` ones.

    The columns in ``text`` stay strings, as written.

    Raises:
        ArtifactError: the file is missing or unreadable, or has other columns; ``maker`` is ``made_by``.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(path, "is missing", made_by, missing=True)
    try:
        table = pd.read_csv(path, sep=sep, keep_default_na=False, dtype=dict.fromkeys(text, str), encoding="utf-8")
    except (ValueError, OSError) as error:
        raise ArtifactError(path, f"is damaged ({error})", made_by) from error
    if list(table.columns) == [*columns, *optional]:
        columns = [*columns, *optional]
    if list(table.columns) != list(columns):
        expected, given = ", ".join(columns), ", ".join(map(str, table.columns))
        raise ArtifactError(path, f"must have the columns {expected}, got {given}", made_by)
    # pandas pads a truncated row with empty fields.
    broken = [name for name in columns if name not in text and len(table) and table[name].dtype.kind not in "iufb"]
    if broken:
        raise ArtifactError(path, f"is damaged (column {broken[0]} must hold only numbers)", made_by)
    return table


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically with sorted keys; NaN and infinities are refused with a ValueError."""
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with atomic_open(path) as file:
        file.write(text + "\n")


def read_json(path: str | Path, *, made_by: str) -> Any:
    """Read JSON.

    Raises:
        ArtifactError: the file is missing or damaged; ``maker`` is ``made_by``.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(path, "is missing", made_by, missing=True)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(path, f"is damaged ({error})", made_by) from error
