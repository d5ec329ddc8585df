"""Decoding of pictures."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from longtail.core.errors import DataError
from longtail.data.manifest import decode
from tests.unit.data.helpers import encoded, picture


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1", "CMYK"])
def test_pictures_of_every_mode_become_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    found = decode(encoded(picture(9, 7, mode), kind), Path("x"))
    assert found.mode == "RGB"
    assert found.size == (9, 7)
    if mode in ("RGB", "L"):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(picture(9, 7, mode).convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_damaged_picture_is_decoded_or_refused_by_name_and_nothing_else(kind):
    whole = encoded(picture(12, 9), kind)
    damaged = [whole[:size] for size in range(0, len(whole), 7)]
    for position in range(0, 8 * len(whole), 5):
        changed = bytearray(whole)
        changed[position // 8] ^= 1 << position % 8
        damaged.append(bytes(changed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in damaged:
            try:
                decode(content, Path("my/cat.x"))
            except DataError as error:
                assert "my/cat.x" in str(error)
