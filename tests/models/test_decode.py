"""Every colour mode comes out with the right numbers, and every bad file with a reason; nothing else is raised or warned."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.decode import Colour, Pixels, decode, pillow_guard, read_header
from models.errors import Refused
from tests.pictures import png_that_promises

WHITE = (255, 255, 255)
MAX_PIXELS = 1_000_000


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def decoded(
    image: Image.Image | bytes, resolution: int = 8, channels: int | None = None, background: Colour = WHITE
) -> Pixels:
    data = image if isinstance(image, bytes) else encoded(image)
    return decode(data, resolution, channels, background, MAX_PIXELS)


def colour(pixels: Pixels) -> list[int]:
    """The one colour of a picture that must be of one colour."""
    values = np.unique(pixels.reshape(len(pixels), -1), axis=1)  # [C, colours]
    assert values.shape[1] == 1
    return [int(value) for value in values[:, 0]]


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


# Colour modes


def test_an_image_of_the_right_size_keeps_every_pixel() -> None:
    image = noise(32, 32)
    assert (decoded(image, 32) == np.asarray(image).transpose(2, 0, 1)).all()


def test_grey_stays_one_channel() -> None:
    assert decoded(Image.new("L", (8, 8), 77)).shape == (1, 8, 8)


def test_one_bit_becomes_black_and_white() -> None:
    image = Image.new("1", (8, 8), 0)
    image.paste(1, (0, 0, 4, 8))
    assert decoded(image)[0, 0].tolist() == [255] * 4 + [0] * 4


@pytest.mark.parametrize("value", [0, 257, 0x1234, 40000, 65535])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(value: int, form: str) -> None:
    image = Image.fromarray(np.full((8, 8), value, np.uint16))
    assert colour(decoded(encoded(image, form))) == [round(value / 257)]


def test_thirty_two_bit_grey_that_holds_sixteen_is_scaled_too() -> None:
    assert colour(decoded(encoded(Image.fromarray(np.full((8, 8), 51400, np.int32)), "TIFF"))) == [200]


@pytest.mark.parametrize("value", [-1, 65536])
def test_thirty_two_bit_grey_beyond_sixteen_is_refused(value: int) -> None:
    with pytest.raises(Refused, match=f"grey values from {value} to {value}.*save it with 8 or 16 bits"):
        decoded(encoded(Image.fromarray(np.full((8, 8), value, np.int32)), "TIFF"))


def test_floats_from_zero_to_one_are_scaled() -> None:
    assert colour(decoded(encoded(Image.fromarray(np.full((8, 8), 0.2, np.float32)), "TIFF"))) == [51]


@pytest.mark.parametrize("value", [7.5, float("nan")])
def test_floats_of_another_range_are_refused(value: float) -> None:
    with pytest.raises(Refused, match="expected 0 to 1"):
        decoded(encoded(Image.fromarray(np.full((8, 8), value, np.float32)), "TIFF"))


def test_a_palette_gives_its_colours() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([1, 2, 3, 40, 50, 60])
    assert colour(decoded(image)) == [40, 50, 60]


def test_a_palettes_transparent_entry_shows_the_background() -> None:
    image = Image.new("P", (8, 8), 1)
    image.paste(0, (0, 0, 4, 8))
    image.putpalette([9, 9, 9, 40, 50, 60])
    pixels = decoded(encoded(image, transparency=0), background=(200, 100, 0))
    assert colour(pixels[:, :, :4]) == [200, 100, 0]
    assert colour(pixels[:, :, 4:]) == [40, 50, 60]


def test_a_palette_with_partial_transparency_blends_with_the_background() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([9, 9, 9, 0, 100, 200])
    assert colour(decoded(encoded(image, transparency=bytes([0, 51])), background=(100, 100, 100))) == [80, 100, 120]


def test_rgb_with_alpha_blends_with_the_background() -> None:
    assert colour(decoded(Image.new("RGBA", (8, 8), (0, 100, 200, 51)), background=(100, 100, 100))) == [80, 100, 120]


def test_colours_under_full_transparency_do_not_bleed_into_scaled_edges() -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 16))
    pixels = decoded(image, background=(0, 0, 0))
    assert colour(pixels) == [0]


def test_grey_with_alpha_stays_grey_on_a_grey_background() -> None:
    assert colour(decoded(Image.new("LA", (8, 8), (0, 51)), background=(100, 100, 100))) == [80]


def test_grey_with_alpha_takes_on_a_coloured_background() -> None:
    assert colour(decoded(Image.new("LA", (8, 8), (50, 0)), background=(200, 10, 20))) == [200, 10, 20]


@pytest.mark.parametrize(("mode", "value"), [("L", 7), ("1", 1)])
def test_a_grey_value_marked_transparent_shows_the_background(mode: str, value: int) -> None:
    data = encoded(Image.new(mode, (8, 8), value), transparency=value)
    assert colour(decoded(data, background=(200, 10, 20))) == [200, 10, 20]


def test_a_sixteen_bit_value_marked_transparent_shows_the_background() -> None:
    values = np.full((8, 8), 51400, np.uint16)
    values[:, :4] = 51401  # the same after scaling, but not the marked one
    pixels = decoded(encoded(Image.fromarray(values), transparency=51400), background=(1, 2, 3))
    assert colour(pixels[:, :, :4]) == [200, 200, 200]
    assert colour(pixels[:, :, 4:]) == [1, 2, 3]


def test_an_rgb_colour_marked_transparent_shows_the_background() -> None:
    data = encoded(Image.new("RGB", (8, 8), (7, 8, 9)), transparency=(7, 8, 9))
    assert colour(decoded(data, background=(200, 10, 20))) == [200, 10, 20]


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(form: str) -> None:
    pixels = decoded(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), form))
    assert abs(pixels.astype(int) - np.array([255, 0, 0])[:, None, None]).max() <= 3


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), value) for value in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for form in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, lossless=True)
        assert colour(decoded(data)) == [255, 0, 0], form


# Channels


def test_rgb_that_is_grey_all_over_needs_one_channel() -> None:
    assert colour(decoded(Image.new("RGB", (8, 8), (90, 90, 90)))) == [90]


def test_a_single_coloured_pixel_needs_three_channels() -> None:
    image = Image.new("RGB", (8, 8), (90, 90, 90))
    image.putpixel((3, 3), (91, 90, 90))
    assert decoded(image).shape == (3, 8, 8)


def test_grey_in_a_colour_set_is_repeated() -> None:
    assert colour(decoded(Image.new("L", (8, 8), 90), channels=3)) == [90, 90, 90]


def test_colour_in_a_grey_set_becomes_its_luma() -> None:
    assert colour(decoded(Image.new("RGB", (8, 8), (200, 100, 50)), channels=1)) == [
        round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    ]


# Shape


@pytest.mark.parametrize(("width", "height"), [(24, 8), (8, 24), (25, 8)])
def test_the_central_square_is_taken(width: int, height: int) -> None:
    values = np.zeros((height, width), np.uint8)
    left, top = (width - 8) // 2, (height - 8) // 2
    values[top : top + 8, left : left + 8] = np.arange(64).reshape(8, 8) + 1
    assert (decoded(Image.fromarray(values))[0] == values[top : top + 8, left : left + 8]).all()


@pytest.mark.parametrize("side", [4, 31, 300])
def test_a_plain_image_stays_plain_when_scaled(side: int) -> None:
    assert colour(decoded(Image.new("RGB", (side, side * 2), (12, 200, 99)))) == [12, 200, 99]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "corner"),
    # of a picture stored with its light corner at the top left: where the corner must be, as (row, column)
    [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0)), (5, (0, 0)), (6, (0, -1)), (7, (-1, -1)), (8, (-1, 0))],
)
def test_exif_orientation_is_applied(form: str, orientation: int, corner: tuple[int, int]) -> None:
    values = np.zeros((16, 24), np.uint8)
    values[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decoded(encoded(Image.fromarray(values).convert("RGB"), form, exif=exif), 16, 1)[0]
    bright = {place for place in [(0, 0), (0, -1), (-1, 0), (-1, -1)] if pixels[place] > 128}
    assert bright == {corner}


def test_orientation_tells_a_transposition_from_none() -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 5
    assert (decoded(encoded(Image.fromarray(values), exif=exif))[0] == values.T).all()


def test_a_damaged_exif_block_does_not_spoil_the_picture() -> None:
    data = encoded(Image.new("L", (8, 8), 33), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff nonsense")
    with pillow_guard():
        assert colour(decoded(data)) == [33]


def test_a_large_photograph_is_nearly_what_slow_scaling_gives() -> None:
    smooth = noise(8, 8).resize((1200, 900), Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        slow = np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS, box=(150, 0, 1050, 900)))
    assert abs(decode(data, 32, 3, WHITE, 10**7).transpose(1, 2, 0).astype(int) - slow).max() <= 3


# Refusals


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_a_file_cut_short_is_refused_as_truncated(form: str) -> None:
    data = encoded(noise(64, 64), form)
    with pillow_guard(), pytest.raises(Refused, match="truncated: the file ends early"):
        decoded(data[: len(data) * 3 // 4])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_damage_of_any_kind_is_refused_or_decoded_and_nothing_else_is_raised(form: str) -> None:
    data = encoded(noise(40, 40), form)
    random = np.random.default_rng(1)
    with pillow_guard():
        for _ in range(60):
            broken = bytearray(data)
            for place in random.integers(0, len(data), 5):
                broken[place] = random.integers(0, 256)
            with suppress(Refused):
                assert decoded(bytes(broken)).shape in ((1, 8, 8), (3, 8, 8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"Dear all, enclosed", "not an image"),
        (b"PK\3\4rest", "archive"),
        (b"%PDF-1.7", "PDF"),
        (b"<svg xmlns=''/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC.*save it as JPEG or PNG"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "damaged or cut short AVIF"),
        (b"\x89PNG\r\n\x1a\n", "damaged or cut short PNG|truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_what_is_no_image_is_refused_with_what_it_is(data: bytes, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        read_header(data, MAX_PIXELS)


@pytest.mark.parametrize("side", [2_000, 15_000, 60_000])
def test_too_many_pixels_are_refused_before_decoding_and_without_a_warning(side: int) -> None:
    with (
        pillow_guard(),
        pytest.raises(Refused, match=rf"too many pixels: {side * side / 1e6:,.1f} million, at most 1 m"),
    ):
        read_header(png_that_promises(side, side), MAX_PIXELS)


def test_pixels_above_pillows_own_limit_pass_where_ours_is_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pillow_guard():
        assert colour(decoded(Image.new("L", (8, 8), 5))) == [5]


# The guard


def test_guards_may_overlap_and_leave_the_process_as_it_was() -> None:
    filters, most = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    first, second = pillow_guard(), pillow_guard()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS is None
    warnings.warn("an image as large as a bomb", Image.DecompressionBombWarning, stacklevel=1)
    second.__exit__(None, None, None)
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == (filters, most)
