"""Published split lists: ``relative/path label`` lines, like those of ImageNet-LT, Places-LT and iNaturalist 2018."""

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from longtail.core.errors import DataError
from longtail.data.sources import SourceEntry
from longtail.data.sources.base import Source

if TYPE_CHECKING:
    from longtail.data.params import DatasetParams

MAX_DIGITS = 9


def read_list(path: Path) -> tuple[list[str], np.ndarray]:
    """Read one list, plain or ``.gz``.

    Returns:
        The relative paths and their labels, (n,) int64, in file order.

    Raises:
        DataError: the file is missing, or a line is not a path, blanks and a whole number >= 0 (the message has its
            number).
    """
    if not path.is_file():
        raise DataError(f"list file {path} is missing")
    opener = gzip.open if path.suffix == ".gz" else open
    paths: list[str] = []
    labels: list[int] = []
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                parts = line.rsplit(maxsplit=1)
                if len(parts) != 2 or not parts[1].isdecimal() or len(parts[1]) > MAX_DIGITS:
                    raise DataError(f"{path}, line {number} must be `relative/path label`, got {line.strip()!r}")
                paths.append(parts[0])
                labels.append(int(parts[1]))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"list file {path} cannot be read: {error}") from error
    return paths, np.asarray(labels, np.int64)


def load(root: Path, lists: dict[str, Path], relabel: bool) -> Source:
    """Join the lists of ``train``, ``test`` and perhaps ``val``.

    Args:
        root: the folder that the paths are relative to.
        lists: part -> list file.
        relabel: number the labels that occur in train 0..C-1, in ascending order. Otherwise gaps are refused.
    """
    paths: list[str] = []
    labels: list[np.ndarray] = []
    parts: list[str] = []
    for part in (part for part in ("train", "val", "test") if part in lists):
        listed, listed_labels = read_list(lists[part])
        paths += listed
        labels.append(listed_labels)
        parts += [part] * len(listed)
    joined, part_of = np.concatenate(labels), np.asarray(parts)
    known = np.unique(joined[part_of == "train"])
    if len(known) == 0:
        raise DataError(f"list file {lists['train']} is empty")
    strange = np.flatnonzero(~np.isin(joined, known))
    if len(strange):
        row = strange[0]
        raise DataError(f"{lists[part_of[row]]}: label {joined[row]} ({paths[row]}) does not occur in {lists['train']}")
    if known[-1] != len(known) - 1 and not relabel:
        gap = np.flatnonzero(known != np.arange(len(known)))[0]
        raise DataError(
            f"{lists['train']} must have labels 0 to C-1 without gaps, got {known[-1]} but not {gap}; set relabel: "
            "true to number the labels that occur"
        )
    names = _class_names(known, joined, paths)
    return Source(names, np.searchsorted(known, joined), part_of, root=root, paths=tuple(paths))


def _class_names(known: np.ndarray, labels: np.ndarray, paths: list[str]) -> tuple[str, ...]:
    """The folder name of each class's first image if these names differ, otherwise the labels."""
    _, first = np.unique(labels, return_index=True)
    folders = [Path(paths[row]).parent.name for row in first]
    return tuple(folders) if len(set(folders)) == len(known) and all(folders) else tuple(str(label) for label in known)


def _load(params: "DatasetParams", downloads: Path) -> Source:
    root = Path(str(params.data_root))
    lists = {part: root / name for part, name in vars(params.lists).items() if name is not None}
    return load(root, lists, params.relabel)


SOURCE = SourceEntry(load=_load, needs_data_root=True, has_val=lambda params: params.lists.val is not None)
