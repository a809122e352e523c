"""Blobs that fail when they are told to: what a real disk does, at a moment that a test can choose."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from store.blobs import ABANDONED_S, Blobs, Entry, OneByOne, converted


class FailingBlobs(OneByOne):
    """Another storage, whose disk fails at chosen calls; all else goes through.

    A call fails as a whole, except that `put_many` stores one blob after the other, so that it can fail half way.

    Args:
        blobs: the storage behind it.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._number = 0
        self._after = self._times = 0

    def fail(self, number: int, *, after: int = 0, times: int = 1) -> None:
        """Makes later calls that write fail.

        Args:
            number: of the system's error, as in `errno`.
            after: writes that still go well.
            times: writes that fail then.
        """
        with self._lock:
            self._number, self._after, self._times = number, after, times

    @property
    def failures_left(self) -> int:
        """How many writes are still to fail."""
        return self._times

    def put(self, key: str, data: bytes) -> None:
        with self.writer(key) as file:
            file.write(data)

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        with self._blobs.writer(key) as file:
            yield file
            with converted(key, writing=True):  # within the other's block: it drops what was written
                self._strike()

    def get(self, key: str) -> bytes:
        return self._blobs.get(key)

    @contextmanager
    def reader(self, key: str) -> Iterator[BinaryIO]:
        with self._blobs.reader(key) as file:
            yield file

    def size(self, key: str) -> int:
        return self._blobs.size(key)

    def exists(self, key: str) -> bool:
        return self._blobs.exists(key)

    def keys(self, prefix: str) -> list[str]:
        return self._blobs.keys(prefix)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        return self._blobs.entries(prefix)

    def delete(self, prefix: str) -> None:
        self._blobs.delete(prefix)

    def fetch(self, prefix: str, cache: Path) -> Path:
        return self._blobs.fetch(prefix, cache)

    def sweep(self, abandoned_s: float = ABANDONED_S, *, dry: bool = False) -> list[Entry]:
        return self._blobs.sweep(abandoned_s, dry=dry)

    def ping(self) -> None:
        self._blobs.ping()

    def _strike(self) -> None:
        with self._lock:
            if self._after:
                self._after -= 1
                return
            if not self._times:
                return
            self._times -= 1
        raise OSError(self._number, os.strerror(self._number))
