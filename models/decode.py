"""One image file's bytes become one square of pixels.

Legend: C channels (1 grey, 3 RGB), H W pixels. Everything is uint8 [0, 255].

Pillow raises nearly any exception on a damaged file and warns about others. Here each becomes a `Refused` with a reason
for the file's owner. No file system is touched, and no colour profile is applied: numbers are taken as sRGB.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from models.errors import Refused

Pixels = npt.NDArray[np.uint8]  # [C, H, W]
Colour = tuple[int, int, int]  # RGB, 0 to 255

# Formats of pictures that are decoded inside this process; those that call another program (EPS) stay out.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {  # EXIF 2.32, table 6: what to do so that the first row is the top one
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Header:
    """What a file says of its image before it is decoded."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def short_side(self) -> int:
        return min(self.width, self.height)


def read_header(data: bytes, max_pixels: int) -> Header:
    """Size of the image in these bytes, which may be only the file's beginning; nothing is decoded.

    Raises:
        Refused: it is no image, or has more than `max_pixels`.
    """
    with _open(data, max_pixels) as image:
        return Header(*image.size)


def decode(data: bytes, resolution: int, channels: int | None, background: Colour, max_pixels: int) -> Pixels:
    """The upright central square of an image, scaled to `resolution`.

    Args:
        data: the whole file.
        resolution: pixels on a side of the result.
        channels: 1 or 3; None: 1 where the picture is grey all over, else 3.
        background: what shows through transparent pixels.
        max_pixels: of the image as stored.

    Returns:
        uint8 [channels, resolution, resolution]; of an animation the first frame.

    Raises:
        Refused: it is no image, is damaged, or has more than `max_pixels`.
    """
    with _open(data, max_pixels) as opened:
        try:
            width, height = opened.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            shrunk = _decode_smaller(opened, 2 * resolution / side)
            opened.load()
            orientation = _orientation(opened)
            image = _opaque(opened, background).resize(
                (resolution, resolution),
                Image.Resampling.LANCZOS,
                box=(left / shrunk, top / shrunk, (left + side) / shrunk, (top + side) / shrunk),
            )
            if orientation in _UPRIGHT:
                image = image.transpose(_UPRIGHT[orientation])
            return _channels(image, channels)
        except Refused:
            raise
        except MemoryError as error:
            raise Refused("not enough memory to decode it: save it smaller") from error
        except Exception as error:  # whatever Pillow's decoders trip over
            raise Refused(_damage(error, data)) from error


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The image with its header read and its size allowed."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise Refused(_what_it_is(data)) from error
    except Exception as error:  # whatever Pillow's parsers trip over
        raise Refused(_damage(error, data)) from error
    pixels = image.width * image.height
    if pixels > max_pixels:
        image.close()
        raise Refused(
            f"too many pixels: {pixels / 1e6:,.1f} million, at most {max_pixels / 1e6:,.4g} million; save it smaller"
        )
    return image


def _decode_smaller(image: Image.Image, scale: float) -> float:
    """Asks a JPEG to be decoded at a half, a quarter or an eighth, no smaller than `scale`; returns by how much it will be.

    At twice the wanted size the filter still has enough to work on.
    """
    if scale >= 1:
        return 1
    width = image.width
    drafted = image.draft(None, (round(width * scale), round(image.height * scale)))
    return 1 if drafted is None else width / drafted[1][2]


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation still to be applied, 1 to 8; 1 where there is none or its block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged block of metadata does not spoil the picture
        return 1
    return value if isinstance(value, int) else 1


def _opaque(image: Image.Image, background: Colour) -> Image.Image:
    """The image as "L" or "RGB", 8 bits, without transparency."""
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        return _from_deep_grey(image, background)
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        picture = image if image.mode == "RGBA" else image.convert("RGBA")
        canvas = Image.new("RGB", picture.size, background)
        canvas.paste(picture, mask=picture)  # blends by the alpha channel, with fewer copies than alpha_composite
        return canvas
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _from_deep_grey(image: Image.Image, background: Colour) -> Image.Image:
    """Grey of 16 bits, or of 32 bits that hold 16, or of floats from 0 to 1, scaled to 8 bits."""
    values = np.asarray(image)  # [H, W]
    least, most = values.min(), values.max()
    if image.mode == "F":
        if not (least >= 0 and most <= 1):  # also false for NaN
            raise Refused(f"grey values from {least:g} to {most:g}, expected 0 to 1: save it with 8 or 16 bits")
        grey = np.rint(values * 255).astype(np.uint8)
    else:
        if least < 0 or most > 65535:
            raise Refused(f"grey values from {least} to {most}, expected 0 to 65535: save it with 8 or 16 bits")
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return Image.fromarray(grey)
    return Image.fromarray(
        np.where((values == transparent)[..., None], np.array(background, np.uint8), grey[..., None])
    )


def _channels(image: Image.Image, channels: int | None) -> Pixels:
    """An "L" or "RGB" image as an array of the wanted channels, or of as few as it needs."""
    if channels == 1:
        image = image.convert("L")
    values = np.asarray(image)  # [H, W] or [H, W, 3]
    if values.ndim == 3 and channels is None and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim == 2:
        return np.repeat(values[None], channels or 1, axis=0)  # [C, H, W]
    return np.ascontiguousarray(values.transpose(2, 0, 1))


_STARTS = (  # of files that Pillow could not open though it knows the format
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP", "JPEG 2000"),
)

_STARTS_OF_OTHERS = (
    (b"PK\3\4", "not an image but an archive: unpack it, or import it on its own"),
    (b"Rar!", "not an image but an archive: unpack it first"),
    (b"7z\xbc\xaf", "not an image but an archive: unpack it first"),
    (b"%PDF", "not an image but a PDF: export its pages as PNG or JPEG"),
    (b"8BPS", "a Photoshop file: export it as PNG or JPEG"),
    (b"<svg", "a drawing (SVG), not pixels: export it as PNG"),
    (b"<?xml", "not an image but XML; if it is a drawing (SVG), export it as PNG"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_TRUNCATED = "truncated: the file ends early; copy or export it again"


def may_say_more_later(start: bytes) -> bool:
    """Whether bytes that could not be opened are the beginning of a file whose size may stand further on."""
    return start.startswith(tuple(magic for magic, _ in _STARTS)) or start[4:8] == b"ftyp"


def _what_it_is(data: bytes) -> str:
    """Why bytes that Pillow could not open as an image cannot be used."""
    if not data:
        return "empty: the file has no bytes"
    for start, reason in _STARTS_OF_OTHERS:
        if data.startswith(start):
            return reason
    box, brand = data[4:8], data[8:12]  # of the family of formats that HEIC and AVIF belong to
    if box == b"ftyp" and brand in _HEIF_BRANDS:
        return "HEIC, which is not supported: save it as JPEG or PNG"
    known = "AVIF" if box == b"ftyp" and brand in (b"avif", b"avis") else None
    known = next((name for start, name in _STARTS if data.startswith(start)), known)
    if known is not None:
        return f"a damaged or cut short {known}: its header cannot be read; copy or export it again"
    return "not an image (known are PNG, JPEG, GIF, WebP, BMP, TIFF, AVIF, JPEG 2000, PPM)"


def _damage(error: Exception, data: bytes) -> str:
    """What a failed decoding means to the file's owner."""
    words = str(error)
    if any(sign in words.lower() for sign in ("truncated", "eof", "not enough image data")):
        return _TRUNCATED
    if data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data):  # WebP declares its length
        return _TRUNCATED
    words = "".join(character for character in words if character.isprintable())[:100]
    return f"damaged: the pixels cannot be read ({words or type(error).__name__})"


_guard_lock = threading.Lock()
_guarded = 0  # how many guards are open, in any thread
_before_guard: tuple[warnings.catch_warnings[None], int | None] | None = None


@contextmanager
def pillow_guard() -> Iterator[None]:
    """Within it, our own limit on pixels is the only one, and Pillow's warnings about odd files go nowhere.

    Both are settings of the whole process. They are changed when the first guard opens and put back when the last one
    closes, so that imports may run side by side.
    """
    global _guarded, _before_guard
    with _guard_lock:
        if _guarded == 0:
            filters = warnings.catch_warnings()
            filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            _before_guard = filters, Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = None
        _guarded += 1
    try:
        yield
    finally:
        with _guard_lock:
            _guarded -= 1
            if _guarded == 0 and _before_guard is not None:
                filters, Image.MAX_IMAGE_PIXELS = _before_guard
                filters.__exit__(None, None, None)
                _before_guard = None
