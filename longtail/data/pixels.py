"""From the bytes of an image file to an 8-bit RGB picture. Every part of the pipeline that decodes a file does it here.

- Only the raster formats in ``FORMATS`` are opened. PostScript, PDF and WMF are not, because Pillow would start another
  program for them.
- Of an animated or multi-page file, the first frame is read.
- The EXIF orientation is applied.
- Transparent pixels are laid on white. Palette, gray, 1-bit, LAB and CMYK images become RGB by Pillow's own conversion,
  without color profiles.
- Images with more than 8 bits per channel follow the parameter ``sixteen_bit``; see ``decode``. Color images with 16
  bits per channel are the exception: Pillow keeps the high byte of each value.
- An image of more than ``WHOLE_PIXELS`` pixels is reduced by the smallest whole factor that brings it to that number. A
  JPEG is decoded at the reduced size, with the factor 2, 4 or 8.
- An image of more than ``PIXEL_LIMIT`` pixels is refused (``JPEG_PIXEL_LIMIT`` for a baseline JPEG), and so is a file
  of more than ``FILE_LIMIT`` bytes, or one that is not a regular file.
"""

import io
import math
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from longtail.core.errors import DataError

FORMATS = (
    *("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000", "DDS", "DIB"),
    *("ICNS", "ICO", "PCX", "PSD", "QOI", "SGI", "SUN", "TGA", "XBM", "XPM"),
)
BACKGROUND = (255, 255, 255)
WHOLE_PIXELS = 2**24  # 4096 x 4096
PIXEL_LIMIT = 2**28  # 16,384 x 16,384
JPEG_PIXEL_LIMIT = 2**30  # of a baseline JPEG, which takes no more memory than its reduced size
FILE_LIMIT = 2**30  # bytes
PADDED_SIDE = math.isqrt(WHOLE_PIXELS)
ORIENTATION = 0x0112
BITS_PER_SAMPLE = 258  # a TIFF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BLOCK = 2**20  # values that are scaled at a time
_large = threading.Lock()  # one large image at a time, so that memory does not grow with the threads

# The limits here replace Pillow's. Pillow keeps refusing what is beyond both, for example a frame inside a file.
Image.MAX_IMAGE_PIXELS = JPEG_PIXEL_LIMIT // 2
warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata: thousands of lines that nobody can act on


class BadImageError(DataError):
    """A file that is not a usable image. The message is a predicate without the file's name: ``is empty``."""


def check_regular(path: Path) -> None:
    """Refuse what is not a regular file, without opening it: a pipe would block, and a device may have no end.

    Raises:
        BadImageError: no such file, no regular file, or more than ``FILE_LIMIT`` bytes.
    """
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        raise BadImageError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if stat.S_ISDIR(state.st_mode):
        raise BadImageError("is a folder")
    if not stat.S_ISREG(state.st_mode):
        raise BadImageError("is not a regular file (a pipe, socket or device)")
    if state.st_size > FILE_LIMIT:
        raise BadImageError(f"has {state.st_size} bytes, more than the limit of {FILE_LIMIT}")


def read_file(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        BadImageError: it cannot be read; see also ``check_regular``.
    """
    check_regular(path)
    with _reasons(path):
        return path.read_bytes()


def dimensions(path: Path) -> tuple[int, int]:
    """(width, height) of an image file from its header, before orientation. Reads no more than the header.

    Raises:
        BadImageError: the file cannot be read, or its header cannot be decoded.
    """
    check_regular(path)
    with _reasons(path), open(path, "rb") as file, _open(file) as image:
        return image.size


def decode(content: bytes, sixteen_bit: str = "scale", *, reduced: bool = False) -> Image.Image:
    """An image file as an RGB picture.

    Args:
        content: the whole file.
        sixteen_bit: what happens to a gray image with more than 8 bits (16 bits, 32-bit integers, or floats):

            - ``scale``: 16 bits are divided by 257. Integers and floats are taken as they are if they are in 0..255,
              and are divided by 257 if they are in 0..65535. Floats in 0..1 are multiplied by 255. Others are refused.
            - ``window``: the smallest value of the image becomes 0, and the largest 255. A constant image is black.
            - ``refuse``: the image is refused.

            Results are rounded to the nearest level.
        reduced: whether an eighth of the size is enough. Only JPEG makes use of it. All of the file is decoded anyway,
            so a truncated file is noticed.

    Raises:
        BadImageError: the image cannot be decoded, is too large, or is refused.
    """
    return decode_with_mode(content, sixteen_bit, reduced=reduced)[0]


def decode_with_mode(content: bytes, sixteen_bit: str = "scale", *, reduced: bool = False) -> tuple[Image.Image, str]:
    """The same, and Pillow's mode of the image in the file, for example ``I;16``."""
    with _reasons(content), _open(io.BytesIO(content)) as image:
        width, height = image.size
        jpeg = image.format in ("JPEG", "MPO")
        _check_pixels(image, jpeg)
        factor = _factor(width * height, jpeg)
        with _large if factor > 2 else nullcontext():
            if jpeg and (reduced or factor > 1):
                scale = 8 if reduced else factor
                image.draft(None, (max(1, width // scale), max(1, height // scale)))
            image.load()
            mode = image.mode
            picture = _without_alpha(_to_eight_bits(image, sixteen_bit) if is_deep(mode) else image)
            if factor > 1 and not jpeg:
                picture = (picture if picture.mode == "L" else picture.convert("RGB")).reduce(factor)
            turn = _TURNS.get(_orientation(image))
            if turn is not None:
                picture = picture.transpose(turn)
            return picture.convert("RGB"), mode


def is_deep(mode: str) -> bool:
    """Whether Pillow's mode has more than 8 bits per channel."""
    return mode.startswith(("I", "F"))


def squared(picture: Image.Image, resize: str) -> Image.Image:
    """The picture as it is before it is resized to a square.

    Args:
        picture: RGB.
        resize: ``squash`` leaves it as it is; ``crop`` cuts out the center square; ``pad`` adds white at both ends of
            the shorter side. Then a side of more than ``PADDED_SIDE`` pixels is reduced to that first.
    """
    width, height = picture.size
    if resize == "squash" or width == height:
        return picture
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return picture.crop((left, top, left + side, top + side))
    side = max(width, height)
    if side > PADDED_SIDE:
        width, height = (max(1, round(length * PADDED_SIDE / side)) for length in (width, height))
        picture, side = picture.resize((width, height), Image.Resampling.BILINEAR), PADDED_SIDE
    padded = Image.new("RGB", (side, side), BACKGROUND)
    padded.paste(picture, ((side - width) // 2, (side - height) // 2))
    return padded


@cache
def _formats() -> list[str]:
    """The formats that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _open(file: IO[bytes]) -> ImageFile.ImageFile:
    return Image.open(file, formats=_formats())


@contextmanager
def _reasons(file: bytes | Path) -> Iterator[None]:
    """Turn every exception into a BadImageError; damaged files reach every branch of a decoder."""
    try:
        yield
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError(_not_an_image(file)) from error
    except Image.DecompressionBombError as error:
        raise BadImageError(f"has more pixels than the limit of {PIXEL_LIMIT}") from error
    except MemoryError as error:
        raise BadImageError("cannot be decoded: not enough memory") from error
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise BadImageError(f"cannot be read ({error.strerror})") from error
        reason = re.sub(r" ?<?[\w.]+ object at 0x[0-9a-f]+>?", "", " ".join(str(error).split()))[:200]
        raise BadImageError(f"cannot be decoded: {reason or type(error).__name__}") from error


_SIGNATURES = (
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript, which is never opened"),
    (rb"%PDF", "PDF, which is never opened"),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", "a Windows metafile, which is never opened"),
    (rb"....ftyp(?:hei|hev|mif1|msf1)", "HEIC, which Pillow does not decode; convert it to JPEG or PNG"),
    (rb"\s*(?:<\?xml.*)?<svg", "SVG, which is not a raster format"),
    (rb"(?i)\s*<(?:!doctype )?html", "an HTML page"),
    (rb"version https://git-lfs", "a pointer of Git LFS; fetch the files with `git lfs pull`"),
)


def _not_an_image(file: bytes | Path) -> str:
    if isinstance(file, Path):
        with open(file, "rb") as opened:
            start = opened.read(512)
    else:
        start = file[:512]
    if not start:
        return "is empty"
    for pattern, name in _SIGNATURES:
        if re.match(pattern, start, re.DOTALL):
            return f"cannot be decoded: {name}"
    return "cannot be decoded: not an image"


def _check_pixels(image: ImageFile.ImageFile, jpeg: bool) -> None:
    width, height = image.size
    progressive = "progressive" in image.info or "progression" in image.info  # all its coefficients are in memory
    limit = JPEG_PIXEL_LIMIT if jpeg and not progressive else PIXEL_LIMIT
    if width * height > limit:
        raise BadImageError(f"has {width} x {height} pixels, more than the limit of {limit}")


def _factor(pixels: int, jpeg: bool) -> int:
    """By how much each side is divided, so that at most WHOLE_PIXELS are left."""
    factor = math.isqrt(max(0, -(-pixels // WHOLE_PIXELS) - 1)) + 1
    return 2 ** math.ceil(math.log2(factor)) if jpeg else factor


def _to_eight_bits(image: ImageFile.ImageFile, rule: str) -> Image.Image:
    """A gray image of mode I;16, I or F as one of mode L."""
    bits = "float values" if image.mode == "F" else "16 bits" if image.mode.startswith("I;16") else "32-bit values"
    if rule == "refuse":
        raise BadImageError(f"has {bits} (mode {image.mode}), and sixteen_bit is refuse, not scale or window")
    levels = np.asarray(image)
    low, high = float(levels.min()), float(levels.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise BadImageError("has values that are not finite")
    if rule == "window":
        offset, factor = low, 255 / (high - low) if high > low else 0.0
    else:
        offset, factor = 0.0, 255 / _largest(image, low, high, bits)
    scaled = np.empty(levels.shape, np.uint8)
    rows = max(1, _BLOCK // levels.shape[1])
    for start in range(0, len(levels), rows):
        block = levels[start : start + rows].astype(np.float64)
        scaled[start : start + rows] = np.rint((block - offset) * factor)
    return Image.fromarray(scaled)


def _largest(image: ImageFile.ImageFile, low: float, high: float, bits: str) -> float:
    """The value that is white."""
    tags = getattr(image, "tag_v2", {})
    sixteen = image.mode.startswith("I;16") or (
        image.mode == "I" and (image.format == "PPM" or tags.get(BITS_PER_SAMPLE) == (16,))
    )
    allowed = (65535,) if sixteen else (1, 255, 65535) if image.mode == "F" else (255, 65535)
    for largest in allowed:
        if low >= 0 and high <= largest:
            return float(largest)
    ranges = " or ".join(f"0..{largest}" for largest in allowed)
    raise BadImageError(f"has {bits} from {low:g} to {high:g}; sixteen_bit: scale takes {ranges}, and window takes any")


def _without_alpha(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    colors = image.convert("RGBA")
    flat = Image.new("RGB", image.size, BACKGROUND)
    flat.paste(colors, mask=colors)
    return flat


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation that is still to be applied; 1 if damaged metadata hide it."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - the pixels are good all the same
        return 1
