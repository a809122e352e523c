"""Makers of small pictures, as arrays, as folders of PNG files and as prepared data; the same call gives the same pixels."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.prepare import prepare

Pixels = npt.NDArray[np.uint8]


def shapes(count: int, resolution: int = 32, channels: int = 3, classes: int = 2) -> tuple[Pixels, list[int]]:
    """Discs, squares, rings and crosses, one shape for each class, of varying place and colour.

    Returns:
        uint8 [count, channels, resolution, resolution], and the class of each.
    """
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:resolution, :resolution] / (resolution - 1) * 2 - 1  # [-1, 1]
    pixels = np.zeros((count, channels, resolution, resolution), np.uint8)
    labels = [index % classes for index in range(count)]
    for picture, label in zip(pixels, labels, strict=True):
        y, x = random.uniform(-0.3, 0.3, 2)
        distance = np.hypot(rows - y, columns - x)
        square = np.maximum(abs(rows - y), abs(columns - x))
        masks = (
            distance < 0.5,
            square < 0.45,
            abs(distance - 0.5) < 0.15,
            np.minimum(abs(rows - y), abs(columns - x)) < 0.15,
        )
        back, front = random.integers(0, 90, channels), random.integers(150, 256, channels)
        picture[:] = np.where(masks[label % 4], front[:, None, None], back[:, None, None])
    return pixels, labels


def save(pixels: Pixels, path: Path) -> Path:
    """One picture, uint8 [C, H, W], as a file of the format that its name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)
    return path


def png_that_promises(width: int, height: int) -> bytes:
    """A PNG file of 64 pixels whose header says it has many more."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    struct.pack_into(">II", data, 16, width, height)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


def folder_of_shapes(
    directory: Path, count: int = 16, resolution: int = 32, channels: int = 3, classes: int = 2, labelled: bool = True
) -> Path:
    """A folder of PNG files, in one folder for each class where labelled."""
    for index, (picture, label) in enumerate(zip(*shapes(count, resolution, channels, classes), strict=True)):
        save(picture, directory / (f"class-{label}" if labelled else "") / f"{index:04}.png")
    return directory


def prepared_shapes(
    directory: Path, count: int = 16, resolution: int = 32, channels: int = 3, classes: int = 2, labelled: bool = True
) -> Path:
    """A directory of prepared data; its pictures stand in the order of their paths: class by class where labelled."""
    source = folder_of_shapes(directory / "originals", count, resolution, channels, classes, labelled)
    prepare(source, directory / "prepared", resolution=resolution, channels=channels)
    return directory / "prepared"


def jpeg_of_many_scans(side: int = 4000, scans: int = 5000) -> bytes:
    """A black progressive JPEG that repeats its last scan: small, valid in its header, and a minute of work by default."""
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * scans + data[-2:]
