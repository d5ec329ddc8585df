"""What it costs to decode every file in ``prepare``: ``python -m benchmarks.prepare [--images 20000] [--workers 2]``.

The images are synthetic: 500 x 375 JPEGs of quality 85 that stay files, and 32 x 32 PNGs that go to memory. "hash and
header" reads every file, and takes its SHA-256 and the size in its header, with as many threads. It decodes nothing, so
it notices no truncated file, and knows neither pixels nor their depth. Both sides alternate in one
process, with the files in the system's cache.
"""

import argparse
import contextlib
import hashlib
import io
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import machine
from benchmarks.timing import alternate, ratios, spread, table
from longtail.data.prepare import prepare
from longtail.data.sources.base import Source

KINDS = {"500 x 375 JPEG": ((500, 375), "JPEG", "paths"), "32 x 32 PNG": ((32, 32), "PNG", "memory")}
HEADER = ("files", "storage", "hash and header", "prepare", "times as long", "processor ms per image, both")
PATTERNS = 50  # different images; further files are copies of them


def make_files(root: Path, images: int, size: tuple[int, int], kind: str) -> Source:
    """Write smooth color fields with some noise, about 50 kB each at 500 x 375. Two classes."""
    root.mkdir()
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(min(images, PATTERNS)):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float64)
        noisy = smooth + rng.normal(0, 6, (size[1], size[0], 1))
        stream = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, kind, quality=85)
        contents.append(stream.getvalue())
    paths = tuple(f"{number:06d}" for number in range(images))
    for number, path in enumerate(paths):
        (root / path).write_bytes(contents[number % len(contents)])
    labels = np.arange(images) % 2
    return Source(("a", "b"), labels, np.full(images, "train"), root=root, paths=paths)


def hash_and_header(root: Path, paths: tuple[str, ...], workers: int) -> int:
    """Read every file for its digest and its size. Returns the number of files."""

    def look(path: str) -> tuple[str, tuple[int, int]]:
        content = (root / path).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            return hashlib.sha256(content).hexdigest(), image.size

    with ThreadPoolExecutor(workers) as pool:
        return len(list(pool.map(look, paths)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    print(machine("pillow"))
    print(f"{options.images} images, {options.workers} threads, n = {options.repeats}; images/s, median (min-max)\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (size, kind, storage) in KINDS.items():
            source = make_files(Path(folder) / kind, options.images, size, kind)
            rows.append([name, storage, *measure(source, Path(folder) / "out", storage, options)])
    print(table(HEADER, rows))
    print(f"\npeak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def measure(source: Source, out: Path, storage: str, options: argparse.Namespace) -> list[str]:
    """Images per second of both sides, their processor time per image, and how many times as long ``prepare`` takes."""
    root, images = source.root, len(source.paths)
    assert root is not None

    def before() -> float:
        start = time.process_time()
        hash_and_header(root, source.paths, options.workers)
        return time.process_time() - start

    def after() -> float:
        start = time.process_time()
        settings = {"dataset": "synthetic", "image_size": None, "storage": "auto", "progress": "off"}
        with contextlib.redirect_stdout(io.StringIO()):
            info = prepare(source, out, workers=options.workers, **settings)  # type: ignore[arg-type]
        assert info.storage == storage
        return time.process_time() - start

    sides = alternate(options.repeats, before, after)
    speeds = [spread([images / seconds for seconds in side.seconds]) for side in sides]
    return [
        *speeds,
        spread(ratios(sides[1].seconds, sides[0].seconds)),
        " / ".join(f"{1000 * side.result / images:.3f}" for side in sides),
    ]


if __name__ == "__main__":
    main()
