"""``data/prepared``: one common form for every dataset.

``manifest.csv`` has a row an image (index, label, part, path, sha256), ``classes.csv`` the names in label order,
``dataset.json`` what kind of set it is, and ``images.h5`` the pixels of a set that is held in memory.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from longtail.artifacts.hdf5 import read_hdf5
from longtail.artifacts.tables import read_csv, read_json
from longtail.core.errors import ArtifactError, DataError

STAGE = "prepare"
IMAGES_SCHEMA = "longtail/images/1"
MANIFEST_COLUMNS = ("index", "label", "part", "path", "sha256")
_UNDECODABLE = (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError)


@dataclass(frozen=True)
class DatasetInfo:
    """What later stages must know of a prepared dataset.

    Attributes:
        dataset: the value of the parameter ``dataset``.
        storage: ``memory`` (images.h5) or ``paths`` (files below data_root).
        image_size: side of the square that a network sees, in pixels.
        channels: 1 or 3.
        num_classes: C.
    """

    dataset: str
    storage: str
    image_size: int
    channels: int
    num_classes: int


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset without its pixels; arrays have one row an image, in index order."""

    info: DatasetInfo
    class_names: tuple[str, ...]
    labels: np.ndarray
    parts: np.ndarray
    paths: np.ndarray
    sha256: np.ndarray


def read_manifest(folder: Path) -> Manifest:
    """Read and check everything but the pixels."""
    info = DatasetInfo(**read_json(folder / "dataset.json", made_by=STAGE))
    classes = read_csv(folder / "classes.csv", made_by=STAGE, columns=("label", "name"), text=("name",))
    table = read_csv(folder / "manifest.csv", made_by=STAGE, columns=MANIFEST_COLUMNS, text=MANIFEST_COLUMNS[2:])
    if not np.array_equal(table["index"], np.arange(len(table))) or len(classes) != info.num_classes:
        raise ArtifactError(f"{folder / 'manifest.csv'} is damaged; make it again with `dvc repro -f {STAGE}`")
    return Manifest(
        info=info,
        class_names=tuple(classes["name"]),
        labels=table["label"].to_numpy(np.int64),
        parts=table["part"].to_numpy(str),
        paths=table["path"].to_numpy(str),
        sha256=table["sha256"].to_numpy(str),
    )


def read_pixels(folder: Path) -> np.ndarray:
    """(N, H, W, channels) uint8 of a set that is held in memory."""
    return read_hdf5(folder / "images.h5", schema=IMAGES_SCHEMA, made_by=STAGE).datasets["images"]


def read_verified(root: Path, path: str, sha256: str) -> bytes:
    """The bytes of one image file, refused if they are not the ones that were prepared."""
    try:
        content = (root / path).read_bytes()
    except OSError as error:
        raise DataError(f"image {root / path} cannot be read ({error.strerror}); if it moved, set data_root") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"image {root / path} has changed since it was prepared; run `dvc repro -f {STAGE}`")
    return content


def image_dimensions(content: bytes, name: Path) -> tuple[int, int]:
    """(width, height) from the header; an unreadable one is a DataError that names it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except _UNDECODABLE as error:
        raise _undecodable(name, error) from error


def decode(content: bytes, name: Path) -> Image.Image:
    """An RGB picture; an unreadable one is a DataError that names it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip these to white
                raise DataError(f"image {name} has mode {image.mode}; 8 bits a channel expected")
            return image.convert("RGB")
    except _UNDECODABLE as error:
        if isinstance(error, DataError):
            raise
        raise _undecodable(name, error) from error


def _undecodable(name: Path, error: Exception) -> DataError:
    reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
    return DataError(f"image {name} cannot be decoded: {reason}")
