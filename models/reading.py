"""What an import's threads do with its files, a portion at a time: look at their headers, and later decode them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

from models.decode import Colour, Header, Pixels, may_say_more_later
from models.decoders import Decoders
from models.entries import MIB, Entry, Source
from models.errors import Refused
from models.manifest import RefusedFile

_PORTION_FILES, _PORTION_BYTES = 32, MIB  # what a thread takes at once: some small files or one large
_HEADER_BYTES = 64 * 1024  # where nearly every file has said its size
# Larger images are decoded one at a time, so that memory does not grow with the threads.
_LARGE_PIXELS, _LARGE_BYTES = 16_000_000, 32 * MIB


@dataclass(frozen=True)
class Picture:
    """A file that begins like an image we can use."""

    entry: Entry
    header: Header
    class_name: str | None = None

    @property
    def size_bytes(self) -> int:
        return self.entry.size_bytes

    @property
    def is_large(self) -> bool:
        return self.header.pixels > _LARGE_PIXELS or self.entry.size_bytes > _LARGE_BYTES


@dataclass(frozen=True)
class Decoded:
    """A file that became pixels."""

    pixels: Pixels  # uint8 [C, H, W]
    sha256: str  # of the file


class Surveyor:
    """Reads headers; called from several threads."""

    def __init__(self, files: Source, decoders: Decoders) -> None:
        self._files = files
        self._decoders = decoders
        self._meter = files.meter()

    def __call__(self, portion: list[Entry]) -> list[Picture | RefusedFile]:
        """What each file is; raises LimitExceeded."""
        found: dict[int, Picture | RefusedFile] = {}
        beginnings: dict[int, bytes] = {}
        for index, entry in enumerate(portion):
            try:
                if entry.refusal is not None:
                    raise Refused(entry.refusal)
                beginnings[index] = self._files.read(entry, self._meter, _HEADER_BYTES)
            except Refused as refusal:
                found[index] = RefusedFile(entry.path, str(refusal))
        headers = self._decoders.headers(list(beginnings.values()))
        for (index, data), header in zip(beginnings.items(), headers, strict=True):
            if isinstance(header, Refused) and len(data) == _HEADER_BYTES and may_say_more_later(data):
                # Some files say their size late: a TIFF at its end, a photograph behind its preview.
                header = self._whole(portion[index])
            found[index] = _picture(portion[index], header)
        return [found[index] for index in range(len(portion))]

    def _whole(self, entry: Entry) -> Header | Refused:
        try:
            with _alone_if(entry.size_bytes > _LARGE_BYTES):
                (header,) = self._decoders.headers([self._files.read(entry, self._meter)])
        except Refused as refusal:
            return refusal
        return header


class Reader:
    """Reads and decodes files; called from several threads."""

    def __init__(
        self, files: Source, decoders: Decoders, resolution: int, channels: int | None, background: Colour
    ) -> None:
        self._files = files
        self._decoders = decoders
        self._meter = files.meter()
        self._options = resolution, channels, background

    def __call__(self, portion: list[Picture]) -> list[Decoded | RefusedFile]:
        """What became of each file; raises LimitExceeded."""
        found: dict[int, Decoded | RefusedFile] = {}
        contents: dict[int, bytes] = {}
        with _alone_if(any(picture.is_large for picture in portion)):
            for index, picture in enumerate(portion):
                try:
                    contents[index] = self._files.read(picture.entry, self._meter)
                except Refused as refusal:
                    found[index] = RefusedFile(picture.entry.path, str(refusal))
            decoded = self._decoders.decode(list(contents.values()), *self._options)
        for (index, data), pixels in zip(contents.items(), decoded, strict=True):
            found[index] = (
                RefusedFile(portion[index].entry.path, str(pixels))
                if isinstance(pixels, Refused)
                else Decoded(pixels, hashlib.sha256(data).hexdigest())
            )
        return [found[index] for index in range(len(portion))]


class _Sized(Protocol):
    @property
    def size_bytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)


def portions(items: Iterable[T], is_large: Callable[[T], bool] = lambda _: False) -> Iterator[list[T]]:
    """Items in portions for one thread each; a large one is a portion of its own."""
    portion: list[T] = []
    portion_bytes = 0
    for item in items:
        alone = is_large(item)
        if portion and (alone or len(portion) >= _PORTION_FILES or portion_bytes >= _PORTION_BYTES):
            yield portion
            portion, portion_bytes = [], 0
        portion.append(item)
        portion_bytes += _PORTION_BYTES if alone else item.size_bytes
    if portion:
        yield portion


_large = threading.Lock()


def _alone_if(large: bool) -> AbstractContextManager[object]:
    return _large if large else nullcontext()


def _picture(entry: Entry, header: Header | Refused) -> Picture | RefusedFile:
    return RefusedFile(entry.path, str(header)) if isinstance(header, Refused) else Picture(entry, header)
