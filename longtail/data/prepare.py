"""Write a source in the common form of ``data/prepared``."""

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from longtail.artifacts.hdf5 import write_hdf5
from longtail.artifacts.tables import write_csv, write_json
from longtail.core.errors import ConfigError, DataError
from longtail.core.progress import Progress
from longtail.data.manifest import IMAGES_SCHEMA, MANIFEST_COLUMNS, DatasetInfo, decode, image_dimensions
from longtail.data.own_files import write_files
from longtail.data.sources.base import Source, check_labels

MEMORY_BUDGET = 2**30  # bytes of pixels that `storage: auto` holds in memory
SMALL_SIDE = 64
PATH_SIDE = 224
SMALL_MEDIAN = 128
S = TypeVar("S")
T = TypeVar("T")


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

    Raises:
        ConfigError: image_size makes an array too large.
        DataError: an image cannot be read (the message names it), or a class or label cannot be used.
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
    else:
        assert source.root is not None
        digests, sizes = _survey(source.root, source.paths, workers, progress)
        size, storage = _choose(sizes, image_size, storage, resize_later)
        if storage == "memory":
            print(f"{len(sizes)} images are held in memory at {size} x {size} pixels (image_size)")
            pixels = _decode_all(source.root, source.paths, size, workers, progress)
    channels = 3 if pixels is None else pixels.shape[3]
    info = DatasetInfo(dataset, storage, size, channels, len(source.class_names))
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


def _survey(root: Path, paths: Sequence[str], workers: int, progress: str) -> tuple[list[str], np.ndarray]:
    """SHA-256 and (width, height) of every file."""

    def look(path: str) -> tuple[str, tuple[int, int]]:
        content = _read(root / path)
        return hashlib.sha256(content).hexdigest(), image_dimensions(content, root / path)

    results = _in_threads(look, paths, workers, Progress(len(paths), "reading images", progress))
    return [digest for digest, _ in results], np.asarray([size for _, size in results])


def _choose(sizes: np.ndarray, image_size: int | None, storage: str, resize_later: bool) -> tuple[int, str]:
    alike = bool((sizes == sizes[0, 0]).all()) and sizes[0, 0] <= SMALL_SIDE
    in_memory = image_size or (int(sizes[0, 0]) if alike else SMALL_SIDE)
    if resize_later and storage != "memory":
        return image_size or (int(sizes[0, 0]) if alike else PATH_SIDE), "paths"
    if storage == "auto":
        small = np.median(sizes.min(axis=1)) <= SMALL_MEDIAN
        storage = "memory" if small and len(sizes) * in_memory**2 * 3 <= MEMORY_BUDGET else "paths"
    return (in_memory if storage == "memory" else image_size or PATH_SIDE), storage


def _decode_all(root: Path, paths: Sequence[str], size: int, workers: int, progress: str) -> np.ndarray:
    def load(row: int) -> None:
        path = root / paths[row]
        picture = decode(_read(path), path)
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        pixels[row] = np.asarray(picture)

    pixels = np.empty((len(paths), size, size, 3), np.uint8)
    _in_threads(load, range(len(paths)), workers, Progress(len(paths), "decoding images", progress))
    return pixels


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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error.strerror}") from error


def _in_threads(function: Callable[[S], T], items: Sequence[S], workers: int, report: Progress) -> list[T]:
    """``map`` in threads. Results keep their order, and so does the error that is raised if there are several."""
    results = []
    with report, ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for result in pool.map(function, items, chunksize=1):
                results.append(result)
                report.advance()
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise
    return results
