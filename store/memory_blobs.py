"""Blobs in memory: the twin of a directory's, for tests."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from store.blobs import ABANDONED_S, Entry, OneByOne, checked
from store.errors import BlobNotFound


class MemoryBlobs(OneByOne):
    """The twin of LocalBlobs: nothing outlives the object."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._blobs: dict[str, bytes] = {}
        self._written_at: dict[str, float] = {}
        self._clock = clock

    def put(self, key: str, data: bytes) -> None:
        self._written_at[checked(key)] = self._clock()  # first: whoever lists the blob looks for its time
        self._blobs[key] = bytes(data)

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        checked(key)
        buffer = io.BytesIO()
        yield buffer
        self.put(key, buffer.getvalue())

    def get(self, key: str) -> bytes:
        try:
            return self._blobs[checked(key)]
        except KeyError as error:
            raise BlobNotFound(f"no blob is at {key}") from error

    @contextmanager
    def reader(self, key: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.get(key))

    def size(self, key: str) -> int:
        return len(self.get(key))

    def exists(self, key: str) -> bool:
        return checked(key) in self._blobs

    def keys(self, prefix: str) -> list[str]:
        folder = checked(prefix) + "/"
        # list() takes one step: other threads may write meanwhile.
        return sorted(key for key in list(self._blobs) if key == prefix or key.startswith(folder))

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        for key in self.keys(prefix) if prefix else list(self._blobs):
            data = self._blobs.get(key)
            if data is not None:
                yield Entry(key, len(data), self._written_at[key])

    def delete(self, prefix: str) -> None:
        for key in self.keys(prefix):
            self._blobs.pop(key, None)

    def fetch(self, prefix: str, cache: Path) -> Path:
        keys = self.keys(prefix)
        if not keys:
            raise BlobNotFound(f"no blob is at {prefix}")
        for key in keys:
            path = cache / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._blobs[key])
        return cache / prefix

    def sweep(self, abandoned_s: float = ABANDONED_S, *, dry: bool = False) -> list[Entry]:
        """A killed writer leaves nothing in memory."""
        return []

    def ping(self) -> None:
        """Memory always answers."""
