"""Images that a list or a table names: from rows as they are written to a :class:`Source`.

Shape legend: N images, C classes.
"""

import gzip
import logging
import os
import posixpath
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from longtail.core.errors import DataError
from longtail.data.sources.base import Source

if TYPE_CHECKING:
    import pandas as pd

Label = int | str
LOG = logging.getLogger(__name__)
MAX_DIGITS = 9
PARQUET = (".parquet", ".pq")
CUT = 80  # characters of foreign text in a message
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(rf"([0-9]{{1,{MAX_DIGITS}}})(\.0*)?")
_UNUSABLE = re.compile("[\0\r\n\ud800-\udfff]")
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Row(NamedTuple):
    """One row of a list or table, as it is written.

    Attributes:
        path: the image, relative to ``data_root``.
        label: a name, or a number such as ``3`` or ``3.0``.
        part: ``train``, ``val``, ``test`` or ``all``.
        group: what must stay in one part; empty for an image on its own.
        file: the list or table.
        number: where the row is, from 1 on: a line, or a row of a Parquet file.
    """

    path: str
    label: str
    part: str
    group: str
    file: str
    number: int

    @property
    def place(self) -> str:
        """Where the row is, such as ``train.txt, line 3``."""
        return f"{self.file}, {'row' if self.file.lower().endswith(PARQUET) else 'line'} {self.number}"


def shown(text: str) -> str:
    """Foreign text for a message: quoted, on one line, at most ``CUT`` characters."""
    return repr(text if len(text) <= CUT else text[: CUT - 3] + "...")


def natural_key(name: str) -> tuple[list[int | str], str]:
    """Sorts names as people do: ``class 2`` before ``class 10``, upper and lower case side by side."""
    pieces = re.split(r"([0-9]+)", name.casefold())
    return [int(piece) if number % 2 else piece for number, piece in enumerate(pieces)], name


def expanded(root: Path, name: str) -> Path:
    """A file that a parameter names: absolute, or relative to ``root``. ``~`` and variables are expanded."""
    return root / Path(os.path.expandvars(name)).expanduser()


def read_text(path: Path, what: str) -> str:
    """The text of a list or table, plain or ``.gz``, in UTF-8, or in UTF-16 with a byte order mark. Lines end with LF.

    Args:
        path: the file.
        what: what it is called in messages, such as ``list file``.

    Raises:
        DataError: the file is missing, cannot be read, or has NUL bytes.
    """
    check_file(path, what)
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
        text = content.decode(encoding)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{what} {path} cannot be read: {error}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{what} {path} must be text, but line {line} has a NUL byte")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_file(path: Path, what: str) -> None:
    """Raise a DataError unless ``path`` is a regular file."""
    if not path.exists():
        raise DataError(f"{what} {path} is missing")
    if not path.is_file():
        raise DataError(f"{what} {path} must be a regular file")


def to_source(
    root: Path,
    rows: Sequence[Row],
    *,
    relabel: bool,
    digests: Mapping[str, str] | None = None,
    further: "pd.DataFrame | None" = None,
) -> Source:
    """The images that ``rows`` name, each once, in the order in which they first occur.

    Numeric labels are 0..C-1. Names become classes in natural order (see :func:`natural_key`).

    Args:
        root: the folder of the images.
        rows: all rows of all parts.
        relabel: number the numeric labels that occur in train 0..C-1, in ascending order. Otherwise gaps are refused.
        digests: SHA-256 of each file that was read, by a name that stays the same wherever the file is.
        further: further columns, one row for each of ``rows``.

    Raises:
        DataError: a path or label cannot be used, a file has two labels, two groups or two parts, a group is in two
            parts, or a label does not occur in train. The message has the place of the first such row.
    """
    rows = [row._replace(path=_clean_path(root, row)) for row in rows]
    labels = _labels(rows)
    kept = _without_repeats(rows, labels)
    _check_groups([rows[number] for number in kept])
    if further is not None:
        further = further.copy()
        further.columns = [f"{name}_" if name == "path" else name for name in further.columns]
        further.insert(0, "path", [row.path for row in rows])
        further = further.iloc[kept]
    rows, labels = [rows[number] for number in kept], [labels[number] for number in kept]
    fitted = "train" if any(row.part == "train" for row in rows) else "all"
    known = _known(rows, labels, fitted, relabel)
    label_of = {value: label for label, value in enumerate(known)}
    for row, value in zip(rows, labels, strict=True):
        if value not in label_of:
            train = next(row.file for row in rows if row.part == fitted)
            where = train if train != row.file else "its training rows"
            raise DataError(f"{row.place}: label {_plain(value)} ({row.path}) does not occur in {where}")
    groups = tuple(row.group for row in rows)
    return Source(
        class_names=_class_names(known, rows, labels, fitted),
        labels=np.asarray([label_of[value] for value in labels], np.int64),
        parts=np.asarray([row.part for row in rows]),
        root=root,
        paths=tuple(row.path for row in rows),
        groups=groups if any(groups) else (),
        digests=dict(digests or {}),
        columns=further,
    )


def _clean_path(root: Path, row: Row) -> str:
    """The path relative to ``root``, with ``/`` and without detours."""
    path = unquoted(row.path.strip())
    if not path or _UNUSABLE.search(path):
        raise DataError(f"{row.place} must have the path of an image, got {shown(path)}")
    if "\\" in path and not os.path.isfile(root / path):  # noqa: PTH113 - false for a name that is too long
        path = path.replace("\\", "/")
    if path.startswith("/") and Path(path).is_relative_to(root.absolute()):
        path = str(Path(path).relative_to(root.absolute()))
    plain = posixpath.normpath(path)
    if plain.startswith("/") or plain in (".", "..") or plain.startswith("../") or re.match("[A-Za-z]:/", plain):
        raise DataError(f"{row.place} must have a path below data_root ({root}), got {shown(row.path)}")
    return plain


def unquoted(text: str) -> str:
    """``text`` without quotes around it."""
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _labels(rows: Sequence[Row]) -> list[Label]:
    """All labels as whole numbers, or all as names."""
    names = [unquoted(row.label.strip()) for row in rows]
    numeric = [_NUMBER.fullmatch(name) is not None for name in names]
    for row, name, is_number in zip(rows, names, numeric, strict=True):
        if not name or _UNUSABLE.search(name) or (is_number and not _WHOLE.fullmatch(name)):
            allowed = f"a name or a whole number of at most {MAX_DIGITS} digits"
            raise DataError(f"{row.place} must have as label {allowed}, got {shown(name)}")
        if is_number != numeric[0]:
            kinds = ("a number", "a name") if is_number else ("a name", "a number")
            raise DataError(
                f"{row.place}: label {shown(name)} is {kinds[0]}, but {shown(names[0])} ({rows[0].place}) is {kinds[1]}"
            )
    if numeric and numeric[0]:
        return [int(name.partition(".")[0]) for name in names]
    return list(names)


def _without_repeats(rows: Sequence[Row], labels: Sequence[Label]) -> list[int]:
    """The numbers of the rows that name an image for the first time. Refuses contradictions."""
    first: dict[str, int] = {}
    moved: dict[str, tuple[Row, Row]] = {}
    for number, row in enumerate(rows):
        earlier = first.setdefault(row.path, number)
        before = rows[earlier]
        for what, old, new in (("label", labels[earlier], labels[number]), ("group", before.group, row.group)):
            if old != new:
                old, new = shown(str(old)), shown(str(new))
                raise DataError(
                    f"{_shortened(row.path)} must have one {what}, got {old} ({before.place}) and {new} ({row.place})"
                )
        if before.part != row.part:
            moved.setdefault(row.path, (before, row))
    if moved:
        path, (before, row) = next(iter(moved.items()))
        raise DataError(
            f"{_shortened(path)} must be in one of train, val and test, got {before.part} ({before.place}) and "
            f"{row.part} ({row.place}); images in more than one part: {len(moved)}"
        )
    if len(first) < len(rows):
        LOG.info(f"{len(rows) - len(first)} of {len(rows)} rows repeat an image of an earlier one; each counts once")
    return list(first.values())


def _shortened(path: str) -> str:
    return path if path.isprintable() and len(path) <= CUT else shown(path)


def _check_groups(rows: Sequence[Row]) -> None:
    """Refuse a group with images in more than one part."""
    first: dict[str, Row] = {}
    moved: dict[str, Row] = {}
    for row in rows:
        if row.group and first.setdefault(row.group, row).part != row.part:
            moved.setdefault(row.group, row)
    if moved:
        group, row = next(iter(moved.items()))
        before = first[group]
        raise DataError(
            f"group {shown(group)} must be in one of train, val and test, got {before.part} ({before.place}) and "
            f"{row.part} ({row.place}); groups in more than one part: {len(moved)} (columns.group: null ignores groups)"
        )


def _known(rows: Sequence[Row], labels: Sequence[Label], fitted: str, relabel: bool) -> Sequence[Label]:
    """The classes: the labels of the training rows, in their order."""
    found = {value for row, value in zip(rows, labels, strict=True) if row.part == fitted}
    names = [value for value in found if isinstance(value, str)]
    if names:
        return sorted(names, key=natural_key)
    known = sorted(value for value in found if isinstance(value, int))
    if known[-1] != len(known) - 1 and not relabel:
        gap = next(number for number, value in enumerate(known) if value != number)
        train = next(row.file for row in rows if row.part == fitted)
        raise DataError(
            f"{train} must have labels 0 to C-1 without gaps, got {known[-1]} but not {gap}; set relabel: true to "
            "number the labels that occur"
        )
    return known


def _class_names(known: Sequence[Label], rows: Sequence[Row], labels: Sequence[Label], fitted: str) -> tuple[str, ...]:
    """The names. For numbers, the folder of each class's first path in the alphabet if these differ, or the numbers."""
    if isinstance(known[0], str):
        return tuple(str(name) for name in known)
    first: dict[Label, str] = {}
    for row, value in zip(rows, labels, strict=True):
        if row.part == fitted:
            first[value] = min(first.get(value, row.path), row.path)
    folders = [Path(first[value]).parent.name for value in known]
    return tuple(folders) if len(set(folders)) == len(known) and all(folders) else tuple(str(label) for label in known)


def _plain(value: Label) -> str:
    return shown(value) if isinstance(value, str) else str(value)
