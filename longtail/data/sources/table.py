"""A table with one row per image: CSV, TSV, Parquet or JSON lines. Columns are found by the name in their header.

It is one file, with a column ``split`` or without one, or one file for each part.
"""

import csv
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.artifacts.digest import file_digest
from longtail.core.errors import DataError
from longtail.data.listed import LOG, PARQUET, Row, check_file, expanded, read_text, shown, to_source
from longtail.data.sources import SourceEntry
from longtail.data.sources.base import Source
from longtail.data.sources.file_lists import list_paths

if TYPE_CHECKING:
    import pandas as pd

    from longtail.data.params import ColumnParams, DatasetParams

SEPARATED = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Table:
    """A table as it is written.

    Attributes:
        columns: the columns by name, texts of the same number. A missing value is empty text.
        numbers: where each row is in the file: its line, or the number of the row in a Parquet file; from 1 on.
    """

    columns: dict[str, list[str]]
    numbers: Sequence[int]


def read_table(path: Path) -> Table:
    """Read a table, by its suffix.

    A CSV file may be separated by commas, semicolons or tabs, whichever its header has most of.

    Raises:
        DataError: the file is missing, has another suffix, is damaged, or has no rows; or a row has another number of
            fields than the header (the message has its number).
    """
    name = path.name.lower()
    plain = Path(name.removesuffix(".gz"))
    if name.endswith(PARQUET):
        table = _read_parquet(path)
    elif plain.suffix in SEPARATED:
        table = _read_separated(path, read_text(path, "table"), SEPARATED[plain.suffix])
    elif plain.suffix in JSON_LINES:
        table = _read_json_lines(path, read_text(path, "table"))
    else:
        allowed = ", ".join([*SEPARATED, *JSON_LINES])
        raise DataError(f"table {path} must be {allowed}, one of these with .gz, or {' or '.join(PARQUET)}")
    if not table.numbers:
        raise DataError(f"table {path} is empty")
    return table


def _read_separated(path: Path, text: str, separator: str) -> Table:
    lines = text.split("\n")
    header_line = next((line for line in lines if line.strip()), "")
    if separator == ",":
        separator = max(",;\t", key=header_line.count)
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
    names: list[str] = []
    rows: list[list[str]] = []
    numbers: list[int] = []
    try:
        for fields in reader:
            fields = [field.strip() for field in fields]
            if not any(fields):
                continue
            if not names:
                names = fields
                continue
            if len(fields) != len(names):
                expected = f"{len(names)} fields like the header"
                raise DataError(f"{path}, line {reader.line_num} must have {expected}, got {len(fields)}")
            rows.append(fields)
            numbers.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} cannot be read: {error}") from error
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        raise DataError(f"table {path} must have columns of different names, got {shown(min(twice))} twice")
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return Table({name: list(values) for name, values in zip(names, columns, strict=True) if name}, numbers)


def _read_json_lines(path: Path, text: str) -> Table:
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number} must be one JSON object, got {shown(line)}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} must be one JSON object, got {shown(line)}")
        rows.append(row)
        numbers.append(number)
    names = dict.fromkeys(name.strip() for row in rows for name in row)
    columns: dict[str, list[str]] = {name: [""] * len(rows) for name in names}
    for place, row in enumerate(rows):
        for name, value in row.items():
            columns[name.strip()][place] = _text(value)
    return Table(columns, numbers)


def _read_parquet(path: Path) -> Table:
    import pandas as pd

    check_file(path, "table")
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        remedy = "`pip install 'longtail[parquet]'`, or save the table as CSV"
        raise DataError(f"table {path} needs pyarrow, which is not installed: {remedy}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"table {path} cannot be read: {shown(' '.join(str(error).split()))}") from error
    columns = {
        str(name): ["" if missing else _text(value) for value, missing in zip(column, column.isna(), strict=True)]
        for name, column in frame.items()
    }
    return Table(columns, range(1, len(frame) + 1))


def _text(value: Any) -> str:
    """A value as text, stripped. Nothing and NaN are empty; a whole number that is a float stays one."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()


def load(root: Path, tables: Mapping[str, Path], columns: "ColumnParams", relabel: bool) -> Source:
    """Join the rows of one table, or of the tables of ``train``, ``test`` and perhaps ``val``.

    Args:
        root: the folder that the paths are relative to.
        tables: part -> table; ``all`` for one table of all rows, whose column ``split`` counts if there is one.
        columns: what the columns are called.
        relabel: number the numeric labels that occur in train 0..C-1. Otherwise gaps are refused.

    Raises:
        DataError: see :func:`read_table` and :func:`longtail.data.listed.to_source`; a column is missing, a field of
            ``split`` is none of the parts, or a split table lacks train or test.
    """
    import pandas as pd

    parts = [part for part in ("all", "train", "val", "test") if part in tables]
    rows: list[Row] = []
    further = []
    digests = {}
    for part in parts:
        path = tables[part]
        table = read_table(path)
        rows += _rows(path, part, table, columns)
        used = {columns.path, columns.label, columns.group, columns.split if part == "all" else None}
        others = {name: values for name, values in table.columns.items() if name not in used}
        further.append(pd.DataFrame(others, index=range(len(table.numbers)), dtype=str))
        digests["table" if part == "all" else f"lists.{part}"] = file_digest(path)
    return to_source(root, rows, relabel=relabel, digests=digests, further=_joined(further))


def _rows(path: Path, part: str, table: Table, columns: "ColumnParams") -> list[Row]:
    paths, labels = (_column(path, table, getattr(columns, role), role) for role in ("path", "label"))
    groups = _optional(path, table, columns.group, "group") or [""] * len(paths)
    splits = _optional(path, table, columns.split, "split") if part == "all" else None
    parts = [part] * len(paths) if splits is None else [SPLITS.get(given.lower(), "") for given in splits]
    rows = [
        Row(named, label, part_of, _without_fraction(group), str(path), number)
        for named, label, part_of, group, number in zip(paths, labels, parts, groups, table.numbers, strict=True)
    ]
    for row, given in zip(rows, splits or (), strict=False):
        if not row.part:
            allowed = "train, val, valid, validation or test"
            raise DataError(f"{row.place} must have {allowed} in the column {columns.split}, got {shown(given)}")
    for needed in ("train", "test"):
        if splits is not None and needed not in parts:
            raise DataError(
                f"table {path} must have train and test rows in the column {columns.split}, got no {needed} row; "
                "columns.split: null splits all rows anew"
            )
    return rows


def _without_fraction(group: str) -> str:
    """``3`` for ``3.0``, which is how programs write whole numbers beside missing ones."""
    whole, _, fraction = group.partition(".")
    return whole if fraction and whole.isdecimal() and not fraction.strip("0") else group


def _column(path: Path, table: Table, name: str, role: str) -> list[str]:
    if name not in table.columns:
        there = list(table.columns)
        close = next((column for column in there if column.lower() == name.lower()), None) or next(
            iter(difflib.get_close_matches(name, there, n=1)), None
        )
        hint = f" (did you mean columns.{role}: {close}?)" if close and len(close) <= 40 else ""
        shortened = ", ".join(column if len(column) <= 40 else column[:37] + "..." for column in there[:20])
        more = f" and {len(there) - 20} more" if len(there) > 20 else ""
        raise DataError(f"columns.{role} must be a column of {path}, got {shown(name)}{hint}; it has {shortened}{more}")
    return table.columns[name]


def _optional(path: Path, table: Table, name: str | None, role: str) -> list[str] | None:
    """A column that may be missing if its name is the default."""
    if name is None or (name == role and name not in table.columns):
        return None
    return _column(path, table, name, role)


def _joined(further: list["pd.DataFrame"]) -> "pd.DataFrame | None":
    """The further columns of all tables; empty text where a table lacks one."""
    import pandas as pd

    joined = pd.concat(further, ignore_index=True).fillna("")
    if not len(joined.columns):
        return None
    LOG.info(f"further columns are kept in columns.csv: {shown(', '.join(joined.columns))}")
    return joined


def tables_of(params: "DatasetParams") -> dict[str, Path]:
    """Part -> table, as :func:`load` takes them."""
    if params.table is not None:
        return {"all": expanded(Path(str(params.data_root)), params.table)}
    return list_paths(params)


def _files(params: "DatasetParams") -> dict[str, Path]:
    return {"table" if part == "all" else f"lists.{part}": path for part, path in tables_of(params).items()}


def _load(params: "DatasetParams", downloads: Path) -> Source:
    return load(Path(str(params.data_root)), tables_of(params), params.columns, params.relabel)


def _has_val(params: "DatasetParams") -> bool | None:
    return None if params.table is not None else params.lists.val is not None


SOURCE = SourceEntry(load=_load, needs_data_root=True, files=_files, may_be_unsplit=True, has_val=_has_val)
