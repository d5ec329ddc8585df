"""A sheet of training images by class: some selected images beside some that were not selected, each with its p.

torchvision's ``make_grid`` would place the pictures only. It draws no text, wants pictures of one size, and imports
torch. Titles, headings and captions would still be drawn here, so it would save no code.

Shape legend: H, W pixels of a picture, n items.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from longtail.artifacts.atomic import atomic_path

Picture = tuple[np.ndarray, float]
"""(H, W, 1 or 3) uint8, and the probability of the image's own label."""

TILE = 64  # side of the square that every picture is fitted into, in pixels
_GAP, _MARGIN, _BLOCK_GAP = 8, 16, 28
_TITLE_WIDTH, _CAPTION = 150, 16
_TITLE_SIZE, _TEXT_SIZE, _CAPTION_SIZE = 17, 14, 12
_LINE = _TEXT_SIZE + 4
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (150, 150, 150)


@dataclass(frozen=True)
class GridRow:
    """One class and its pictures.

    Attributes:
        title: text at the left, such as the name of the class and "5 of 80" on two lines.
        selected, unselected: its pictures.
    """

    title: str
    selected: Sequence[Picture]
    unselected: Sequence[Picture]


def evenly_spaced(size: int, count: int) -> np.ndarray:
    """At most ``count`` of the positions 0..size-1, ascending and evenly spaced, (n,) int64.

    Two or more of them include both ends.
    """
    count = min(size, count)
    return np.arange(count) * (size - 1) // max(1, count - 1)


def choose(
    selected: np.ndarray, unselected: np.ndarray, probability: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most ``count`` of the selected and of the unselected positions, evenly spaced in the order of p.

    The least probable comes first. Ties keep the order given.

    Args:
        selected, unselected: (n,) int64 positions in ``probability``.
        probability: (N,) p of every image.
        count: largest number of each.
    """

    def spread(positions: np.ndarray) -> np.ndarray:
        ascending = positions[np.argsort(probability[positions], kind="stable")]
        return ascending[evenly_spaced(len(ascending), count)]

    return spread(np.asarray(selected, np.int64)), spread(np.asarray(unselected, np.int64))


def picture_grid(path: str | Path, rows: Sequence[GridRow], title: str = "") -> None:
    """Write a PNG atomically: one row per class, selected pictures left, the others right, p below each.

    Small pictures are enlarged by a whole factor, and large ones reduced. The same rows give the same bytes. A sheet
    without rows has a line of text instead.
    """
    fonts = {size: ImageFont.load_default(size) for size in (_TITLE_SIZE, _TEXT_SIZE, _CAPTION_SIZE)}
    titles = [_wrapped(row.title, fonts[_TEXT_SIZE]) for row in rows]
    widths = [
        max(round(fonts[_TEXT_SIZE].getlength(heading)), max(map(len, blocks), default=0) * (TILE + _GAP) - _GAP)
        for heading, blocks in (
            ("selected", [row.selected for row in rows]),
            ("not selected", [row.unselected for row in rows]),
        )
    ]
    lefts = [_MARGIN + _TITLE_WIDTH + _GAP, _MARGIN + _TITLE_WIDTH + _GAP + widths[0] + _BLOCK_GAP]
    heights = [max(TILE + _CAPTION, _LINE * len(lines)) for lines in titles]
    top = _MARGIN + (_TITLE_SIZE + 11 if title else 0)
    width = max(lefts[1] + widths[1], _MARGIN + round(fonts[_TITLE_SIZE].getlength(title))) + _MARGIN
    height = top + _LINE + 4 + sum(heights) + _GAP * len(rows) + _MARGIN

    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, _INK, fonts[_TITLE_SIZE], anchor="lt")
    if rows:
        draw.text((lefts[0], top), "selected", _INK, fonts[_TEXT_SIZE])
        draw.text((lefts[1], top), "not selected", _INK, fonts[_TEXT_SIZE])
        middle = lefts[1] - _BLOCK_GAP // 2
        draw.line((middle, top, middle, height - _MARGIN), _FAINT)
    else:
        draw.text((_MARGIN, top), "no class to show", _INK, fonts[_TEXT_SIZE])
    top += _LINE + 4
    for row, lines, tall in zip(rows, titles, heights, strict=True):
        for number, line in enumerate(lines):
            draw.text((_MARGIN, top + number * _LINE), line, _INK, fonts[_TEXT_SIZE])
        for left, block in zip(lefts, (row.selected, row.unselected), strict=True):
            if not block:
                draw.text((left, top), "none", _FAINT, fonts[_TEXT_SIZE])
            for number, (pixels, probability) in enumerate(block):
                x = left + number * (TILE + _GAP)
                sheet.paste(_tile(pixels), (x, top))
                caption = f"{probability:.3f}"
                draw.text((x + TILE // 2, top + TILE + 2), caption, _INK, fonts[_CAPTION_SIZE], anchor="mt")
        top += tall + _GAP
    with atomic_path(path) as partial:
        sheet.save(partial, format="PNG")


def _tile(pixels: np.ndarray) -> Image.Image:
    """A picture in the middle of a gray square of TILE pixels."""
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3), (pixels.dtype, pixels.shape)
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    longest = max(picture.size)
    if longest > TILE:
        size = [max(1, round(side * TILE / longest)) for side in picture.size]
        picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    else:
        factor = TILE // longest
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    tile = Image.new("RGB", (TILE, TILE), (235, 235, 235))
    tile.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return tile


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The lines of ``text``. Lines that are too wide are broken between words, but not inside parentheses.

    A word that is too wide is shortened.
    """
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in re.findall(r"\([^()]*\)|\S+", paragraph):
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > _TITLE_WIDTH:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return [_shortened(line, font) for line in lines]


def _shortened(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(line) <= _TITLE_WIDTH:
        return line
    while font.getlength(f"{line}...") > _TITLE_WIDTH:
        line = line[:-1]
    return f"{line}..."
