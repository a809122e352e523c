"""PNG files from pixels, with texts inside, and grids of pictures.

Legend: C channels (1 grey, 3 RGB), H W pixels; uint8 [0, 255].

The same pixels and texts give the same bytes. Whoever calls decides what the texts say.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Pixels = npt.NDArray[np.uint8]  # [C, H, W]

_XMP_KEYWORD = "XML:com.adobe.xmp"  # where readers look for XMP in a PNG, XMP Specification Part 3, section 1.1.5
COMPRESS_LEVEL = 3  # of zlib-ng: a tenth larger than by its default of 6, in a third of the time
_GAP_PX = 2
_GAP_VALUE = 24  # nearly black


def encode(pixels: Pixels, text: Mapping[str, str] | None = None, xmp: str | None = None) -> bytes:
    """One picture as a PNG file.

    Args:
        pixels: uint8 [C, H, W], C of 1 or 3.
        text: keyword to text, for text chunks; keywords are 1 to 79 Latin-1 characters. None: no text chunks.
        xmp: an XMP packet. None: no XMP.

    Returns:
        the file's bytes; equal for equal arguments, whatever the order of `text`.

    Raises:
        ValueError: pixels of another shape or type, or a keyword that PNG does not allow.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or pixels.size == 0:
        raise ValueError(f"pixels must be uint8 [1 or 3, H, W], got {pixels.dtype} {list(pixels.shape)}")
    chunks = PngInfo()
    for keyword, words in sorted((text or {}).items()):
        _check_keyword(keyword)
        if words.isascii():
            chunks.add_text(keyword, words)
        else:  # tEXt is Latin-1 by the standard, and read as other things by many
            chunks.add_itxt(keyword, words)
    if xmp is not None:
        chunks.add_itxt(_XMP_KEYWORD, xmp)
    image = Image.fromarray(pixels[0] if pixels.shape[0] == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=chunks, compress_level=COMPRESS_LEVEL)
    return file.getvalue()


def grid(pictures: Sequence[Pixels], columns: int | None = None, scale: int = 1) -> Pixels:
    """Pictures of one size side by side, row by row, with a dark gap between them.

    Args:
        pictures: uint8 [C, H, W] each; grey ones turn RGB where any is RGB.
        columns: pictures in a row. None: as square as can be.
        scale: each pixel becomes a block of this many pixels a side.

    Returns:
        uint8 [C, rows * (H * scale + gap) - gap, columns * (W * scale + gap) - gap].

    Raises:
        ValueError: no pictures, or pictures of several sizes.
    """
    if not pictures:
        raise ValueError("a grid needs at least one picture")
    if len(sizes := {picture.shape[1:] for picture in pictures}) > 1:
        raise ValueError(f"pictures of a grid must be of one size, got {sorted(sizes)}")
    columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    rows = math.ceil(len(pictures) / columns)
    channels = max(picture.shape[0] for picture in pictures)
    high, wide = (side * scale for side in pictures[0].shape[1:])
    height, width = rows * (high + _GAP_PX) - _GAP_PX, columns * (wide + _GAP_PX) - _GAP_PX
    sheet = np.full((channels, height, width), _GAP_VALUE, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = row * (high + _GAP_PX), column * (wide + _GAP_PX)
        large = picture.repeat(scale, axis=1).repeat(scale, axis=2)  # [C, H scale, W scale]
        sheet[:, top : top + high, left : left + wide] = large  # a single channel fills all
    return sheet


def _check_keyword(keyword: str) -> None:
    """PNG Specification, Third Edition, section 11.3.3.1."""
    try:
        raw = keyword.encode("latin-1")
    except UnicodeEncodeError:
        raw = b""
    printable = all(32 <= byte <= 126 or byte >= 161 for byte in raw)
    if not 1 <= len(raw) <= 79 or not printable or keyword != keyword.strip() or "  " in keyword:
        raise ValueError(f"a PNG keyword must be 1 to 79 printable Latin-1 characters, got {keyword!r}")
