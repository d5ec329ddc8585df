"""One look at every file of a source: its digest, whether it can be decoded, and its pixels if they stay in memory.

All files that cannot be used are found in one run, before anything is trained on the others.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from longtail.artifacts.tables import write_csv
from longtail.core.errors import DataError
from longtail.core.progress import Progress
from longtail.data.pixels import BadImageError, decode_with_mode, dimensions, is_deep, read_file, squared
from longtail.data.sources.base import Source

COLUMNS = ("path", "reason")
NAMED = 10  # images that a message names
S = TypeVar("S")
T = TypeVar("T")
Choose = Callable[[np.ndarray | None], tuple[int, str]]


@dataclass
class Survey:
    """The files of a source. Lists and arrays have one row per file, in the order of the source.

    Attributes:
        size: side of the images in pixels.
        storage: ``memory`` or ``paths``.
        digests: SHA-256 of each file; empty for one that cannot be used.
        pixels: (N, size, size, 3) uint8 in memory, otherwise None. Rows of files that cannot be used are undefined.
        deep: how many images have more than 8 bits per channel.
        bad: row -> why the file cannot be used.
    """

    size: int
    storage: str
    digests: list[str]
    pixels: np.ndarray | None = None
    deep: int = 0
    bad: dict[int, str] = field(default_factory=dict)


def survey(
    root: Path,
    paths: Sequence[str],
    choose: Choose,
    *,
    headers: bool,
    sixteen_bit: str,
    resize: str,
    workers: int,
    progress: str,
) -> Survey:
    """Read and decode every file once, in threads.

    Files that stay files are decoded at reduced size where their format allows it.

    Args:
        root, paths: the files.
        choose: (width, height) of the usable images, (n, 2) -> side in pixels and storage. None stands for no sizes.
        headers: whether ``choose`` needs sizes, for which the headers of all files are read first.
        sixteen_bit, resize: see ``longtail.data.pixels``.
        workers: threads.
        progress: mode of the progress report.
    """
    bad: dict[int, str] = {}
    sizes = np.zeros((len(paths), 2), np.int64)

    def measure(row: int) -> None:
        try:
            sizes[row] = dimensions(root / paths[row])
        except BadImageError as error:
            bad[row] = str(error)

    def choice() -> tuple[int, str]:
        usable = np.delete(sizes, list(bad), axis=0)
        return choose(usable if headers and len(usable) else None)

    if headers:
        _in_threads(measure, range(len(paths)), workers, Progress(len(paths), "reading headers", progress))
    while True:
        result = Survey(*choice(), [""] * len(paths), bad=bad)
        _decode_all(root, paths, result, sixteen_bit, resize, workers, progress)
        if choice() == (result.size, result.storage):  # not so if the deciding images cannot be decoded
            result.bad = dict(sorted(bad.items()))
            return result


def _decode_all(
    root: Path, paths: Sequence[str], result: Survey, sixteen_bit: str, resize: str, workers: int, progress: str
) -> None:
    in_memory, size = result.storage == "memory", result.size
    pixels = np.empty((len(paths), size, size, 3), np.uint8) if in_memory else None

    def load(row: int) -> bool:
        try:
            content = read_file(root / paths[row])
            picture, mode = decode_with_mode(content, sixteen_bit, reduced=not in_memory)
        except BadImageError as error:
            result.bad[row] = str(error)
            return False
        if pixels is not None:
            picture = squared(picture, resize)
            if picture.size != (size, size):
                picture = picture.resize((size, size), Image.Resampling.BILINEAR)
            pixels[row] = np.asarray(picture)
        result.digests[row] = sha256(content).hexdigest()
        return is_deep(mode)

    rows = [row for row in range(len(paths)) if row not in result.bad]
    result.deep = sum(_in_threads(load, rows, workers, Progress(len(rows), "decoding images", progress)))
    result.pixels = pixels


def _in_threads(function: Callable[[S], T], items: Sequence[S], workers: int, report: Progress) -> list[T]:
    """``map`` in threads, in order."""
    results = []
    with report, ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for result in pool.map(function, items, chunksize=1):
                results.append(result)
                report.advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def write_bad_images(path: Path, source: Source, bad: dict[int, str]) -> None:
    """A table of the files that cannot be used: path and reason. It has no rows if there are none."""
    write_csv(path, pd.DataFrame([(source.paths[row], bad[row]) for row in bad], columns=list(COLUMNS)))


def describe_bad(source: Source, bad: dict[int, str]) -> str:
    """The first files with their reasons, and the number of the others. Unprintable characters are escaped."""
    named = [f"{_printable(source.paths[row])} {reason}" for row, reason in list(bad.items())[:NAMED]]
    return "; ".join(named) + (f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else "")


def without(source: Source, bad: dict[int, str], table: Path) -> Source:
    """The source without its bad images.

    Raises:
        DataError: a class has lost all its training images. ``table`` is named in the message.
    """
    kept = np.delete(np.arange(len(source.labels)), list(bad))
    training = np.isin(source.parts, ("train", "pool", "all"))
    lost = np.setdiff1d(source.labels[training], source.labels[kept][training[kept]])
    if len(lost):
        raise DataError(
            f"class {lost[0]} ({source.class_names[lost[0]]}) has no training image left without the {len(bad)} that "
            f"cannot be used (bad_images: skip); {table} lists them, the first is "
            f"{describe_bad(source, dict(list(bad.items())[:1]))}"
        )
    of_images = {name: value for name, value in vars(source).items() if name != "class_names"}
    return replace(source, **{name: _rows(value, kept) for name, value in of_images.items()})


def _rows(value: Any, kept: np.ndarray) -> Any:
    """The rows of a field that has one per image; other fields as they are."""
    if isinstance(value, np.ndarray):
        return value[kept]
    if isinstance(value, pd.DataFrame):
        return value.iloc[kept].reset_index(drop=True)
    return tuple(value[row] for row in kept.tolist()) if isinstance(value, tuple) and value else value


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
