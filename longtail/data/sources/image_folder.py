"""The user's own folder: ``train/CLASS/*.jpg``, ``test/CLASS/*.jpg`` and optionally ``val/CLASS/*.jpg``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from longtail.core.errors import DataError
from longtail.data.sources import SourceEntry
from longtail.data.sources.base import Source

if TYPE_CHECKING:
    from longtail.data.params import DatasetParams

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def load(root: Path) -> Source:
    """List the images below ``root``. Classes are the sorted folder names of ``train``; files are sorted by name."""
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise DataError(
                f"data_root must have the folders train/CLASS and test/CLASS for dataset: image_folder, but "
                f"{root / part} is missing"
            )
    names = tuple(sorted(entry.name for entry in os.scandir(root / "train") if entry.is_dir()))
    if len(names) < 2:
        raise DataError(f"data_root must have at least 2 class folders in {root / 'train'}, got {len(names)}")
    label_of = {name: label for label, name in enumerate(names)}
    paths: list[str] = []
    labels: list[int] = []
    parts: list[str] = []
    for part in ("train", "val", "test"):
        if not (root / part).is_dir():
            continue
        for entry in sorted(os.scandir(root / part), key=lambda item: item.name):
            if not entry.is_dir():
                continue
            if entry.name not in label_of:
                raise DataError(f"data_root has the class folder {entry.path}, but {root / 'train'} has no such class")
            files = sorted(file.name for file in os.scandir(entry.path) if file.name.lower().endswith(SUFFIXES))
            _require_utf8(entry.name, *files)
            paths += [f"{part}/{entry.name}/{file}" for file in files]
            labels += [label_of[entry.name]] * len(files)
            parts += [part] * len(files)
    return Source(names, np.asarray(labels, np.int64), np.asarray(parts), root=root, paths=tuple(paths))


def _require_utf8(*names: str) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"data_root must have file names in UTF-8, got {name!a}") from error


def _has_val(params: "DatasetParams") -> bool | None:
    root = Path(str(params.data_root))
    return any(path.is_file() for path in (root / "val").rglob("*")) if root.is_dir() else None


SOURCE = SourceEntry(
    load=lambda params, downloads: load(Path(str(params.data_root))), needs_data_root=True, has_val=_has_val
)
