"""A zip archive as a source: read member by member, never extracted, its names never used as paths."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from models.entries import (
    MIB,
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
from models.errors import LimitExceeded, ModelsError, NotAnArchive, Refused

_CHUNK_BYTES = 256 * 1024
_ENCRYPTED = 0x1
_NAME_IS_UTF8 = 0x800
_MADE_ON_WINDOWS = 0
_OTHER_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "xz", 98: "PPMd", 99: "AES encryption"}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


class Archive:
    """The members of a zip file, listed at once, unpacked one by one in memory. Use it in a `with` statement.

    Args:
        path: the archive.
        limits: what may be listed and unpacked.

    Raises:
        NotAnArchive: it is no zip file, or its directory is damaged.
        LimitExceeded: it lists too many members; found out before their records are kept.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.name = clean_path(path.name)
        self._limits = limits
        self.skipped = 0
        # zipfile counts its open members without a lock and closes the file at zero, unless the file is ours.
        self._file = path.open("rb")
        try:
            self._packed_bytes = self._file.seek(0, io.SEEK_END)
            _count_members(self._file, limits)
            self._zip = zipfile.ZipFile(self._file)
            self._members = self._zip.infolist()
            self.entries = self._list()
        except LimitExceeded:
            self._file.close()
            raise
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OSError) as error:
            self._file.close()
            raise NotAnArchive(
                f"{self.name} is not a zip archive that can be read ({error}); pack the images as .zip again"
            ) from error

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()
        self._file.close()

    def meter(self) -> Meter:
        """A fresh count for one pass over the members."""
        return Meter(self._limits, self._packed_bytes)

    def read(self, entry: Entry, meter: Meter, at_most_bytes: int | None = None) -> bytes:
        """See entries.Source."""
        member = self._members[entry.number]
        limits = self._limits
        wanted = limits.max_file_bytes + 1 if at_most_bytes is None else at_most_bytes
        data = io.BytesIO()
        length = 0
        try:
            with self._zip.open(member) as stream:
                while length < wanted and (piece := stream.read(min(_CHUNK_BYTES, wanted - length))):
                    data.write(piece)
                    length += len(piece)
                    meter.add(len(piece))
                    if length > limits.max_file_bytes:
                        raise Refused(f"too large: more than {in_bytes(limits.max_file_bytes)} when unpacked")
                    if length > max(MIB, member.compress_size * limits.max_ratio):
                        raise Refused(
                            f"unpacks to more than {limits.max_ratio:g} times its size, as a zip bomb does: "
                            "save it as PNG or JPEG before packing"
                        )
        except ModelsError:
            raise
        except Exception as error:  # zipfile's own, and those of the four decompressors behind it
            raise Refused(f"cannot be unpacked: pack it again ({_first_line(error)})") from error
        return data.getvalue()

    def _list(self) -> list[Entry]:
        entries = []
        names = _names(self._members)
        for number, (member, name) in enumerate(zip(self._members, names, strict=True)):
            path = clean_path(name)
            if name.endswith("/"):
                continue
            if is_clutter(path):
                self.skipped += 1
            else:
                entries.append(Entry(path, member.file_size, number, _refusal(member, self._limits)))
        return in_order(entries)


def _refusal(member: zipfile.ZipInfo, limits: Limits) -> str | None:
    """Why a member will not be read, from its record alone."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if member.flag_bits & _ENCRYPTED:
        return "encrypted: pack the archive without a password"
    if kind not in (0, stat.S_IFREG):
        return "a link inside the archive: pack the file itself" if kind == stat.S_IFLNK else "not a regular file"
    if member.compress_type not in _METHODS:
        method = _OTHER_METHODS.get(member.compress_type, f"number {member.compress_type}")
        return f"packed by a method that is not supported ({method}): pack the archive as plain zip (deflate)"
    if member.file_size > limits.max_file_bytes:
        return f"too large: {in_bytes(member.file_size)}, at most {in_bytes(limits.max_file_bytes)}"
    return None


def _names(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Every member's name as its author saw it.

    Names without the UTF-8 mark are by the standard in code page 437, and in practice in whatever the author's system used.
    All of an archive's unmarked names are read in one encoding, so that one folder never gets two spellings.
    """
    unmarked = [member.filename.encode("cp437") for member in members if not member.flag_bits & _NAME_IS_UTF8]
    encoding = encoding_of(b"\n".join(unmarked))
    names = []
    for member in members:
        name = member.filename
        if not member.flag_bits & _NAME_IS_UTF8:
            name = name.encode("cp437").decode(encoding)
        names.append(name.replace("\\", "/") if member.create_system == _MADE_ON_WINDOWS else name)
    return names


# The records that end a zip file. https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.12 to 4.3.16
_MEMBER = struct.Struct("<4s24x3H12x")  # signature, lengths of name, extra field and comment
_END = struct.Struct("<4s8xLLH")  # signature, bytes and offset of the directory, length of the comment
_END64_LOCATOR = struct.Struct("<4s16x")
_END64 = struct.Struct("<4s36xQ8x")  # signature, bytes of the directory


def _count_members(file: BinaryIO, limits: Limits) -> None:
    """Walks the archive's directory and keeps nothing, since zipfile keeps a record for each member, however many.

    What is damaged is left to zipfile to complain about.

    Raises:
        LimitExceeded: there are more members than allowed.
    """
    length = file.seek(0, io.SEEK_END)
    tail_start = max(0, length - _END.size - 0xFFFF)
    file.seek(tail_start)
    tail = file.read()
    # As zipfile does: an end record without a comment is taken as it is, else the last one that can be found.
    last = tail[-_END.size :]
    position = len(tail) - _END.size
    if not (last.startswith(b"PK\5\6") and last.endswith(b"\0\0")):
        position = tail.rfind(b"PK\5\6")
    if position < 0 or len(tail) - position < _END.size:
        return
    _, directory_bytes, _, _ = _END.unpack_from(tail, position)
    directory_end = tail_start + position
    if directory_end >= _END64_LOCATOR.size + _END64.size:
        file.seek(directory_end - _END64_LOCATOR.size - _END64.size)
        (signature, bytes64), (locator,) = _END64.unpack(file.read(_END64.size)), _END64_LOCATOR.unpack(file.read(20))
        if locator == b"PK\6\7" and signature == b"PK\6\6":
            directory_bytes = bytes64
            directory_end -= _END64_LOCATOR.size + _END64.size

    count = 0
    file.seek(max(0, directory_end - directory_bytes))
    while len(header := file.read(_MEMBER.size)) == _MEMBER.size:
        signature, *lengths = _MEMBER.unpack(header)
        if signature != b"PK\1\2":
            break
        count += 1
        check_entry_count(count, limits)
        file.seek(sum(lengths), io.SEEK_CUR)


def _first_line(error: Exception) -> str:
    """What a library had to say, short enough for a list."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
