"""The sheet of selected and unselected pictures: what stands where, legible, with equal bytes, whole or absent."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from longtail.evaluation.picture_grid import TILE, GridRow, Picture, choose, evenly_spaced, picture_grid

RED, LIME, BLUE, AQUA, PINK, GOLD = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0)


def plain(color: Sequence[int], height: int = 32, width: int = 32) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.uint8), (height, width, 3)).copy()


def sheet_of(path: Path, rows: Sequence[GridRow], title: str = "Sheet") -> np.ndarray:
    picture_grid(path, rows, title)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        return np.asarray(sheet.convert("RGB")).astype(np.int64)


def box(sheet: np.ndarray, color: Sequence[int]) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of all pixels of a color, half open; every pixel of the box has it."""
    mask = (sheet == np.array(color)).all(axis=2)
    assert mask.any(), f"{color} is not on the sheet"
    y, x = np.nonzero(mask)
    top, bottom, left, right = int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1
    assert mask[top:bottom, left:right].all()
    return top, bottom, left, right


def changed(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(y, x) of the pixels in which two sheets of one size differ."""
    assert a.shape == b.shape
    y, x = np.nonzero((a != b).any(axis=2))
    return y, x


ROWS = [
    GridRow("cat\n2 of 40", [(plain(RED), 0.25), (plain(LIME), 0.5)], [(plain(BLUE), 0.125)]),
    GridRow("dog\n1 of 3", [(plain(AQUA), 0.75)], [(plain(PINK), 0.0), (plain(GOLD), 1.0)]),
]


def test_selected_stand_left_in_their_order_and_classes_below_each_other(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path / "a.png", ROWS)
    boxes = {color: box(sheet, color) for color in (RED, LIME, BLUE, AQUA, PINK, GOLD)}
    for top, bottom, left, right in boxes.values():
        assert (bottom - top, right - left) == (TILE, TILE)
    assert boxes[RED][:2] == boxes[LIME][:2] == boxes[BLUE][:2]
    assert boxes[AQUA][:2] == boxes[PINK][:2] == boxes[GOLD][:2]
    assert boxes[AQUA][0] > boxes[RED][1]
    assert boxes[RED][2:] == boxes[AQUA][2:] and boxes[BLUE][2:] == boxes[PINK][2:]
    assert boxes[RED][3] < boxes[LIME][2] < boxes[LIME][3] < boxes[BLUE][2] < boxes[BLUE][3] < boxes[GOLD][2]


@pytest.mark.parametrize(
    "shape", [(8, 8, 1), (8, 8, 3), (28, 28, 1), (32, 32, 3), (20, 12, 3), (64, 64, 1), (40, 40, 3)]
)
def test_small_picture_is_enlarged_by_a_whole_factor_without_blur(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(40, 200, shape).astype(np.uint8)
    # Three bars of one color at the edges tell where the picture lies.
    pixels[0] = pixels[-1] = pixels[:, 0] = pixels[:, -1] = 7
    sheet = sheet_of(tmp_path / "a.png", [GridRow("a", [(pixels, 0.5)], [])])
    y, x = np.nonzero((sheet == 7).all(axis=2))
    factor = TILE // max(shape)
    found = sheet[y.min() : y.max() + 1, x.min() : x.max() + 1]
    expected = np.repeat(np.repeat(np.broadcast_to(pixels, (*shape[:2], 3)), factor, 0), factor, 1)
    np.testing.assert_array_equal(found, expected)


def test_large_picture_is_reduced_with_its_proportions_into_the_middle_of_its_tile(tmp_path: Path) -> None:
    rows = [GridRow("a", [(plain(RED, 100, 200), 0.5), (plain(BLUE, 500, 250), 0.5)], [(plain(LIME, 1, 1000), 0.5)])]
    sheet = sheet_of(tmp_path / "a.png", rows)
    wide, tall, thin = (box(sheet, color) for color in (RED, BLUE, LIME))
    assert (wide[1] - wide[0], wide[3] - wide[2]) == (TILE // 2, TILE)
    assert (tall[1] - tall[0], tall[3] - tall[2]) == (TILE, TILE // 2)
    assert (thin[1] - thin[0], thin[3] - thin[2]) == (1, TILE)
    assert wide[0] - tall[0] == TILE // 4


def test_probability_stands_below_its_picture_with_three_digits(tmp_path: Path) -> None:
    def with_p(p: float) -> np.ndarray:
        first: Picture = (plain(RED), p)
        return sheet_of(tmp_path / "a.png", [GridRow("cat", [first, *ROWS[0].selected[1:]], ROWS[0].unselected)])

    sheet = with_p(0.25)
    _, bottom, left, right = box(sheet, RED)
    y, x = changed(sheet, with_p(0.251))
    assert len(y), "a difference in the third digit shows"
    assert bottom <= y.min() and y.max() < bottom + 16
    assert left <= x.min() and x.max() < right
    assert not len(changed(sheet, with_p(0.2501))[0])
    assert with_p(0.0).shape == with_p(1.0).shape == sheet.shape


def test_class_name_stands_at_the_left_of_its_row_whatever_its_length(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path / "a.png", ROWS)
    top, bottom, left, _ = box(sheet, AQUA)
    for name in (
        "wolf\n1 of 3",
        "dog\n1 of 4",
        "a word of many letters",
        "W" * 300,
        "two\nlines of text",
        "",
        "Süßwasser",
    ):
        other = sheet_of(tmp_path / "b.png", [ROWS[0], dataclasses.replace(ROWS[1], title=name)])
        y, x = changed(sheet, other)
        assert len(y), name
        assert top <= y.min() and y.max() < bottom + 16, name
        assert x.max() < left, name


def test_counts_in_brackets_stay_on_one_line(tmp_path: Path) -> None:
    def titled(title: str) -> np.ndarray:
        return sheet_of(tmp_path / "a.png", [dataclasses.replace(ROWS[0], title=title)])

    assert not len(changed(titled("aquarium_fish (50 of 500)"), titled("aquarium_fish\n(50 of 500)"))[0])
    assert len(changed(titled("pea (50 of 500)"), titled("pea\n(50 of 500)"))[0]), "short names need no second line"


def test_name_of_many_lines_makes_room(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path / "a.png", [dataclasses.replace(ROWS[0], title="word " * 60), ROWS[1]])
    usual = sheet_of(tmp_path / "b.png", ROWS)
    assert box(sheet, RED) == box(usual, RED)
    # Four words a line are 15 lines of 18 pixels, where a tile and its caption take 80.
    assert box(sheet, AQUA)[0] - box(usual, AQUA)[0] > 150


def test_blocks_have_headings_and_the_sheet_its_title(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path / "a.png", ROWS)
    first = box(sheet, RED)[0]
    for color in (RED, BLUE):
        _, _, left, right = box(sheet, color)
        dark = (sheet[first - 24 : first, left:right] < 100).all(axis=2)
        assert dark.sum() > 40, "no heading above the block"
    y, _ = changed(sheet, sheet_of(tmp_path / "b.png", ROWS, "Another"))
    assert len(y) and y.max() < first - 24
    assert len(sheet_of(tmp_path / "b.png", ROWS, "")) < len(sheet)
    long = sheet_of(tmp_path / "b.png", ROWS, "A title of many words " * 9)
    assert long.shape[1] > sheet.shape[1]
    assert (long[:, -10:] == 255).all(), "the title is cut off"


@pytest.mark.parametrize("empty", [["selected"], ["unselected"], ["selected", "unselected"]])
def test_row_may_have_an_empty_block(tmp_path: Path, empty: list[str]) -> None:
    usual = sheet_of(tmp_path / "a.png", ROWS)
    blocks: dict[str, Any] = {name: [] for name in empty}
    row = dataclasses.replace(ROWS[1], **blocks)
    sheet = sheet_of(tmp_path / "a.png", [ROWS[0], row])
    for color in (RED, LIME, *([] if "selected" in empty else [AQUA])):
        assert box(sheet, color) == box(usual, color)
    assert box(sheet, BLUE) == box(usual, BLUE)
    alone = sheet_of(tmp_path / "a.png", [row])
    assert alone.shape[1] > 200 and len(alone) > TILE
    assert (alone[:, -10:] == 255).all(), "a heading is cut off"


def test_sheet_without_rows_is_a_picture_that_says_so(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path / "a.png", [], "")
    assert (sheet < 100).all(axis=2).sum() > 100, "there is text"
    assert len(sheet_of(tmp_path / "a.png", [], "Title")) > len(sheet)


def test_equal_rows_have_equal_bytes_without_time_or_text_chunks(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture_grid(tmp_path / "new" / name, ROWS, "Sheet")
    content = (tmp_path / "new" / "a.png").read_bytes()
    assert content == (tmp_path / "new" / "b.png").read_bytes()
    chunks, position = set(), 8
    while position < len(content):
        chunks.add(content[position + 4 : position + 8])
        position += 12 + int.from_bytes(content[position : position + 4], "big")
    assert chunks == {b"IHDR", b"IDAT", b"IEND"}


def test_failed_write_leaves_the_old_sheet_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture_grid(tmp_path / "a.png", ROWS)
    old = (tmp_path / "a.png").read_bytes()

    def fail(self: Image.Image, target: Path, **options: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        picture_grid(tmp_path / "a.png", [])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == old


def test_choice_is_spread_evenly_over_the_order_of_p() -> None:
    probability = np.array([0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6])
    selected, unselected = choose(np.array([0, 2, 1, 4, 3]), np.array([8, 7, 6, 5]), probability, 3)
    assert selected.tolist() == [1, 2, 0]  # 0.1, 0.5, 0.9 of 0.1, 0.3, 0.5, 0.7, 0.9
    assert unselected.tolist() == [5, 7, 6]  # 0.2, 0.4, 0.8 of 0.2, 0.4, 0.6, 0.8


def test_choice_is_all_where_there_are_few_and_the_earlier_goes_first_at_equal_p() -> None:
    selected, unselected = choose(np.array([4, 1, 2]), np.array([], int), np.full(5, 0.5), 8)
    assert selected.tolist() == [4, 1, 2]
    assert unselected.tolist() == [] and unselected.dtype == np.int64
    two_levels = np.arange(1000) % 2 / 2
    assert choose(np.arange(1000), np.array([0]), two_levels, 1000)[0].tolist() == [
        *range(0, 1000, 2),
        *range(1, 1000, 2),
    ]
    assert choose(np.array([3, 0]), np.array([1]), np.array([0.2, 0.1, 0.3, 0.1]), 9)[0].tolist() == [3, 0]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 60, 61, 119, 5000])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 59, 60])
def test_evenly_spaced_positions_are_distinct_hold_both_ends_and_differ_by_at_most_one_in_step(
    size: int, count: int
) -> None:
    found = evenly_spaced(size, count)
    assert len(found) == min(size, count)
    if len(found) >= 2:
        assert (found[0], found[-1]) == (0, size - 1)
        steps = np.diff(found)
        assert steps.min() >= 1 and steps.max() - steps.min() <= 1
    elif len(found):
        assert found.tolist() == [0]
