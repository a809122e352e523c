"""Many pictures as one."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image
from PIL.PngImagePlugin import PngInfo

GAP_PX = 2
LEAST_SIDE_PX = 64  # smaller pictures are enlarged by whole numbers, so that people see something


def grid_of(pngs: Sequence[bytes], columns: int | None = None) -> bytes:
    """Return one PNG with all the pictures, row by row, and the first one's XMP: generated ones make a generated grid.

    Args:
        pngs: PNG files of equal size; at least one.
        columns: pictures in a row, at most; None: about as many as there are rows.
    """
    pictures = [Image.open(io.BytesIO(png)) for png in pngs]
    columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    factor = max(1, math.ceil(LEAST_SIDE_PX / max(width, height)))
    width, height = width * factor, height * factor
    size = (columns * (width + GAP_PX) + GAP_PX, rows * (height + GAP_PX) + GAP_PX)
    grid = Image.new("L" if all(picture.mode == "L" for picture in pictures) else "RGB", size, "white")
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
        grid.paste(enlarged, (GAP_PX + column * (width + GAP_PX), GAP_PX + row * (height + GAP_PX)))
    chunks = PngInfo()
    if "xmp" in pictures[0].info:
        chunks.add_itxt("XML:com.adobe.xmp", pictures[0].info["xmp"].decode())
    file = io.BytesIO()
    grid.save(file, "PNG", pnginfo=chunks)
    return file.getvalue()
