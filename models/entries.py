"""What a folder and an archive have in common: files with a name for people, and limits on reading them.

An entry's `path` is for people and for class names. It is never used to open or write anything, so a name such as
`../../etc/passwd` can do no harm. This module knows nothing of images.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from models.errors import LimitExceeded

MIB = 1024 * 1024

_LONGEST_PATH = 1000  # characters kept of a name; some of an archive's names may be 65,535 long
_UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and bytes that were no text
_CLUTTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir"})
_DRIVE = re.compile("[A-Za-z]:")


@dataclass(frozen=True)
class Limits:
    """How much an import may read. The first two of bytes and the ratio count what is really read, not what is declared."""

    max_file_bytes: int = 256 * MIB  # of one file; larger ones are refused by name
    max_total_bytes: int = 64 * 1024 * MIB  # of all files together; more ends the import
    max_ratio: float = 200.0  # unpacked to packed bytes, of one archived file above 1 MiB and of the whole archive
    max_entries: int = 500_000  # files in the source, of any kind; more ends the import
    max_pixels: int = 50_000_000  # width times height of one image, checked before it is decoded
    max_decode_s: float = 20.0  # processor time for one image; slower ones are refused by name
    max_memory_bytes: int = 2048 * MIB  # address space of a process that decodes
    max_lost_decoders: int = 100  # images that may be too slow or crash their decoder; more ends the import


@dataclass(frozen=True)
class Entry:
    """One file of a source."""

    path: str  # cleaned, "/" between folders, relative to the source
    size_bytes: int  # as listed; reading may find another
    number: int  # the source's own key for it
    refusal: str | None = None  # why it will not be read, where the listing already tells


class Source(Protocol):
    """Files that can be listed and read."""

    name: str
    entries: list[Entry]  # sorted by path
    skipped: int  # what systems leave behind, and nobody means to import: not among the entries

    def meter(self) -> Meter:
        """A fresh count for one pass over the files."""
        ...

    def read(self, entry: Entry, meter: Meter, at_most_bytes: int | None = None) -> bytes:
        """The file's bytes, or only its first `at_most_bytes`.

        Raises:
            Refused: it cannot be read, or is more than the limits allow for one file.
            LimitExceeded: this file was one too many for the source.
        """
        ...


class Meter:
    """Counts the bytes read from one source, from any thread.

    Args:
        limits: max_total_bytes and max_ratio are watched here.
        packed_bytes: size of the archive; None for a folder, which has no ratio.
    """

    def __init__(self, limits: Limits, packed_bytes: int | None = None) -> None:
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._total_bytes = 0
        self._lock = threading.Lock()

    def add(self, count_bytes: int) -> None:
        """Counts bytes just read.

        Raises:
            LimitExceeded: all files together are more than the limits allow.
        """
        with self._lock:
            self._total_bytes += count_bytes
            total = self._total_bytes
        if total > self._limits.max_total_bytes:
            raise LimitExceeded(
                "max_total_bytes",
                f"the files hold more than {in_bytes(self._limits.max_total_bytes)} together; import them in parts",
            )
        if self._packed_bytes is not None and total > max(MIB, self._packed_bytes * self._limits.max_ratio):
            raise LimitExceeded(
                "max_ratio",
                f"the archive of {in_bytes(self._packed_bytes)} unpacks to more than {self._limits.max_ratio:g} times "
                "its size, as a zip bomb does; pack the images as PNG or JPEG files",
            )


def check_entry_count(count: int, limits: Limits) -> None:
    """Raises LimitExceeded when a source lists more files than allowed."""
    if count > limits.max_entries:
        raise LimitExceeded(
            "max_entries", f"the source lists more than {limits.max_entries:,} files; import them in parts"
        )


def clean_path(name: str) -> str:
    """A file's name as it is shown and grouped by: NFC, "/" between folders, no "..", no root, no control characters."""
    text = unicodedata.normalize("NFC", _UNSHOWABLE.sub("\ufffd", name))
    parts = [part for part in text.split("/") if part not in ("", ".", "..")]
    if parts and _DRIVE.fullmatch(parts[0]):
        del parts[0]
    path = "/".join(parts) or "(no name)"
    return path if len(path) <= _LONGEST_PATH else path[: _LONGEST_PATH - 1] + "…"


def encoding_of(raw: bytes) -> str:
    """The encoding that all these bytes of names are in, as far as can be told: UTF-8, GBK, or code page 437."""
    if raw.isascii():
        return "cp437"
    for encoding in ("utf-8", "gbk"):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        # By chance western letters of code page 437 decode as rare characters of GBK, but hardly as common ones.
        wide = [character for character in text if character > "\x7f"]
        common = len("".join(wide).encode("gb2312", "ignore")) // 2
        if encoding == "utf-8" or common * 2 > len(wide):
            return encoding
    return "cp437"


def is_clutter(path: str) -> bool:
    """Whether a cleaned path is something that systems leave behind and nobody means to import."""
    return any(part.startswith(".") or part.lower() in _CLUTTER for part in path.split("/"))


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Entries by path; files of one name stay as the source has them."""
    return sorted(entries, key=lambda entry: (entry.path, entry.number))


def in_bytes(count: float) -> str:
    """A number of bytes for people: "256 MiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
