"""Pictures and folders of pictures for the tests of sources and of what is prepared from them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from longtail.data.prepare import prepare
from longtail.data.sources.base import Source


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colors, so that JPEG keeps them nearly."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 / width, y * 255 / height, np.full_like(x, (seed * 40) % 256)], axis=2)
    return Image.fromarray(rgb.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_folder(root: Path, sizes: dict[str, tuple[int, int]] | None = None, parts=("train", "test")) -> Path:
    """``PART/CLASS/N.png`` for classes cat and dog."""
    sizes = sizes or {"0.png": (8, 8), "1.png": (8, 8)}
    for part in parts:
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for number, (file, (width, height)) in enumerate(sizes.items()):
                picture(width, height, seed=label * 2 + number).save(root / part / name / file)
    return root


def run_prepare(source: Source, target: Path, **options):
    settings = {"dataset": "x", "image_size": None, "storage": "auto", "workers": 2, "progress": "off"} | options
    return prepare(source, target, **settings)
