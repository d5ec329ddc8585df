"""Write a source in the common form of ``data/prepared``."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from longtail.artifacts.hdf5 import write_hdf5
from longtail.artifacts.tables import write_csv, write_json
from longtail.core.errors import ConfigError, DataError
from longtail.data.manifest import IMAGES_SCHEMA, MANIFEST_COLUMNS, DatasetInfo
from longtail.data.own_files import write_files
from longtail.data.sources.base import Source, check_labels
from longtail.data.survey import Survey, describe_bad, survey, without, write_bad_images

MEMORY_BUDGET = 2**30  # bytes of pixels that `storage: auto` holds in memory
SMALL_SIDE = 64
PATH_SIDE = 224
SMALL_MEDIAN = 128
BAD_IMAGES = "bad_images.csv"


def prepare(
    source: Source,
    folder: Path,
    *,
    dataset: str,
    image_size: int | None,
    storage: str,
    workers: int,
    progress: str,
    resize_later: bool = False,
    sixteen_bit: str = "scale",
    resize: str = "squash",
    bad_images: str = "refuse",
) -> DatasetInfo:
    """Write ``source`` in the common form to ``folder``.

    Args:
        source: what a source module returned.
        folder: usually ``data/prepared``.
        dataset: recorded name.
        image_size: side in pixels, or None for the source's own size. Then an array keeps its size, and so do files
            that are all squares of one size up to 64. Other files become 64 in memory and 224 from paths.
        storage: ``auto``, ``memory`` or ``paths``. ``auto`` holds files in memory if their median shorter side is at
            most 128 pixels and their pixels fit in 1 GiB. An array that is resized must fit in 1 GiB too, unless
            ``memory`` is given.
        workers: decoding threads.
        progress: mode of the progress report.
        resize_later: images are resized where the network reads them, to a size that only later stages know. Then an
            array keeps its size, and ``auto`` leaves files where they are.
        sixteen_bit: what happens to images of more than 8 bits: see ``longtail.data.pixels.decode``.
        resize: how a file becomes a square: see ``longtail.data.pixels.squared``.
        bad_images: what happens if files cannot be decoded. ``refuse`` raises an error, ``skip`` prints a remark and
            leaves them out. Both list all of them in ``bad_images.csv``.

    Raises:
        ConfigError: image_size makes an array too large.
        DataError: images cannot be read (the message names the first ten), or a class or label cannot be used.
    """
    check_labels(source.labels, source.class_names, f"dataset: {dataset}")
    digests: Sequence[str] = [""] * len(source.labels)
    pixels = source.images
    if source.images is not None:
        if storage == "paths":
            raise DataError(f"storage must be auto or memory for dataset: {dataset}, which is an array, got paths")
        size = (None if resize_later else image_size) or source.images.shape[1]
        if size != source.images.shape[1]:
            if storage == "auto":
                _check_memory(len(source.images), size, source.images.shape[3])
            pixels = _resize_all(source.images, size)
        storage = "memory"
        write_bad_images(folder / BAD_IMAGES, source, {})
    else:
        assert source.root is not None
        found = survey(
            source.root,
            source.paths,
            lambda sizes: _choose(sizes, image_size, storage, resize_later),
            headers=storage == "auto" or (image_size is None and (storage == "memory" or resize_later)),
            sixteen_bit=sixteen_bit,
            resize=resize,
            workers=workers,
            progress=progress,
        )
        write_bad_images(folder / BAD_IMAGES, source, found.bad)
        source, digests, pixels = _usable(source, found, bad_images, folder / BAD_IMAGES)
        check_labels(source.labels, source.class_names, f"dataset: {dataset}")
        size, storage = found.size, found.storage
        _report(found, len(source.labels), sixteen_bit)
    channels = 3 if pixels is None else pixels.shape[3]
    info = DatasetInfo(dataset, storage, size, channels, len(source.class_names), sixteen_bit, resize)
    rows = range(len(source.labels))
    paths = source.paths or [""] * len(source.labels)
    groups = source.groups or [""] * len(source.labels)
    columns = [rows, source.labels, source.parts, paths, digests, groups]
    if pixels is not None:
        write_hdf5(folder / "images.h5", {"images": pixels, "labels": source.labels}, {}, schema=IMAGES_SCHEMA)
    write_csv(folder / "manifest.csv", pd.DataFrame(dict(zip(MANIFEST_COLUMNS, columns, strict=True))))
    write_csv(folder / "classes.csv", pd.DataFrame({"label": range(info.num_classes), "name": source.class_names}))
    write_files(folder, source.digests)
    _write_columns(folder / "columns.csv", source)
    write_json(folder / "dataset.json", asdict(info))
    return info


def _write_columns(path: Path, source: Source) -> None:
    if source.columns is None:
        path.unlink(missing_ok=True)
    else:
        write_csv(path, source.columns)


def _usable(
    source: Source, found: Survey, bad_images: str, table: Path
) -> tuple[Source, Sequence[str], np.ndarray | None]:
    """The source without its bad images, and the digests and pixels of the others."""
    bad = found.bad
    if not bad:
        return source, found.digests, found.pixels
    some = describe_bad(source, bad)
    if bad_images == "refuse":
        raise DataError(
            f"{len(bad)} of {len(source.labels)} images below {source.root} cannot be used (bad_images: skip leaves "
            f"them out; {table} lists them): {some}"
        )
    kept = without(source, bad, table)
    print(f"{len(bad)} of {len(source.labels)} images are left out (bad_images: skip; {table} lists them): {some}")
    digests = [digest for row, digest in enumerate(found.digests) if row not in bad]
    return kept, digests, None if found.pixels is None else np.delete(found.pixels, list(bad), axis=0)


def _report(found: Survey, images: int, sixteen_bit: str) -> None:
    if found.deep:
        what = "scaled to 8 bits" if sixteen_bit == "scale" else "scaled from their own smallest and largest value"
        print(f"{found.deep} of {images} images have more than 8 bits per channel: {what} (sixteen_bit: {sixteen_bit})")
    if found.storage == "memory":
        print(f"{images} images are held in memory at {found.size} x {found.size} pixels (image_size)")


def _choose(sizes: np.ndarray | None, image_size: int | None, storage: str, resize_later: bool) -> tuple[int, str]:
    """Side and storage of files. ``sizes`` (n, 2) are their widths and heights; None if they do not matter."""
    alike = sizes is not None and bool((sizes == sizes[0, 0]).all()) and sizes[0, 0] <= SMALL_SIDE
    own = int(sizes[0, 0]) if alike and sizes is not None else None
    in_memory = image_size or own or SMALL_SIDE
    if resize_later and storage != "memory":
        return image_size or own or PATH_SIDE, "paths"
    if storage == "auto":
        small = sizes is not None and np.median(sizes.min(axis=1)) <= SMALL_MEDIAN
        fits = sizes is not None and len(sizes) * in_memory**2 * 3 <= MEMORY_BUDGET
        storage = "memory" if small and fits else "paths"
    return (in_memory if storage == "memory" else image_size or PATH_SIDE), storage


def _resize_all(images: np.ndarray, size: int) -> np.ndarray:
    """(N, size, size, channels) uint8, allocated once."""
    resized = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for row, image in enumerate(images):
        resized[row] = _resize(image, size)
    return resized


def _check_memory(images: int, size: int, channels: int) -> None:
    needed = images * size * size * channels
    if needed > MEMORY_BUDGET:
        largest = math.isqrt(MEMORY_BUDGET // (images * channels))
        raise ConfigError(
            f"image_size must be at most {largest} for {images} images in memory, got {size}, which needs {needed} "
            f"bytes where {MEMORY_BUDGET} are allowed; set storage: memory to allow more"
        )


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    picture = Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, -1)
