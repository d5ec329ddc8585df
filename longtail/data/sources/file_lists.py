"""Published split lists: ``relative/path label`` lines, like those of ImageNet-LT, Places-LT and iNaturalist 2018."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from longtail.artifacts.digest import file_digest
from longtail.core.errors import DataError
from longtail.data.listed import LOG, Row, expanded, read_text, shown, to_source
from longtail.data.sources import SourceEntry
from longtail.data.sources.base import Source

if TYPE_CHECKING:
    from longtail.data.params import DatasetParams

FORM = "`relative/path label`"
HEADERS = ("path", "file", "filename", "file_name", "image", "image_id", "image_path", "img", "name", "id")
LABEL_HEADERS = ("label", "labels", "class", "class_id", "class_name", "category", "target", "dx", "y")
_QUOTED_PATH = re.compile(r"""(["'])(?P<path>.+?)\1\s+(?P<label>.+)""")
_QUOTED_LABEL = re.compile(r"""(?P<path>.*\S)\s+(["'])(?P<label>.+)\2""")
_IMAGE_NAME = re.compile(r".*\.(jpe?g|jpe|jfif|png|bmp|gif|webp|tiff?|avif|heic|p[pg]m)", re.IGNORECASE)


def read_list(path: Path, part: str = "train") -> list[Row]:
    """Read one list, plain or ``.gz``.

    A line is a path, blanks and a label. The label is what follows the last tab if there is one, otherwise the last
    word. Each may be in quotes. Empty lines, lines that begin with ``#``, and a first line of two column names are
    passed over; how many is logged.

    Returns:
        Its rows in file order.

    Raises:
        DataError: the file is missing or has no rows, or a line has another form (the message has its number).
    """
    text = read_text(path, "list file")
    _refuse_json(path, text)
    rows: list[Row] = []
    passed_over = 0
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line:
            continue
        if line.startswith("#") or (not rows and _is_header(line)):
            passed_over += 1
            continue
        named, label = _parse(line, f"{path}, line {number}")
        rows.append(Row(named, label, part, "", str(path), number))
    if passed_over:
        LOG.info(f"{path}: {passed_over} comment or header lines are passed over")
    if not rows:
        raise DataError(f"list file {path} is empty")
    return rows


def _refuse_json(path: Path, text: str) -> None:
    if re.match(r'\s*(\{\s*["}]|\[\s*[\[{])', text):
        raise DataError(
            f"list file {path} must have lines of {FORM}, got JSON; dataset: table reads JSON lines with a path and a "
            "label each"
        )


def _is_header(line: str) -> bool:
    words = line.lower().split()
    return len(words) == 2 and words[0] in HEADERS and words[1] in LABEL_HEADERS


def _parse(line: str, place: str) -> tuple[str, str]:
    """Path and label of a line without blanks around it."""
    match = _QUOTED_PATH.fullmatch(line) or _QUOTED_LABEL.fullmatch(line)
    if match:
        return match["path"], match["label"].strip()
    named, label = ([*line.rsplit("\t" if "\t" in line else None, 1), ""])[:2]
    if label and not re.search(r"[/\\,;]", label) and not _IMAGE_NAME.fullmatch(label):
        return named.strip(), label.strip()
    hint = "; dataset: table reads CSV files with a header" if re.search("[,;]", label or named) else ""
    raise DataError(f"{place} must be {FORM}, got {shown(line)}{hint}")


def load(root: Path, lists: dict[str, Path], relabel: bool) -> Source:
    """Join the lists of ``train``, ``test`` and perhaps ``val``.

    Args:
        root: the folder that the paths are relative to.
        lists: part -> list file.
        relabel: number the labels that occur in train 0..C-1, in ascending order. Otherwise gaps are refused. Labels
            that are names are always numbered.

    Raises:
        DataError: see :func:`read_list` and :func:`longtail.data.listed.to_source`.
    """
    parts = [part for part in ("train", "val", "test") if part in lists]
    rows = [row for part in parts for row in read_list(lists[part], part)]
    digests = {f"lists.{part}": file_digest(lists[part]) for part in parts}
    return to_source(root, rows, relabel=relabel, digests=digests)


def list_paths(params: "DatasetParams") -> dict[str, Path]:
    """The list file of each part that has one."""
    root = Path(str(params.data_root))
    return {part: expanded(root, name) for part, name in vars(params.lists).items() if name is not None}


def _files(params: "DatasetParams") -> dict[str, Path]:
    return {f"lists.{part}": path for part, path in list_paths(params).items()}


def _load(params: "DatasetParams", downloads: Path) -> Source:
    return load(Path(str(params.data_root)), list_paths(params), params.relabel)


SOURCE = SourceEntry(
    load=_load, needs_data_root=True, files=_files, has_val=lambda params: params.lists.val is not None
)
