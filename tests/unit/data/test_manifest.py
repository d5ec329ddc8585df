"""Decoding of pictures."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtail.core.errors import DataError
from longtail.data.manifest import decode, image_dimensions
from longtail.data.sources import image_folder
from tests.unit.data.helpers import encoded, make_folder, picture, run_prepare


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1", "CMYK"])
def test_pictures_of_every_mode_become_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    found = decode(encoded(picture(9, 7, mode), kind), Path("x"))
    assert found.mode == "RGB"
    assert found.size == (9, 7)
    if mode in ("RGB", "L"):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(picture(9, 7, mode).convert("RGB")))


def test_sixteen_bit_pictures_are_refused_or_scaled_but_not_clipped():
    levels = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    try:
        found = np.asarray(decode(encoded(Image.fromarray(levels), "PNG"), Path("deep.png")))
    except DataError as error:
        assert "deep.png" in str(error)
    else:
        np.testing.assert_allclose(found[..., 0], levels / 257, atol=1)


def test_dimensions_are_width_and_height():
    assert image_dimensions(encoded(picture(9, 7), "JPEG"), Path("x")) == (9, 7)


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
                image_dimensions(content, Path("my/cat.x"))
                decode(content, Path("my/cat.x"))
            except DataError as error:
                assert "my/cat.x" in str(error)


@pytest.mark.parametrize("storage", ["memory", "paths"])
@pytest.mark.parametrize("content", [b"", b"no picture", encoded(picture(8, 8), "JPEG")[:30]])
def test_unreadable_picture_is_named_and_nothing_is_written(tmp_path, storage, content):
    make_folder(tmp_path / "in")
    (tmp_path / "in" / "train" / "dog" / "1.png").write_bytes(content)
    with pytest.raises(DataError, match=r"image .*in/train/dog/1\.png cannot be decoded") as caught:
        run_prepare(image_folder.load(tmp_path / "in"), tmp_path / "out", storage=storage)
    assert "0x" not in str(caught.value), "the address of an object says nothing"
    assert not (tmp_path / "out").exists()


def test_picture_damaged_behind_its_header_is_named_when_decoded(tmp_path):
    make_folder(tmp_path / "in", {"0.jpg": (32, 32), "1.jpg": (32, 32)})
    file = tmp_path / "in" / "test" / "cat" / "1.jpg"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"in/test/cat/1\.jpg cannot be decoded"):
        run_prepare(image_folder.load(tmp_path / "in"), tmp_path / "out", storage="memory")
    assert not (tmp_path / "out").exists()


def test_missing_picture_is_named(tmp_path):
    make_folder(tmp_path / "in")
    source = image_folder.load(tmp_path / "in")
    (tmp_path / "in" / "train" / "dog" / "1.png").unlink()
    with pytest.raises(DataError, match=r"in/train/dog/1\.png cannot be read: No such file"):
        run_prepare(source, tmp_path / "out")
