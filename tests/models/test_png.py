"""PNG files carry their pixels and texts exactly, and equal input gives equal bytes."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from models.png import Pixels, encode, grid


def noise(channels: int, height: int = 8, width: int = 8) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (channels, height, width), np.uint8)


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Type and content of each chunk, by the letter of the PNG specification."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    found, place = [], 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert int.from_bytes(data[place + 8 + length : place + 12 + length], "big") == zlib.crc32(kind + content)
        found.append((kind, content))
        place += 12 + length
    return found


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pixels_come_back_exactly(channels: int, mode: str) -> None:
    pixels = noise(channels, 5, 9)
    with Image.open(io.BytesIO(encode(pixels))) as image:
        assert image.mode == mode
        assert (np.asarray(image).reshape(5, 9, channels).transpose(2, 0, 1) == pixels).all()


def test_a_view_that_is_not_contiguous_encodes_as_its_copy() -> None:
    pixels = noise(3, 16, 16)[:, ::2, ::-2]
    assert encode(pixels) == encode(pixels.copy())


def test_texts_come_back_in_any_script() -> None:
    text = {"seed": "7", "AIGC": '{"Label":"1"}', "prompt": "天使\nCafé"}
    with Image.open(io.BytesIO(encode(noise(3), text))) as image:
        assert isinstance(image, PngImageFile)
        assert image.text == text


def test_xmp_lies_where_readers_look_for_it_uncompressed() -> None:
    packet = "<x:xmpmeta xmlns:x='adobe:ns:meta/'>é</x:xmpmeta>"
    (content,) = [content for kind, content in chunks(encode(noise(1), xmp=packet)) if kind == b"iTXt"]
    assert content == b"XML:com.adobe.xmp\0\0\0\0\0" + packet.encode()


def test_texts_stand_before_the_pixels() -> None:
    kinds = [kind for kind, _ in chunks(encode(noise(1), {"seed": "1"}, xmp="<x/>"))]
    assert kinds == [b"IHDR", b"tEXt", b"iTXt", b"IDAT", b"IEND"]


def test_equal_input_gives_equal_bytes_whatever_the_order_of_texts() -> None:
    one = encode(noise(3), {"a": "1", "b": "2"}, "<x/>")
    assert one == encode(noise(3), {"b": "2", "a": "1"}, "<x/>")
    assert one != encode(noise(3), {"a": "1", "b": "3"}, "<x/>")


@pytest.mark.parametrize("keyword", ["", "x" * 80, "种子", " seed", "a  b", "line\nbreak", "nul\0"])
def test_keywords_that_png_does_not_allow_are_refused(keyword: str) -> None:
    with pytest.raises(ValueError, match="PNG keyword"):
        encode(noise(1), {keyword: "text"})


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (4, 8, 8), (8, 8, 3), (3, 0, 8)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        encode(np.zeros(shape, np.uint8))


def test_a_grid_places_pictures_row_by_row_with_gaps() -> None:
    pictures = [np.full((1, 2, 3), value, np.uint8) for value in (100, 150, 200)]
    sheet = grid(pictures, columns=2)
    assert sheet.shape == (1, 2 + 2 + 2, 3 + 2 + 3)
    assert (sheet[0, :2, :3] == 100).all()
    assert (sheet[0, :2, 5:] == 150).all()
    assert (sheet[0, 4:, :3] == 200).all()
    assert (sheet[0, 2:4] == 24).all()
    assert (sheet[0, :, 3:5] == 24).all()
    assert (sheet[0, 4:, 5:] == 24).all()


def test_a_grid_scales_by_whole_blocks_and_is_as_square_as_can_be() -> None:
    sheet = grid([noise(3, 4, 4)] * 9, scale=3)
    assert sheet.shape == (3, 3 * 12 + 4, 3 * 12 + 4)
    assert (sheet[:, :12:3, :12:3] == noise(3, 4, 4)).all()
    assert (sheet[:, 2:12:3, 2:12:3] == noise(3, 4, 4)).all()


def test_grey_pictures_among_colour_ones_turn_rgb() -> None:
    sheet = grid([noise(3), noise(1)], columns=2)
    assert (sheet[:, :, 10:] == noise(1)).all()


def test_a_grid_of_nothing_or_of_several_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        grid([])
    with pytest.raises(ValueError, match="one size"):
        grid([noise(1, 4, 4), noise(1, 5, 5)])
