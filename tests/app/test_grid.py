"""Grids of pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from app.grid import GAP_PX, grid_of
from models.png import encode


def png(colour: str | int, *, mode: str = "RGB", side_px: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side_px, side_px), colour).save(file, "PNG")
    return file.getvalue()


def centre(grid: Image.Image, row: int, column: int, side_px: int = 64) -> object:
    step = side_px + GAP_PX
    return grid.getpixel((GAP_PX + column * step + side_px // 2, GAP_PX + row * step + side_px // 2))


def test_pictures_are_laid_out_row_by_row() -> None:
    grid = Image.open(io.BytesIO(grid_of([png("red"), png("lime"), png("blue")], columns=2)))

    assert grid.size == (2 * 64 + 3 * GAP_PX, 2 * 64 + 3 * GAP_PX)
    assert [centre(grid, 0, 0), centre(grid, 0, 1), centre(grid, 1, 0)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert centre(grid, 1, 1) == (255, 255, 255)


def test_small_grey_pictures_are_enlarged_by_whole_numbers_and_stay_grey() -> None:
    grid = Image.open(io.BytesIO(grid_of([png(value, mode="L", side_px=32) for value in (0, 90, 200)], columns=3)))

    assert grid.mode == "L"
    assert grid.size == (3 * 64 + 4 * GAP_PX, 64 + 2 * GAP_PX)
    assert [centre(grid, 0, column) for column in range(3)] == [0, 90, 200]


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (5, 3), (16, 4)])
def test_without_a_number_of_columns_the_grid_is_about_square(count: int, columns: int) -> None:
    grid = Image.open(io.BytesIO(grid_of([png("red")] * count)))
    assert grid.width == columns * 64 + (columns + 1) * GAP_PX


def test_a_row_is_no_longer_than_there_are_pictures() -> None:
    grid = Image.open(io.BytesIO(grid_of([png("red")] * 2, columns=8)))
    assert grid.size == (2 * 64 + 3 * GAP_PX, 64 + 2 * GAP_PX)


def test_a_grid_of_generated_pictures_says_that_it_is_generated() -> None:
    picture = encode(np.zeros((3, 64, 64), np.uint8), text={"AIGC": "of one picture"}, xmp="<x:xmpmeta/>")
    grid = Image.open(io.BytesIO(grid_of([picture, png("red")])))
    grid.load()
    assert grid.info["xmp"] == b"<x:xmpmeta/>"
    assert "AIGC" not in grid.info
