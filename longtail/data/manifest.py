"""``data/prepared``: one common form for every dataset.

- ``manifest.csv`` has one row per image: index, label, part, path, sha256, group.
- ``classes.csv`` has the class names in label order.
- ``dataset.json`` has the fields of DatasetInfo.
- ``images.h5`` has the pixels, if the dataset is held in memory.
- ``bad_images.csv`` has the files that cannot be used, with the reason; usually there are none.
- ``files.csv`` has the digests of the lists or tables that name the images, if there are any.
- ``columns.csv`` has the further columns of a table by path, if there are any.

A dataset that is features has other files in place of images; see ``longtail.data.prepared_features``.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from longtail.artifacts.hdf5 import read_hdf5
from longtail.artifacts.tables import read_csv, read_json
from longtail.core.errors import ArtifactError, DataError
from longtail.data import pixels

STAGE = "prepare"
FEATURES = "features"  # the storage of a dataset without images
IMAGES_SCHEMA = "longtail/images/1"
MANIFEST_COLUMNS = ("index", "label", "part", "path", "sha256", "group")


class ChangedImageError(DataError):
    """An image file differs from the one that was prepared; ``maker`` is the stage that prepares it again."""

    maker = STAGE


@dataclass(frozen=True)
class DatasetInfo:
    """Properties of a prepared dataset that later stages need.

    Attributes:
        dataset: the value of the parameter ``dataset``.
        storage: ``memory`` (pixels in images.h5), ``paths`` (files below data_root) or ``features`` (no images).
        image_size: side of the square image that the network gets, in pixels, unless its weights have another one; 0
            without images.
        channels: 1 or 3; 0 without images.
        num_classes: C.
        sixteen_bit, resize: how files become pixels; see ``longtail.data.pixels``. Stages that read files read them
            from here.
    """

    dataset: str
    storage: str
    image_size: int
    channels: int
    num_classes: int
    sixteen_bit: str = "scale"
    resize: str = "squash"

    @property
    def without_images(self) -> str:
        """Why nothing that needs images can run; empty if the dataset has images."""
        return f"dataset: {self.dataset} has no images" if self.storage == FEATURES else ""


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset without its pixels. Arrays have one row per image, in index order.

    ``groups`` are names of what must stay in one part; empty text for an image on its own.
    """

    info: DatasetInfo
    class_names: tuple[str, ...]
    labels: np.ndarray
    parts: np.ndarray
    paths: np.ndarray
    sha256: np.ndarray
    groups: np.ndarray = field(default_factory=lambda: np.empty(0, str))


def read_info(folder: Path) -> DatasetInfo:
    """What kind of dataset it is."""
    return DatasetInfo(**read_json(folder / "dataset.json", made_by=STAGE))


def read_manifest(folder: Path) -> Manifest:
    """Read and check everything but the pixels."""
    info = read_info(folder)
    classes = read_csv(folder / "classes.csv", made_by=STAGE, columns=("label", "name"), text=("name",))
    table = read_csv(folder / "manifest.csv", made_by=STAGE, columns=MANIFEST_COLUMNS, text=MANIFEST_COLUMNS[2:])
    whole = (folder / "manifest.csv").read_bytes().endswith(b"\n")  # a cut row would lack its last, empty fields
    if not whole or not np.array_equal(table["index"], np.arange(len(table))) or len(classes) != info.num_classes:
        raise ArtifactError(folder / "manifest.csv", "is damaged (its rows do not match classes.csv)", STAGE)
    return Manifest(
        info=info,
        class_names=tuple(classes["name"]),
        labels=table["label"].to_numpy(np.int64),
        parts=table["part"].to_numpy(str),
        paths=table["path"].to_numpy(str),
        sha256=table["sha256"].to_numpy(str),
        groups=table["group"].to_numpy(str),
    )


def read_pixels(folder: Path) -> np.ndarray:
    """(N, H, W, channels) uint8: the pixels of a dataset that is held in memory."""
    return read_hdf5(folder / "images.h5", schema=IMAGES_SCHEMA, made_by=STAGE).datasets["images"]


def read_verified(root: Path, path: str, sha256: str) -> bytes:
    """The bytes of one image file, after a check that it has not changed.

    Raises:
        ChangedImageError: the file differs from the one that was prepared.
        DataError: the file cannot be read.
    """
    try:
        content = pixels.read_file(root / path)
    except pixels.BadImageError as error:
        raise DataError(f"image {root / path} {error}; if it moved, set data_root") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ChangedImageError(f"image {root / path} has changed since it was prepared")
    return content


def read_picture(root: Path, path: str, sha256: str, sixteen_bit: str = "scale") -> Image.Image:
    """One image file as an RGB picture, verified, with the pixels that ``prepare`` saw.

    Args:
        root, path, sha256: the file, and what it was when it was prepared.
        sixteen_bit: see ``longtail.data.pixels.decode``; that of the prepared dataset's ``DatasetInfo``.

    Raises:
        ChangedImageError, DataError: see ``read_verified``, or the file cannot be decoded.
    """
    return decode(read_verified(root, path, sha256), root / path, sixteen_bit)


def read_row(manifest: Manifest, root: str | Path, row: int) -> Image.Image:
    """One image of a dataset in files below ``root``. Raises what ``read_picture`` raises."""
    return read_picture(Path(root), str(manifest.paths[row]), str(manifest.sha256[row]), manifest.info.sixteen_bit)


def decode(content: bytes, name: Path, sixteen_bit: str = "scale") -> Image.Image:
    """An RGB picture. Raises a DataError that names an unreadable file."""
    try:
        return pixels.decode(content, sixteen_bit)
    except pixels.BadImageError as error:
        raise DataError(f"image {name} {error}") from error
