"""A tar archive as a source, compressed or not: its headers walked once, its members read where they lie.

Python's tarfile parses each header here, but does not walk: on hostile archives it reads extended headers of any size into
memory, may go in circles, and takes damage for the archive's end.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from models.entries import (
    Entry,
    Limits,
    Meter,
    check_entry_count,
    clean_path,
    encoding_of,
    in_bytes,
    in_order,
    is_clutter,
)
from models.errors import NotAnArchive, Refused
from models.unpacking import is_compressed, unpacked

_BLOCK = tarfile.BLOCKSIZE
_EXTENDED_BYTES = 64 * 1024  # of one extended header; names are at most 4,096 bytes long on any system
_RECORD = re.compile(rb"(\d{1,6}) ([^=]{1,100})=")  # what a record of such a header begins with
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_EXTENDED, _FOR_ALL = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.XGLTYPE
_REASONS = {
    tarfile.LNKTYPE: "a link inside the archive: pack the file itself",
    tarfile.SYMTYPE: "a link inside the archive: pack the file itself",
    tarfile.GNUTYPE_SPARSE: "a file with holes: pack it without --sparse",
}
_DAMAGED = "the archive is damaged or cut short here, and what may follow cannot be read: pack it again"


@dataclass(frozen=True)
class _Member:
    name: bytes
    offset: int  # of the data in the file
    size_bytes: int
    refusal: str | None


class Tarball:
    """The members of a tar file, listed at once, read one by one. Use it in a `with` statement.

    Args:
        path: the archive; may be compressed by gzip, bzip2, xz or zstd.
        limits: what may be listed and unpacked.
        directory: where a compressed one is unpacked to, in a file without a name.
        poll: called while it is unpacked; may raise.

    Raises:
        NotAnArchive: it is no tar file.
        LimitExceeded: it lists or unpacks to more than allowed.
        OutOfSpace, PrepareError: the disk will not take what it unpacks to.
    """

    def __init__(self, path: Path, limits: Limits, directory: Path, poll: Callable[[], None]) -> None:
        self.name = clean_path(path.name)
        self._limits = limits
        stream = unpacked(path, limits, directory, poll)
        self._file, is_whole = stream or (path.open("rb"), True)
        try:
            self.skipped = 0
            self._members: list[_Member] = []
            self.entries = self._list(is_whole)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Tarball:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def meter(self) -> Meter:
        """A fresh count for one pass over the members."""
        return Meter(self._limits)

    def read(self, entry: Entry, meter: Meter, at_most_bytes: int | None = None) -> bytes:
        """See entries.Source."""
        member = self._members[entry.number]
        wanted = member.size_bytes if at_most_bytes is None else min(at_most_bytes, member.size_bytes)
        try:
            data = os.pread(self._file.fileno(), wanted, member.offset)  # from any thread, without a common position
        except OSError as error:
            raise Refused(f"cannot be read: {error.strerror or error}") from error
        if len(data) < wanted:
            raise Refused("truncated: the archive ends within this file; pack it again")
        meter.add(len(data))
        return data

    def _list(self, is_whole: bool) -> list[Entry]:
        self._members, is_whole_to_the_end = _walk(self._file, self.name, self._limits)
        encoding = encoding_of(b"\n".join(member.name for member in self._members))
        entries = []
        for number, member in enumerate(self._members):
            path = clean_path(member.name.decode(encoding, "replace"))
            if is_clutter(path):
                self.skipped += 1
            else:
                entries.append(Entry(path, member.size_bytes, number, member.refusal))
        if not (is_whole and is_whole_to_the_end):
            after = f"(after {entries[-1].path})" if entries else "(the archive)"
            entries.append(Entry(after, 0, len(self._members), _DAMAGED))
        return in_order(entries)


def looks_like_tar(path: Path) -> bool:
    """Whether a file begins as a tar archive does, compressed or not."""
    with path.open("rb") as file:
        start = file.read(_BLOCK)
    return is_compressed(start) or _header(start) is not None


def _walk(file: BinaryIO, name: str, limits: Limits) -> tuple[list[_Member], bool]:
    """Every member but folders in the archive's order, and whether its end was reached without damage.

    Raises:
        NotAnArchive: not even its first header is one.
        LimitExceeded: there are more headers than members allowed.
    """
    end = file.seek(0, os.SEEK_END)
    members: list[_Member] = []
    offset = count = 0
    extended: dict[bytes, bytes] = {}
    while offset + _BLOCK <= end:
        block = os.pread(file.fileno(), _BLOCK, offset)
        if not block.strip(b"\0"):
            return members, True
        header = _header(block)
        if header is None:
            if not count:
                break
            return members, False
        count += 1
        check_entry_count(count, limits)
        data_offset, size_bytes = offset + _BLOCK, header.size
        if header.type in (*_EXTENDED, _FOR_ALL, _LONG_NAME, _LONG_LINK):
            if size_bytes > _EXTENDED_BYTES:
                return members, False
            data = os.pread(file.fileno(), size_bytes, data_offset)
            if header.type == _LONG_NAME:
                extended[b"path"] = data.partition(b"\0")[0]
            elif header.type in _EXTENDED:
                extended |= _records(data)
        else:
            if (said := extended.get(b"size", b"")).isdigit() and len(said) < 20:
                size_bytes = int(said)
            if not header.isdir():
                path = extended.get(b"path") or header.name.encode("utf-8", "surrogateescape")
                has_holes = any(key.startswith(b"GNU.sparse.") for key in extended)
                refusal = _refusal(tarfile.GNUTYPE_SPARSE if has_holes else header.type, size_bytes, limits)
                if refusal is None and data_offset + size_bytes > end:
                    refusal = "truncated: the archive ends within this file; pack it again"
                members.append(_Member(path, data_offset, size_bytes, refusal))
            extended = {}
            if header.type in _REASONS and header.type != tarfile.GNUTYPE_SPARSE:
                size_bytes = 0  # links have no data, whatever their header says of the file's size
        if header.type == tarfile.GNUTYPE_SPARSE and block[482]:
            return members, False  # a longer map of holes follows, of no use to anyone here
        offset = data_offset + -(-size_bytes // _BLOCK) * _BLOCK
    if not count:
        raise NotAnArchive(f"{name} is not a tar archive that can be read; pack the images as .zip or .tar.gz again")
    return members, False  # the blocks of zeros that end an archive are missing


def _header(block: bytes) -> tarfile.TarInfo | None:
    """A block as a header; None when it is none, or says nonsense."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return None
    return header if header.size >= 0 else None


def _records(data: bytes) -> dict[bytes, bytes]:
    """The records `length key=value` of an extended header, up to the first that is damaged."""
    records: dict[bytes, bytes] = {}
    position = 0
    while match := _RECORD.match(data, position):
        end = position + int(match[1])
        if not match.end() < end <= len(data):
            break
        records[match[2]] = data[match.end() : end - 1]
        position = end
    return records


def _refusal(kind: bytes, size_bytes: int, limits: Limits) -> str | None:
    """Why a member will not be read, from its header alone."""
    if kind in _REASONS:
        return _REASONS[kind]
    if kind not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
        return "not a regular file"
    if size_bytes > limits.max_file_bytes:
        return f"too large: {in_bytes(size_bytes)}, at most {in_bytes(limits.max_file_bytes)}"
    return None
