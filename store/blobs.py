"""Blobs: bytes under keys such as `images/job_…/000000.png`. A directory, or memory as its twin."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from store.errors import BlobNotFound, BlobsUnavailable, StorageFull

KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
SCRATCH = ".incoming"  # no key starts with a dot, so unfinished files are never listed or served
FULL = {errno.ENOSPC, errno.EDQUOT}


class Blobs(Protocol):
    """What every blob storage can do. Keys are ours, never a client's; a wrong one raises ValueError.

    Every method raises BlobsUnavailable when the storage does not answer, and StorageFull when it has no room.
    """

    def put(self, key: str, data: bytes) -> None:
        """Stores `data` under `key`, whole or not at all; replaces what was there."""

    def put_file(self, key: str, path: Path) -> None:
        """Stores a copy of the file under `key`, whole or not at all."""

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        """A file to write to; the blob appears when the block ends, and not at all when it raises."""
        yield io.BytesIO()

    def get(self, key: str) -> bytes:
        """The bytes under `key`. Raises BlobNotFound."""

    @contextmanager
    def reader(self, key: str) -> Iterator[BinaryIO]:
        """The blob as a readable, seekable file. Raises BlobNotFound."""
        yield io.BytesIO()

    def size(self, key: str) -> int:
        """The blob's size in bytes. Raises BlobNotFound."""

    def exists(self, key: str) -> bool:
        """Whether a blob has this key."""

    def keys(self, prefix: str) -> list[str]:
        """Every key at or below the folder `prefix`, sorted."""

    def delete(self, prefix: str) -> None:
        """Deletes the blob at `prefix` and every blob below it; none is no error."""

    def fetch(self, prefix: str, cache: Path) -> Path:
        """Local files of a blob or of all blobs below a folder, never to be written to.

        Args:
            prefix: a key or a folder of keys.
            cache: a directory for copies, used where the storage is not local.

        Returns:
            The file, or the directory with the same layout as the keys. Raises BlobNotFound.
        """

    def ping(self) -> None:
        """Returns when the storage can be written to."""


class LocalBlobs:
    """Blobs in a directory: written beside, flushed to the disk, then renamed into place."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, key: str, data: bytes) -> None:
        with self.writer(key) as file:
            file.write(data)

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source, self.writer(key) as file:
            shutil.copyfileobj(source, file, 2**20)

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        target = self._path(key)
        incoming = self.root / SCRATCH / uuid.uuid4().hex
        with _converted(key):
            incoming.parent.mkdir(parents=True, exist_ok=True)
            try:
                with incoming.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                target.parent.mkdir(parents=True, exist_ok=True)
                incoming.replace(target)
                _sync_directory(target.parent)
            finally:
                incoming.unlink(missing_ok=True)

    def get(self, key: str) -> bytes:
        with self.reader(key) as file:
            return file.read()

    @contextmanager
    def reader(self, key: str) -> Iterator[BinaryIO]:
        with _converted(key), self._path(key).open("rb") as file:
            yield file

    def size(self, key: str) -> int:
        with _converted(key):
            return self._path(key).stat().st_size

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def keys(self, prefix: str) -> list[str]:
        place = self._path(prefix)
        with _converted(prefix):
            files = [place] if place.is_file() else (path for path in place.rglob("*") if path.is_file())
            return sorted(path.relative_to(self.root).as_posix() for path in files)

    def delete(self, prefix: str) -> None:
        place = self._path(prefix)
        with _converted(prefix):
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)

    def fetch(self, prefix: str, cache: Path) -> Path:
        place = self._path(prefix)
        if not place.exists():
            raise BlobNotFound(f"no blob is at {prefix}")
        return place

    def ping(self) -> None:
        with _converted("the blob directory"):
            self.root.mkdir(parents=True, exist_ok=True)
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise BlobsUnavailable(
                f"{self.root} can't be written to; check its owner and whether it is mounted read-only"
            )

    def _path(self, key: str) -> Path:
        return self.root / _checked(key)


class MemoryBlobs:
    """The twin of LocalBlobs for tests: nothing outlives the object."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> None:
        self._blobs[_checked(key)] = bytes(data)

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        _checked(key)
        buffer = io.BytesIO()
        yield buffer
        self.put(key, buffer.getvalue())

    def get(self, key: str) -> bytes:
        try:
            return self._blobs[_checked(key)]
        except KeyError as error:
            raise BlobNotFound(f"no blob is at {key}") from error

    @contextmanager
    def reader(self, key: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.get(key))

    def size(self, key: str) -> int:
        return len(self.get(key))

    def exists(self, key: str) -> bool:
        return _checked(key) in self._blobs

    def keys(self, prefix: str) -> list[str]:
        folder = _checked(prefix) + "/"
        return sorted(key for key in self._blobs if key == prefix or key.startswith(folder))

    def delete(self, prefix: str) -> None:
        for key in self.keys(prefix):
            del self._blobs[key]

    def fetch(self, prefix: str, cache: Path) -> Path:
        keys = self.keys(prefix)
        if not keys:
            raise BlobNotFound(f"no blob is at {prefix}")
        for key in keys:
            path = cache / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._blobs[key])
        return cache / prefix

    def ping(self) -> None:
        """Memory always answers."""


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError(
            f"{key!r} is no blob key: letters, digits, _ . - in parts between slashes, no part starts with a dot"
        )
    return key


def _sync_directory(directory: Path) -> None:
    # The rename itself lasts through a power cut only once its directory is on the disk.
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _converted(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BlobNotFound(f"no blob is at {what}") from error
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(f"no space is left to store {what}; free some and try again") from error
        raise BlobsUnavailable(f"{what} can't be reached: {error.strerror}") from error
