"""What cameras, scanners, editors and the web write comes in with the colours that its author saw."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, ImageCms

from models.decode import decode
from tests.hostile import chunk

RED, WIDE = (255, 0, 0), (0x1234, 40_000, 65_535)  # 8 and 16 bits


def encoded(form: str, *frames: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    frames[0].save(file, form, **options, **({"append_images": frames[1:], "save_all": True} if frames[1:] else {}))
    return file.getvalue()


def plain(mode: str = "RGB", colour: Any = RED, side: int = 16) -> Image.Image:
    return Image.new(mode, (side, side), colour)


def png_of_16_bits(colour_type: int, *values: int) -> bytes:
    """Every pixel of these values; Pillow itself writes no such file."""
    rows = (b"\0" + struct.pack(f">{len(values)}H", *values) * 8) * 8
    header = struct.pack(">IIBBBBB", 8, 8, 16, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff_of_16_bits(*values: int) -> bytes:
    data = struct.pack("<3H", *values) * 64
    tags = [(256, 8), (257, 8), (258, 122), (259, 1), (262, 2), (273, 128), (277, 3), (278, 8), (279, len(data))]
    entries = b"".join(
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, at) for tag, at in tags
    )
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + struct.pack("<3H", 16, 16, 16)) + data


FILES = {
    "a JPEG of CMYK, inverted as Adobe does": (encoded("JPEG", plain("CMYK", (0, 255, 255, 0))), RED),
    "a progressive JPEG": (encoded("JPEG", plain(), progressive=True), RED),
    "a JPEG with bytes behind it": (encoded("JPEG", plain()) + b"\0\xff\xd8 and more" * 500, RED),
    "a stereo picture (MPO)": (encoded("MPO", plain(), plain(colour="green")), RED),
    "a picture with a colour profile": (
        encoded("JPEG", plain(), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        RED,
    ),
    "an animated GIF": (encoded("GIF", plain("P", 0), plain("P", 1)), (0, 0, 0)),
    "an animated PNG": (encoded("PNG", plain(), plain(colour="green")), RED),
    "an animated WebP": (encoded("WEBP", plain(), plain(colour="green"), lossless=True), RED),
    "an interlaced GIF": (encoded("GIF", plain("L", 77), interlace=1), (77, 77, 77)),
    "a PNG of 16 bits": (png_of_16_bits(2, *WIDE), (0x12, 156, 255)),
    "a PNG of 16 bits with alpha": (png_of_16_bits(6, *WIDE, 0), (255, 255, 255)),
    "a grey PNG of 16 bits with alpha": (png_of_16_bits(4, 40_000, 65_535), (156, 156, 156)),
    "a TIFF of 16 bits": (tiff_of_16_bits(*WIDE), (0x12, 156, 255)),
    "a scan of 1 bit": (encoded("TIFF", plain("1", 1), compression="group4"), (255, 255, 255)),
    "an AVIF": (encoded("AVIF", plain(), quality=100), RED),
    "a JPEG 2000": (encoded("JPEG2000", plain(side=64)), RED),
    "a TIFF as old scanners pack it": (encoded("TIFF", plain(), compression="packbits"), RED),
}


@pytest.mark.parametrize("name", FILES)
def test_the_colour_is_what_its_author_saw(name: str) -> None:
    data, wanted = FILES[name]
    pixels = decode(data, 8, 3, (255, 255, 255), 1_000_000)
    assert [
        max(abs(int(value) - level) for value in plane.flat) <= 3 for plane, level in zip(pixels, wanted, strict=True)
    ] == [True] * 3, pixels[:, 0, 0]
