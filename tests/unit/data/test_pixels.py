"""From image files of every kind to 8-bit RGB pictures."""

import io
import os
import re
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtail.data import pixels
from longtail.data.pixels import BadImageError, decode, dimensions, read_file, squared
from tests.unit.data.helpers import encoded, picture

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def levels(image: Image.Image, kind: str = "PNG", sixteen_bit: str = "scale", **options) -> np.ndarray:
    return np.asarray(decode(encoded(image, kind, **options), sixteen_bit))


def gray(expected) -> np.ndarray:
    """Three equal channels."""
    return np.repeat(np.asarray(expected, np.uint8)[..., None], 3, axis=2)


# Orientation


UPRIGHT = {
    1: NOISE,
    2: NOISE[:, ::-1],
    3: NOISE[::-1, ::-1],
    4: NOISE[::-1],
    5: NOISE.transpose(1, 0, 2),
    6: np.rot90(NOISE, -1),
    7: np.rot90(NOISE, 2).transpose(1, 0, 2),
    8: np.rot90(NOISE, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once(kind, orientation):
    image = Image.fromarray(NOISE)
    exif = image.getexif()
    exif[pixels.ORIENTATION] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(levels(image, kind, exif=exif, **lossless), UPRIGHT[orientation])


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_of_a_photograph_is_applied_at_reduced_size_too(orientation):
    image = picture(64, 32)
    exif = image.getexif()
    exif[pixels.ORIENTATION] = orientation
    content = encoded(image, "JPEG", exif=exif)
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270}[orientation]
    expected = Image.open(io.BytesIO(content)).transpose(turned)
    np.testing.assert_array_equal(np.asarray(decode(content)), np.asarray(expected))
    assert decode(content, reduced=True).size == ((8, 4) if orientation == 3 else (4, 8))


def test_damaged_metadata_do_not_make_an_image_bad():
    content = encoded(picture(16, 8), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert decode(content).size == (16, 8)


# Modes


def test_one_bit_is_black_and_white():
    bits = RNG.integers(0, 2, (5, 7)).astype(bool)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(levels(Image.fromarray(bits), kind), gray(bits * 255))


def test_palette_is_looked_up():
    index = RNG.integers(0, 3, (5, 7), dtype=np.uint8)
    colors = np.array([[1, 2, 3], [200, 100, 50], [7, 77, 177]], np.uint8)
    image = Image.fromarray(index)
    image.putpalette(colors.tobytes())
    for kind in ("PNG", "GIF", "BMP"):
        np.testing.assert_array_equal(levels(image, kind), colors[index])


def test_cmyk_follows_pillow():
    ink = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = Image.fromarray(ink, "CMYK")
    found = levels(image, "TIFF")
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))
    light = 255 - ink.astype(float)
    np.testing.assert_allclose(found, light[..., :3] * light[..., 3:] / 255, atol=1)


def test_cmyk_photograph_follows_pillow():
    content = encoded(picture(40, 32, "CMYK"), "JPEG")
    expected = Image.open(io.BytesIO(content)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode(content)), np.asarray(expected))
    assert decode(content, reduced=True).size == (5, 4)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    colors = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    colors[0, :, 3], colors[1, :, 3] = 0, 255
    image = Image.fromarray(colors).convert(mode)
    parts = np.asarray(image).astype(float)
    alpha = parts[..., -1:] / 255
    expected = np.broadcast_to(parts[..., :-1] * alpha + 255 * (1 - alpha), (5, 7, 3))
    found = levels(image)
    np.testing.assert_allclose(found, expected, atol=0.51)
    assert (found[0] == 255).all()
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entry_is_white(kind):
    index = np.array([[0, 1], [1, 0]], np.uint8)
    image = Image.fromarray(index)
    image.putpalette([10, 20, 30, 40, 50, 60])
    found = levels(image, kind, transparency=1)
    np.testing.assert_array_equal(found, [[[10, 20, 30], [255] * 3], [[255] * 3, [10, 20, 30]]])


def test_transparent_color_is_white():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    np.testing.assert_array_equal(levels(image, transparency=(4, 5, 6)), [[[1, 2, 3], [255] * 3]])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animated_file_is_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 6), color) for color in ((255, 0, 0), (0, 0, 255))]
    content = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert (np.asarray(decode(content)) == (255, 0, 0)).all()


# More than 8 bits


SIXTEEN = np.array([[0, 1, 128, 129, 257, 385, 386], [1000, 21000, 32767, 32768, 65406, 65407, 65535]], np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_divided_by_257(kind):
    np.testing.assert_array_equal(levels(Image.fromarray(SIXTEEN), kind), gray(np.rint(SIXTEEN / 257)))


def test_dark_sixteen_bits_stay_dark():
    np.testing.assert_array_equal(levels(Image.fromarray(SIXTEEN[:1, :3]), "PNG"), gray([[0, 0, 0]]))
    dark = b"P5 3 1 65535\n" + SIXTEEN[:1, :3].astype(">u2").tobytes()
    np.testing.assert_array_equal(np.asarray(decode(dark)), gray([[0, 0, 0]]))


@pytest.mark.parametrize(
    ("values", "factor"),
    [([[0.0, 0.25, 1.0]], 255), ([[0.0, 1.5, 255.0]], 1), ([[0.0, 300.0, 65535.0]], 1 / 257), ([[0.0, 0.0, 0.0]], 255)],
)
def test_floats_are_scaled_by_the_range_that_they_fit(values, factor):
    values = np.array(values, np.float32)
    np.testing.assert_array_equal(levels(Image.fromarray(values), "TIFF"), gray(np.rint(values * factor)))


@pytest.mark.parametrize(("values", "factor"), [([[0, 7, 255]], 1), ([[0, 257, 65535]], 1 / 257)])
def test_integers_are_scaled_by_the_range_that_they_fit(values, factor):
    values = np.array(values, np.int32)
    np.testing.assert_array_equal(levels(Image.fromarray(values), "TIFF"), gray(np.rint(values * factor)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[-1.0, 1.0]], np.float32), r"has float values from -1 to 1; sixteen_bit: scale takes 0\.\.1 or"),
        (np.array([[0, 70000]], np.int32), r"has 32-bit values from 0 to 70000; .* takes 0\.\.255 or 0\.\.65535, and"),
        (np.array([[0.0, np.nan]], np.float32), "has values that are not finite"),
        (np.array([[0.0, np.inf]], np.float32), "has values that are not finite"),
    ],
)
def test_other_ranges_are_refused_by_name(values, message):
    with pytest.raises(BadImageError, match=message):
        levels(Image.fromarray(values), "TIFF")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_window_goes_from_the_smallest_to_the_largest_value(dtype):
    values = np.array([[1000, 1100, 1510], [2020, 1000, 1001]], dtype)
    expected = np.rint((values.astype(float) - 1000) * 255 / 1020)
    np.testing.assert_array_equal(levels(Image.fromarray(values), "TIFF", "window"), gray(expected))
    constant = np.full((2, 2), 1000, dtype)
    np.testing.assert_array_equal(levels(Image.fromarray(constant), "TIFF", "window"), gray(np.zeros((2, 2))))


def test_large_deep_image_is_scaled_in_blocks(monkeypatch):
    monkeypatch.setattr(pixels, "_BLOCK", 10)
    values = RNG.integers(0, 65536, (20, 7)).astype(np.uint16)
    np.testing.assert_array_equal(levels(Image.fromarray(values)), gray(np.rint(values / 257)))


@pytest.mark.parametrize(("dtype", "what"), [(np.uint16, "16 bits"), (np.int32, "32-bit"), (np.float32, "float")])
def test_refuse_names_the_depth(dtype, what):
    with pytest.raises(BadImageError, match=rf"has {what}.*\(mode .*sixteen_bit is refuse"):
        levels(Image.fromarray(np.zeros((2, 2), dtype)), "TIFF", "refuse")


# Size


def test_large_jpeg_is_decoded_at_a_reduced_size(monkeypatch):
    monkeypatch.setattr(pixels, "WHOLE_PIXELS", 1000)
    content = encoded(picture(80, 48), "JPEG")
    with Image.open(io.BytesIO(content)) as expected:
        expected.draft(None, (40, 24))
        np.testing.assert_array_equal(np.asarray(decode(content)), np.asarray(expected))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "I;16"])
def test_other_large_images_are_reduced_by_a_whole_factor(monkeypatch, mode):
    monkeypatch.setattr(pixels, "WHOLE_PIXELS", 500)
    image = (
        Image.fromarray(np.arange(48 * 80, dtype=np.uint16).reshape(48, 80))
        if mode == "I;16"
        else picture(80, 48, mode)
    )
    content = encoded(image, "PNG")
    found = decode(content)
    monkeypatch.undo()
    assert found.size == (27, 16)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(decode(content).reduce(3)))


def test_factor_is_the_smallest_that_brings_an_image_to_the_limit():
    for count in (1, 2**24, 2**24 + 1, 2**26, 2**26 + 1, 9 * 2**24, 2**28):
        factor = pixels._factor(count, jpeg=False)
        assert count <= factor**2 * 2**24 and (factor == 1 or count > (factor - 1) ** 2 * 2**24)
    assert [pixels._factor(count, jpeg=True) for count in (2**24, 5 * 2**24, 2**30)] == [1, 4, 8]


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [16385, 30_000, 40_000, 2**31 - 1])
def test_image_beyond_the_pixel_limit_is_refused_before_it_is_decoded(side):
    with pytest.raises(BadImageError, match=r"pixels,? (more )?than the limit of 268435456$"):
        decode(png_header(side, side))


def test_progressive_jpeg_has_the_limit_of_other_formats(monkeypatch):
    monkeypatch.setattr(pixels, "PIXEL_LIMIT", 100)
    decode(encoded(picture(16, 16), "JPEG"))
    with pytest.raises(BadImageError, match="has 16 x 16 pixels, more than the limit of 100"):
        decode(encoded(picture(16, 16), "JPEG", progressive=True))


# Squares


def test_squash_leaves_a_picture_and_crop_takes_the_center():
    image = Image.fromarray(NOISE)
    assert squared(image, "squash") is image
    np.testing.assert_array_equal(np.asarray(squared(image, "crop")), NOISE[:, 1:7])
    np.testing.assert_array_equal(
        np.asarray(squared(image.transpose(Image.Transpose.TRANSPOSE), "crop")), NOISE[:, 1:7].transpose(1, 0, 2)
    )


def test_pad_adds_white_at_the_shorter_side():
    found = np.asarray(squared(Image.fromarray(NOISE), "pad"))
    assert found.shape == (9, 9, 3)
    np.testing.assert_array_equal(found[1:7], NOISE)
    assert (found[:1] == 255).all() and (found[7:] == 255).all()


def test_padding_of_a_long_strip_is_bounded():
    found = squared(Image.new("RGB", (60_000, 10)), "pad")
    assert found.size == (4096, 4096)
    assert (np.asarray(found)[2047] == 0).all() and (np.asarray(found)[2046] == 255).all()


# Files that are no images


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"no picture", "cannot be decoded: not an image"),
        (b"<!DOCTYPE html><html>", "cannot be decoded: an HTML page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript, which is never opened"),
        (b"%PDF-1.4\n", "PDF, which is never opened"),
        (b"\xd7\xcd\xc6\x9a" + bytes(90), "a Windows metafile, which is never opened"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "SVG, which is not a raster format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC, which Pillow does not decode"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
def test_file_that_is_no_image_is_refused_with_what_it_is(tmp_path, content, reason):
    with pytest.raises(BadImageError, match=re.escape(reason)):
        decode(content)
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(BadImageError, match=re.escape(reason)):
        dimensions(tmp_path / "x.jpg")


def test_postscript_starts_no_program(monkeypatch):
    content = encoded(picture(8, 8), "EPS")
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(BadImageError, match="PostScript"):
        decode(content)


def test_unknown_pixel_format_is_a_bad_image():
    size = struct.pack("<IIIIII", 0x1007, 8, 8, 0, 0, 0)
    unknown = struct.pack("<II4sIIIII", 32, 4, b"ZZZZ", 0, 0, 0, 0, 0)
    with pytest.raises(BadImageError, match="cannot be decoded: Unimplemented pixel format"):
        decode(b"DDS " + struct.pack("<I", 124) + size + bytes(44) + unknown + bytes(20))


@pytest.mark.parametrize("error", [NotImplementedError("Unimplemented"), KeyError(3), MemoryError(), RecursionError()])
def test_every_exception_of_a_decoder_is_a_bad_image(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(BadImageError, match=r"^cannot be decoded: "):
        decode(encoded(picture(8, 8), "BMP"))


KINDS = {
    "JPEG": {},
    "progressive": {"progressive": True},
    "PNG": {},
    "GIF": {},
    "BMP": {},
    "WEBP": {},
    "TIFF": {},
    "PPM": {},
    "AVIF": {},
    "JPEG2000": {},
    "TGA": {},
    "PCX": {},
}


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_truncated_file_is_noticed_at_reduced_size_too(kind, reduced):
    content = encoded(
        Image.fromarray(RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)),
        "JPEG" if kind == "progressive" else kind,
        **KINDS[kind],
    )
    decode(content, reduced=reduced)
    for share in (0.3, 0.6, 0.97):
        with pytest.raises(BadImageError):
            decode(content[: int(len(content) * share)], reduced=reduced)


@pytest.mark.parametrize("lost", [1, 2, 3, 20])
@pytest.mark.parametrize("kind", ["JPEG", "progressive"])
def test_jpeg_that_lacks_its_last_bytes_is_noticed(kind, lost):
    content = encoded(picture(90, 60), "JPEG", **KINDS[kind])
    with pytest.raises(BadImageError, match="truncated"):
        decode(content[:-lost], reduced=True)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    expected = {
        "pipe.jpg": "is not a regular file",
        "device.jpg": "is not a regular file",
        "folder.jpg": "is a folder",
        "none.jpg": "cannot be read (No such file or directory)",
        "loop.jpg": "cannot be read (Too many levels of symbolic links)",
        "nul\0.jpg": "cannot be read (embedded null byte)",
    }
    for name, reason in expected.items():
        for read in (read_file, dimensions):
            with pytest.raises(BadImageError, match=f"^{re.escape(reason)}"):
                read(Path(tmp_path / name))


def test_file_beyond_the_limit_is_not_read(tmp_path):
    with open(tmp_path / "x.jpg", "wb") as file:
        file.truncate(pixels.FILE_LIMIT + 1)
    with pytest.raises(BadImageError, match="has 1073741825 bytes, more than the limit of 1073741824"):
        read_file(tmp_path / "x.jpg")
