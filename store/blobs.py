"""Blobs: bytes under keys such as `images/job_…/000000.png`, in a directory."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import stat
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from store.errors import BlobNotFound, BlobsUnavailable, StorageFull
from store.flushing import begin_flush, flush, make_directory, sync
from store.room import check_room

KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
SCRATCH = ".incoming"  # no key starts with a dot, so unfinished files are never listed or served
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no room on the disk, in the quota, or within the limit on files
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
RACES = 100  # lost in a row against deletes before a write gives up
ABANDONED_S = 24 * 3600  # nothing is written to an unfinished file for this long unless its writer is dead


@dataclass(frozen=True)
class Entry:
    """A blob as a listing shows it."""

    key: str
    size_bytes: int
    written_at: float  # Unix time, seconds, by the storage's clock


Settle = Callable[[], None]


class Blobs(Protocol):
    """What every blob storage can do. Keys are ours, never a client's; a wrong one raises ValueError.

    Every method raises BlobsUnavailable when the storage does not answer, and StorageFull when it has no room.
    """

    def put(self, key: str, data: bytes) -> None:
        """Stores `data` under `key`, whole or not at all; replaces what was there."""

    def begin_many(self, blobs: Mapping[str, bytes]) -> Settle:
        """Stores each under its key, each whole or not at all; returns what to call before anybody is told of the keys.

        That returns once no power cut can undo it, with one trip to the disk for all, and raises what `put` does.
        """

    def put_many(self, blobs: Mapping[str, bytes]) -> None:
        """Stores each under its key, each whole or not at all, with one trip to the disk for all of them."""

    def put_file(self, key: str, path: Path) -> None:
        """Stores a copy of the file under `key`, whole or not at all."""

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        """A file to write to; the blob appears when the block ends, and not at all when it raises.

        What the block raises passes through, but a full disk is a StorageFull here too.
        """
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

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Every blob at or below the folder `prefix`, or of all, in no certain order.

        Listed while others write and delete: what comes or goes meanwhile may be in it or not.
        """

    def delete(self, prefix: str) -> None:
        """Deletes the blob at `prefix` and every blob below it, all in one moment; none is no error."""

    def fetch(self, prefix: str, cache: Path) -> Path:
        """Local files of a blob or of all blobs below a folder, never to be written to.

        Args:
            prefix: a key or a folder of keys.
            cache: a directory for copies, used where the storage is not local.

        Returns:
            The file, or the directory with the same layout as the keys. Raises BlobNotFound.
        """

    def sweep(self, abandoned_s: float = ABANDONED_S, *, dry: bool = False) -> list[Entry]:
        """Removes what killed writers left unfinished; harmless at any time.

        Args:
            abandoned_s: how long nothing was written to it, in seconds.
            dry: only look.

        Returns:
            What was removed, or would be, under names that are no keys.
        """

    def ping(self) -> None:
        """Returns when the storage can be written to."""


class OneByOne(ABC):
    """Of a storage that stores blobs one after the other: what it does with many, and with a file."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """As in Blobs."""

    def begin_many(self, blobs: Mapping[str, bytes]) -> Settle:
        """As in Blobs; nothing is left to wait for."""
        self.put_many(blobs)
        return lambda: None

    def put_many(self, blobs: Mapping[str, bytes]) -> None:
        """As in Blobs."""
        for key, data in blobs.items():
            self.put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        """As in Blobs."""
        self.put(key, path.read_bytes())


class LocalBlobs:
    """Blobs in a directory: written beside, flushed to the disk, then renamed into place.

    The directory of unfinished files marks it as ours. Where that is missing although blobs were kept here, the disk is not
    mounted: nothing is written beneath its mount point, and no blob counts as deleted.
    """

    def __init__(self, root: Path, may_begin: Callable[[], bool] = lambda: True) -> None:
        """Makes nothing yet.

        Args:
            root: the directory; made by the first writer.
            may_begin: whether a directory without anything of ours may be the right one, because nothing was kept so far.
        """
        self.root = root
        self._may_begin = may_begin
        self._was_ours = False  # seen by this process

    def put(self, key: str, data: bytes) -> None:
        with self.writer(key) as file:
            file.write(data)

    def put_many(self, blobs: Mapping[str, bytes]) -> None:
        self.begin_many(blobs)()

    def begin_many(self, blobs: Mapping[str, bytes]) -> Settle:
        # Strings and plain calls: a batch's pictures are many and small, and Path and file objects cost as much as the disk.
        root, ours = os.fspath(self.root), os.fspath(self._incoming())
        targets = {key: f"{root}/{checked(key)}" for key in blobs}
        folders = {target.rpartition("/")[0] for target in targets.values()}
        unmoved = {key: f"{ours}-{number}" for number, key in enumerate(blobs)}
        try:
            with converted("new blobs", writing=True):
                self._settle()
            for key, data in blobs.items():
                with converted(key, writing=True):
                    _write_new(unmoved[key], data)
            with converted("new blobs", writing=True):
                if any(map(os.path.exists, targets.values())):
                    flush(unmoved.values())  # or a power cut might leave neither what was there nor this
            for key, target in targets.items():
                with converted(key, writing=True):
                    self._rename(unmoved[key], target)
                del unmoved[key]
            # Contents and names at once: until they are there nobody is told of the keys, so none is looked for.
            with converted("new blobs", writing=True):
                finish = begin_flush(targets.values(), folders)
        finally:
            for place in unmoved.values():
                with contextlib.suppress(OSError):
                    Path(place).unlink()

        def settle() -> None:
            with converted("new blobs", writing=True):
                finish()

        return settle

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source, self.writer(key) as file:
            shutil.copyfileobj(source, file, 2**20)

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        target = self._path(key)
        incoming = self._incoming()
        try:
            with converted(key, writing=True):
                self._settle()
                file = incoming.open("xb")
            try:
                try:
                    yield file
                except OSError as error:
                    if error.errno in FULL:
                        raise _full(key) from error
                    raise
                with converted(key, writing=True):
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                with contextlib.suppress(OSError):  # all was flushed, or the failure is on its way up already
                    file.close()
            with converted(key, writing=True):
                self._move_in(incoming, target)
        finally:
            with contextlib.suppress(OSError):  # what went wrong before says more than a failure to tidy up
                incoming.unlink()

    def get(self, key: str) -> bytes:
        with self.reader(key) as file, self._reading(key):
            return file.read()

    @contextmanager
    def reader(self, key: str) -> Iterator[BinaryIO]:
        with self._reading(key):
            file = self._path(key).open("rb")
        with file:
            yield file

    def size(self, key: str) -> int:
        with self._reading(key):
            status = self._path(key).stat()
        if not stat.S_ISREG(status.st_mode):
            raise BlobNotFound(f"no blob is at {key}")
        return status.st_size

    def exists(self, key: str) -> bool:
        with self._reading(key):
            return self._path(key).is_file() or self._is_elsewhere()

    def keys(self, prefix: str) -> list[str]:
        place = self._path(prefix)
        found: list[Path] = []
        with converted(prefix):
            if place.is_file():
                found.append(place)
            for folder, _, names in os.walk(place, onerror=_unless_absent):
                found.extend(Path(folder, name) for name in names)
            if not found:
                self._is_elsewhere()
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        place = self._path(prefix) if prefix else self.root
        self._is_elsewhere()
        with converted(prefix or "the blob directory"):
            if place.is_file():
                yield from self._entry(place)
            for folder, folders, names in os.walk(place, onerror=_unless_absent):
                folders[:] = [name for name in folders if name != SCRATCH]
                for name in names:
                    yield from self._entry(Path(folder, name))

    def delete(self, prefix: str) -> None:
        place, doomed = self._path(prefix), self._incoming()
        with converted(prefix):
            try:
                self._settle()
                place.rename(doomed)  # at once, and whoever deletes it too finds nothing
            except ABSENT:
                return
            _remove(doomed)
            self._drop_empty(place.parent)

    def fetch(self, prefix: str, cache: Path) -> Path:
        place = self._path(prefix)
        with self._reading(prefix):
            place.stat()
        return place

    def ping(self) -> None:
        with converted("the blob directory", writing=True):
            self._settle()
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise BlobsUnavailable(
                f"{self.root} can't be written to; check its owner and whether it is mounted read-only"
            )
        with converted("the blob directory"):
            check_room(self.root, "blobs")

    def sweep(self, abandoned_s: float = ABANDONED_S, *, dry: bool = False) -> list[Entry]:
        swept = []
        with converted("unfinished files"):
            incoming = self.root / SCRATCH
            for place in list(incoming.iterdir()) if incoming.is_dir() else []:
                try:
                    written_at = place.stat().st_mtime
                    if time.time() - written_at <= abandoned_s:
                        continue
                    swept.append(Entry(f"{SCRATCH}/{place.name}", _size_bytes(place), written_at))
                    if not dry:
                        _remove(place)
                except FileNotFoundError:
                    continue  # finished, or swept by someone else
        return swept

    def _entry(self, path: Path) -> Iterator[Entry]:
        """The file as an entry; nothing where it is gone by now, or no blob of ours."""
        key = path.relative_to(self.root).as_posix()
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if KEY.fullmatch(key):
                yield Entry(key, status.st_size, status.st_mtime)

    def _drop_empty(self, folder: Path) -> None:
        """Removes folders without blobs; a writer that is about to use one makes it again."""
        with contextlib.suppress(OSError):  # not empty, or gone
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    def _settle(self) -> None:
        """Makes the directory where nothing was kept so far, and raises BlobsUnavailable where it is not ours."""
        if not self._is_elsewhere():
            scratch = self.root / SCRATCH
            if not self._was_ours:
                make_directory(scratch)
            self._was_ours = True

    def _is_elsewhere(self) -> bool:
        """False; raises BlobsUnavailable where the blobs that were kept here are not to be seen."""
        ours = self.root / SCRATCH
        if ours.is_dir():
            self._was_ours = True
        # Looked for once more: another thread or process may have begun here meanwhile.
        elif (self._was_ours or not self._may_begin()) and not ours.is_dir():
            raise BlobsUnavailable(
                f"{self.root} holds nothing of what was kept there; check whether its disk is mounted"
            )
        return False

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            with converted(key):
                yield
        except BlobNotFound:
            self._is_elsewhere()  # a mount point without its disk holds no blob either
            raise

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    def _incoming(self) -> Path:
        return self.root / SCRATCH / uuid.uuid4().hex

    def _move_in(self, incoming: Path, target: Path) -> None:
        self._rename(incoming, target)
        sync(target.parent)

    @staticmethod
    def _rename(incoming: str | Path, target: str | Path) -> None:
        for tries_left in reversed(range(RACES)):
            try:
                if tries_left < RACES - 1:
                    make_directory(Path(target).parent)
                os.replace(incoming, target)  # noqa: PTH105  # a Path would cost more than the call
            except (FileNotFoundError, FileExistsError):
                # There is no such folder yet, or it was deleted just now with what was in it; else it is a real failure.
                if tries_left and Path(incoming).exists():
                    continue
                raise
            return


def checked(key: str) -> str:
    """Return the key; raises ValueError where it is none."""
    if not KEY.fullmatch(key):
        raise ValueError(
            f"{key!r} is no blob key: letters, digits, _ . - in parts between slashes, no part starts with a dot"
        )
    return key


def _write_new(place: str, data: bytes) -> None:
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def _remove(place: Path) -> None:
    # Whoever had looked up a path inside before it was renamed may still add to it, or take a folder away from it.
    while os.path.lexists(place):
        try:
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink()
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTEMPTY}:
                raise


def _size_bytes(place: Path) -> int:
    if not place.is_dir():
        return place.stat().st_size
    return sum(path.lstat().st_size for path in place.rglob("*") if path.is_file())


def _unless_absent(error: OSError) -> None:
    if not isinstance(error, ABSENT):
        raise error


def _full(what: str) -> StorageFull:
    return StorageFull(f"no space is left to store {what}; free some and try again")


@contextmanager
def converted(what: str, *, writing: bool = False) -> Iterator[None]:
    """Calls the system's errors about a blob by our names.

    Args:
        what: the blob, for the message.
        writing: whether a missing file is a failure of the storage rather than a missing blob.

    Raises:
        BlobNotFound: there is none.
        StorageFull: no room.
        BlobsUnavailable: any other error.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, ABSENT) and not writing:
            raise BlobNotFound(f"no blob is at {what}") from error
        if error.errno in FULL:
            raise _full(what) from error
        raise BlobsUnavailable(f"{what} can't be reached: {error.strerror}") from error
