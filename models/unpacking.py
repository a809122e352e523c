"""A compressed stream becomes a plain temporary file, as far as it goes and the limits allow."""

from __future__ import annotations

import bz2
import gzip
import importlib
import importlib.util
import lzma
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from models.disk import writing
from models.entries import MIB, Limits, Meter
from models.errors import NotAnArchive

_PIECE_BYTES = MIB
_XZ_MEMORY_BYTES = 256 * MIB  # what a stream may ask for its dictionary; `xz -9` needs 65 MiB
_ZSTD = "compression.zstd"  # of Python's own since 3.14


def unpacked(path: Path, limits: Limits, directory: Path, poll: Callable[[], None]) -> tuple[BinaryIO, bool] | None:
    """What a gzip, bzip2, xz or zstd file holds; None when it is none of these, by its first bytes.

    Args:
        path: the compressed file.
        limits: max_total_bytes and max_ratio are kept.
        directory: where the temporary file is made; it has no name there and vanishes when it is closed.
        poll: called between pieces; may raise.

    Returns:
        the temporary file, and whether the stream was whole: a damaged one is unpacked up to its damage.

    Raises:
        LimitExceeded: it unpacks to more than the limits allow.
        NotAnArchive: this Python cannot unpack it.
        OutOfSpace, PrepareError: the disk will not take it.
    """
    with path.open("rb") as packed:
        start = packed.read(6)
        pieces_of = _pieces_of(start)
        if pieces_of is None:
            return None
        packed.seek(0)
        meter = Meter(limits, path.stat().st_size)
        pieces = pieces_of(packed)
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  # the caller's to close
        try:
            while True:
                poll()
                try:
                    piece = next(pieces, b"")
                except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):  # what decompressors say of damage
                    return file, False
                if not piece:
                    return file, True
                meter.add(len(piece))
                with writing(directory):
                    file.write(piece)
        except BaseException:
            file.close()
            raise


def is_compressed(start: bytes) -> bool:
    """Whether a file that begins so is one that `unpacked` knows."""
    return _pieces_of(start) is not None


def _pieces_of(start: bytes) -> Callable[[BinaryIO], Iterator[bytes]] | None:
    return next((pieces for magic, pieces in _FORMATS if start.startswith(magic)), None)


def _gzip(packed: BinaryIO) -> Iterator[bytes]:
    return _read(gzip.GzipFile(fileobj=packed))


def _bzip2(packed: BinaryIO) -> Iterator[bytes]:
    return _read(bz2.BZ2File(packed))


def _xz(packed: BinaryIO) -> Iterator[bytes]:
    """Like lzma.LZMAFile, which has no limit on memory."""
    data = b""
    while data or (data := packed.read(_PIECE_BYTES)).strip(b"\0"):  # streams may follow each other, and zeros the last
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
        while not decompressor.eof:
            if decompressor.needs_input and not data and not (data := packed.read(_PIECE_BYTES)):
                raise EOFError
            piece, data = decompressor.decompress(data, _PIECE_BYTES), b""
            if piece:
                yield piece
        data = decompressor.unused_data.lstrip(b"\0")


def _zstd(packed: BinaryIO) -> Iterator[bytes]:
    try:
        library: Any = importlib.import_module(_ZSTD)
    except ImportError as error:
        raise NotAnArchive("zstd cannot be unpacked before Python 3.14; pack the images as .tar.gz or .zip") from error
    return _read(library.ZstdFile(packed))


def _read(stream: Any) -> Iterator[bytes]:
    while piece := stream.read1(_PIECE_BYTES):  # what comes before damage is given before the damage is told
        yield piece


_FORMATS: tuple[tuple[bytes, Callable[[BinaryIO], Iterator[bytes]]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"BZh", _bzip2),
    (b"\xfd7zXZ\0", _xz),
    (b"\x28\xb5\x2f\xfd", _zstd),
)
