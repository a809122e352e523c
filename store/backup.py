"""Backups: all rows of one moment and every blob that they refer to, in a directory; made while the service runs.

The rows are a portable dump, so what was backed up from SQLite can be restored to PostgreSQL and the other way round.
Objects never change, so a second backup into the same directory copies what is new and drops what is no longer of use.
docs/decisions/0019-kept-and-cleared-away.md argues why nothing that the rows refer to is missing.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, cast

from sqlalchemy import Table, func, select
from sqlalchemy.orm import Session

from store.batch import SMALL_BYTES, Batch
from store.blobs import Blobs, Entry, LocalBlobs
from store.database import Database, head
from store.errors import BackupError, BlobNotFound
from store.manifest import (
    FORMAT,
    MANIFEST,
    Item,
    Manifest,
    OnProgress,
    TableDump,
    object_key,
    read_index,
    read_lines,
    read_manifest,
    sha256_of,
)
from store.records import Image, Record
from store.references import References, read_references

ROUNDS = 100  # tries to copy checkpoints before the training that makes them has replaced them
OURS = {".lock", ".incoming", "objects", MANIFEST}


def back_up(
    database: Database, blobs: Blobs, target: Path, on_progress: OnProgress = lambda _stage, _done, _total: None
) -> Manifest:
    """Bring the backup in a directory up to date, and return what it is now.

    Args:
        target: a directory with an earlier backup, or an empty or new one.
        on_progress: is told how far each stage is.

    Raises:
        BackupError: the directory holds something else, another backup writes to it, or trainings replace their
            checkpoints faster than these can be copied.
        Unavailable: a resource does not answer; the earlier backup is as it was.
        StorageFull: no room; the earlier backup is as it was.
    """
    database.ping()
    with _locked(target):
        copy = _Copy(LocalBlobs(target), blobs, on_progress)
        for _ in range(ROUNDS):
            with database.snapshot(lasting=True) as session:
                now, references = database.now(session), read_references(session)
                missing = copy.folders(references)
                # What goes by checkpoints goes soon: it is copied first, and here it shows whether all of it was.
                with database.snapshot() as second:
                    if not _still(references, read_references(second)):
                        continue
                tables = {table.name: copy.rows(session, table) for table in Record.metadata.sorted_tables}
            gone, damaged = copy.images(tables[Image.__tablename__])
            with database.snapshot() as second:
                left = set(second.scalars(select(Image.blob).where(Image.id.in_(gone)))) if gone else set()
            if len(left) == len(gone):  # their rows are there before and after: they were missing, not just deleted
                break
        else:
            raise BackupError(
                f"trainings replaced their checkpoints before these were copied, {ROUNDS} times; raise "
                "DARKROOM_CHECKPOINT_INTERVAL_S, or use a faster disk"
            )
        manifest = Manifest(
            format=FORMAT,
            release=version("darkroom"),
            revision=head(),
            created_at=now,
            tables=tables,
            index=copy.index(),
            blobs=len(copy.items),
            size_bytes=sum(item.size_bytes for item in copy.items),
            missing=sorted([*missing, *left, *damaged]),
        )
        copy.store.put(MANIFEST, manifest.model_dump_json(indent=2).encode())
        _prune(copy.store, {manifest.index, *(dump.object for dump in tables.values())} | copy.objects())
        return manifest


def _still(before: References, after: References) -> bool:
    """Whether nothing can have been deleted between that `before` refers to.

    A training deletes, and takes the optimizers' states from, checkpoints that a newer one has taken the place of, once that
    is committed; everything else is deleted once no row refers to it.
    """
    return before.required <= after.required and before.checkpoints == after.checkpoints


class _Lines(gzip.GzipFile):
    """Compressed lines in a temporary file: equal lines give equal bytes."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0)
        self._file = file

    def done(self) -> BinaryIO:
        """The whole file, from its start."""
        self.close()
        self._file.seek(0)
        return self._file


class _Copy:
    """The objects of a backup in the making."""

    def __init__(self, store: LocalBlobs, blobs: Blobs, on_progress: OnProgress) -> None:
        self.store, self._blobs, self._on_progress = store, blobs, on_progress
        self._folder_items: dict[str, Item] = {}
        self._image_items: list[Item] = []
        if store.exists(MANIFEST):
            manifest = read_manifest(store.root)
            self._folder_items = {
                item.key: item for item in read_index(store.root, manifest) if item.written_at is not None
            }

    @property
    def items(self) -> list[Item]:
        """Every blob of the backup."""
        return [*self._folder_items.values(), *self._image_items]

    def objects(self) -> set[str]:
        """The objects that hold them."""
        return {item.object for item in self.items}

    def folders(self, references: References) -> list[str]:
        """Copies everything but images, and returns the folders that are empty."""
        entries: dict[str, Entry] = {}
        missing = []
        for folder in sorted(references.required, key=lambda folder: (folder not in references.checkpoints, folder)):
            found = list(self._blobs.entries(folder))
            entries.update((entry.key, entry) for entry in found)
            if not found:
                missing.append(folder)
        before, self._folder_items = self._folder_items, {}
        for done, entry in enumerate(entries.values(), 1):
            item = before.get(entry.key)
            if item is None or not self._is_copied(item, entry):
                item = self._copied(entry)
            if item is not None:
                self._folder_items[entry.key] = item
            self._on_progress("data and models", done, len(entries))
        return missing

    def _is_copied(self, item: Item, entry: Entry) -> bool:
        is_same = (item.size_bytes, item.written_at) == (entry.size_bytes, entry.written_at)
        return is_same and self.store.exists(object_key(item.object))

    def _copied(self, entry: Entry) -> Item | None:
        """The blob as it is now; None where it was deleted meanwhile."""
        try:
            with self._blobs.reader(entry.key) as file:
                sha256 = self.add(file)
        except BlobNotFound:
            return None
        return Item(key=entry.key, size_bytes=entry.size_bytes, written_at=entry.written_at, object=sha256)

    def add(self, file: BinaryIO) -> str:
        """Stores an open file's bytes as an object, and returns its name."""
        sha256 = sha256_of(file)
        if not self.store.exists(object_key(sha256)):
            file.seek(0)
            with self.store.writer(object_key(sha256)) as target:
                shutil.copyfileobj(file, target, SMALL_BYTES)
        return sha256

    def rows(self, session: Session, table: Table) -> TableDump:
        """Copies a table's rows, of the session's moment."""
        count = session.scalar(select(func.count()).select_from(table)) or 0
        done = 0
        with self._lines() as lines:
            for row in session.execute(select(table).order_by(*table.primary_key).execution_options(yield_per=1000)):
                lines.write(json.dumps(dict(row._mapping), default=_plain).encode() + b"\n")  # its public name
                done += 1
                self._on_progress(f"rows of {table.name}", done, count)
            return TableDump(object=self.add(lines.done()), rows=done)

    def images(self, dump: TableDump) -> tuple[list[str], list[str]]:
        """Copies the images that rows name.

        Returns:
            the ids of those whose blobs are not there, and the blobs that are not what their rows say; these are copied as
            they are.
        """
        self._image_items, gone, damaged = [], [], []
        together = Batch(self.store)
        for done, line in enumerate(read_lines(self.store.root, dump.object), 1):
            row = json.loads(line)
            sha256, key = row["sha256"], row["blob"]
            if object_key(sha256) not in together and not self.store.exists(object_key(sha256)):
                try:
                    content = self._blobs.get(key)
                except BlobNotFound:
                    gone.append(row["id"])
                    continue
                actual = hashlib.sha256(content).hexdigest()
                if actual != sha256:
                    damaged.append(key)
                    sha256 = actual
                together.add(object_key(sha256), content)
            self._image_items.append(Item(key=key, size_bytes=row["size_bytes"], written_at=None, object=sha256))
            self._on_progress("images", done, dump.rows)
        together.store()
        return gone, damaged

    @contextmanager
    def _lines(self) -> Iterator[_Lines]:
        # On the backup's own disk: it may be large, and /tmp may be memory.
        with tempfile.TemporaryFile(dir=self.store.root) as file:
            yield _Lines(cast(BinaryIO, file))

    def index(self) -> str:
        """Stores the list of all blobs, and returns its object."""
        with self._lines() as lines:
            for item in self.items:
                lines.write(item.model_dump_json().encode() + b"\n")
            return self.add(lines.done())


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"no backup knows how to write a {type(value).__name__}")


def _prune(store: LocalBlobs, objects: set[str]) -> None:
    """Removes what the backups before this one had, and what interrupted ones have left."""
    for entry in list(store.entries("objects")):
        if entry.key.rpartition("/")[2] not in objects:
            store.delete(entry.key)
    store.sweep(0)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Holds a directory for one backup; the kernel lets go of it however the process ends."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        others = sorted({path.name for path in target.iterdir()} - OURS)
        if others:
            raise BackupError(f"{target} holds {others[0]}, which is no part of a backup; name a directory of its own")
        lock = (target / ".lock").open("a")
    except OSError as error:
        raise BackupError(f"{target} can't be written to: {error.strerror}; name another directory") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupError(f"another backup into {target} is under way; wait until it has ended") from error
        yield
