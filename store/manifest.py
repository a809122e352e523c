"""What a backup is: its manifest, its index, and whether all of it is as it was written.

manifest.json         written last, by one rename: until then the backup before it is whole
objects/ab/abcdef…    a file, named by its SHA-256: rows, blobs, the index of blobs
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from store.blobs import LocalBlobs
from store.errors import BackupDamaged, BackupError, BlobNotFound

FORMAT = 1
MANIFEST = "manifest.json"

OnProgress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


class TableDump(BaseModel):
    """The rows of one table: JSON lines, compressed."""

    model_config = ConfigDict(frozen=True)

    object: str
    rows: int


class Manifest(BaseModel):
    """What a backup is."""

    model_config = ConfigDict(frozen=True)

    format: int
    release: str  # of Darkroom
    revision: str  # of the database's schema
    created_at: datetime  # the moment of the rows
    tables: dict[str, TableDump]
    index: str  # the object with a line for each blob
    blobs: int
    size_bytes: int  # of them all
    missing: list[str]  # what rows referred to in vain when the backup was made, or what was no longer what they say


class Item(BaseModel):
    """A line of the index: a blob, and the object that holds its bytes."""

    model_config = ConfigDict(frozen=True)

    key: str
    size_bytes: int
    written_at: float | None  # Unix seconds; None for an image, whose row has its hash
    object: str


def object_key(sha256: str) -> str:
    """Return where an object lies in a backup."""
    return f"objects/{sha256[:2]}/{sha256}"


def sha256_of(file: BinaryIO) -> str:
    """Return the hash of what is left of an open file."""
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def read_manifest(source: Path) -> Manifest:
    """Return the manifest of the backup in a directory.

    Raises:
        BackupError: there is none, or it is of a later release.
        BackupDamaged: it can't be read.
    """
    try:
        said = json.loads(LocalBlobs(source).get(MANIFEST))
        if isinstance(said, dict) and isinstance(said.get("format"), int) and said["format"] > FORMAT:
            raise BackupError(
                f"the backup in {source} was made by Darkroom {said.get('release', 'of a later release')}, which writes "
                f"format {said['format']}; this release reads {FORMAT}: restore it with that release"
            )
        return Manifest.model_validate(said)
    except BlobNotFound as error:
        raise BackupError(f"there is no backup in {source}: it has no {MANIFEST}; name another directory") from error
    except (ValueError, ValidationError) as error:
        raise BackupDamaged(f"{source / MANIFEST} is damaged; make the backup anew, in another directory") from error


def read_index(source: Path, manifest: Manifest) -> Iterator[Item]:
    """Yield every blob of a backup.

    Raises:
        BackupDamaged: the index is missing, or can't be read.
    """
    for line in read_lines(source, manifest.index):
        yield Item.model_validate_json(line)


def read_lines(source: Path, sha256: str) -> Iterator[bytes]:
    """Yield the lines of a compressed object.

    Raises:
        BackupDamaged: it is missing, or can't be read.
    """
    try:
        with LocalBlobs(source).reader(object_key(sha256)) as file, gzip.open(file) as lines:
            yield from lines
    except (BlobNotFound, EOFError, gzip.BadGzipFile) as error:
        raise BackupDamaged(f"{source / object_key(sha256)} is missing or damaged") from error


def verify(source: Path, on_progress: OnProgress = lambda _stage, _done, _total: None) -> Manifest:
    """Return the manifest of a backup all of whose files are as they were written.

    Args:
        source: its directory.
        on_progress: is told how many bytes were looked at.

    Raises:
        BackupError: there is none, or it is of a later release.
        BackupDamaged: files are missing or were changed; the message names the first.
    """
    manifest, store, done = read_manifest(source), LocalBlobs(source), 0
    _check_all(store, [manifest.index, *(table.object for table in manifest.tables.values())])
    damaged, seen = [], set()
    for item in read_index(source, manifest):
        if item.object not in seen and not _is_whole(store, item.object):
            damaged.append(f"{object_key(item.object)} ({item.key})")
        seen.add(item.object)
        done += item.size_bytes
        on_progress("verify", done, manifest.size_bytes)
    _refuse(store, damaged)
    return manifest


def _check_all(store: LocalBlobs, objects: list[str]) -> None:
    _refuse(store, [object_key(name) for name in objects if not _is_whole(store, name)])


def _refuse(store: LocalBlobs, damaged: list[str]) -> None:
    if damaged:
        more = f" and {len(damaged) - 3:,} more" if len(damaged) > 3 else ""
        raise BackupDamaged(
            f"files of the backup in {store.root} are missing or damaged: {', '.join(damaged[:3])}{more}; "
            "run `darkroom backup` into it again while the service's data is there, or use another backup"
        )


def _is_whole(store: LocalBlobs, sha256: str) -> bool:
    try:
        with store.reader(object_key(sha256)) as file:
            return sha256_of(file) == sha256
    except BlobNotFound:
        return False
