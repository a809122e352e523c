"""Restoring: a backup becomes the data of a service that has none, on either database."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, MetaData, Table, insert, inspect, select
from sqlalchemy.orm import Session

from store import jobs
from store.batch import SMALL_BYTES, Batch
from store.blobs import Blobs, LocalBlobs
from store.database import Database, is_known
from store.errors import BackupError, StoreError
from store.manifest import Manifest, OnProgress, object_key, read_index, read_lines, verify
from store.records import Record
from store.references import FOLDERS

ROWS = 1000  # that are inserted together
PARTING_S = 2.0  # how long a PostgreSQL may take to see that a connection was closed


def restore(
    source: Path, database: Database, blobs: Blobs, on_progress: OnProgress = lambda _stage, _done, _total: None
) -> Manifest:
    """Bring back what a backup holds, and return its manifest; jobs that ran go back into the line.

    Args:
        source: the backup's directory.
        database: without rows; its tables are made anew.
        blobs: without blobs.
        on_progress: is told how far each stage is.

    Raises:
        BackupError: there is no backup, it is of a later release, there is data already, or a service runs on it.
        BackupDamaged: the backup's files are not what was written; nothing was restored.
        Unavailable: a resource does not answer; nothing was restored.
        StorageFull: no room; nothing was restored.
    """
    manifest = verify(source, on_progress)
    if not is_known(manifest.revision):
        raise BackupError(
            f"the backup in {source} was made by Darkroom {manifest.release}, whose tables this release does not know; "
            "restore it with that release, or a later one"
        )
    _refuse_data(database, blobs)
    try:
        _restore_blobs(source, manifest, blobs, on_progress)
        _restore_rows(source, manifest, database, on_progress)
    except BaseException:
        with suppress(StoreError):  # what went wrong before says more
            with database.transaction() as session:
                _drop_tables(session)
            for folder in FOLDERS:
                blobs.delete(folder)
        raise
    return manifest


def _refuse_data(database: Database, blobs: Blobs) -> None:
    deadline = time.monotonic() + PARTING_S
    while database.peers():
        if time.monotonic() > deadline:
            raise BackupError("Darkroom is running on this database; stop the API and the workers first")
        time.sleep(0.05)
    with database.snapshot() as session:
        there = set(inspect(session.connection()).get_table_names())
        for table in Record.metadata.sorted_tables:
            if table.name in there and session.execute(select(1).select_from(table).limit(1)).first() is not None:
                raise BackupError(
                    f"the database has rows already, among {table.name}; a backup is restored to an empty one only: "
                    "name another with DARKROOM_DATABASE_URL, or another --data-dir"
                )
    for entry in blobs.entries():
        raise BackupError(
            f"there are blobs already, such as {entry.key}; a backup is restored to an empty directory only: name "
            "another --data-dir, or set DARKROOM_BLOBS_DIR"
        )


def _restore_blobs(source: Path, manifest: Manifest, blobs: Blobs, on_progress: OnProgress) -> None:
    store, together = LocalBlobs(source), Batch(blobs)
    for done, item in enumerate(read_index(source, manifest), 1):
        if item.size_bytes > SMALL_BYTES:
            with store.reader(object_key(item.object)) as file, blobs.writer(item.key) as target:
                shutil.copyfileobj(file, target, SMALL_BYTES)
        else:
            together.add(item.key, store.get(object_key(item.object)))
        on_progress("blobs", done, manifest.blobs)
    together.store()


def _restore_rows(source: Path, manifest: Manifest, database: Database, on_progress: OnProgress) -> None:
    """The tables as they were when the backup was made, filled, then brought to this release as an upgrade does it."""
    with database.transaction() as session:
        _drop_tables(session)
    database.migrate(manifest.revision)
    with database.transaction() as session:
        known = MetaData()
        known.reflect(session.connection(), only=lambda name, _: name in manifest.tables)
        for table in known.sorted_tables:
            dump = manifest.tables[table.name]
            for done in _insert(session, table, read_lines(source, dump.object)):
                on_progress(f"rows of {table.name}", done, dump.rows)
    database.migrate()
    with database.transaction() as session:
        jobs.put_back(session, now=database.now(session))


def _drop_tables(session: Session) -> None:
    ours = MetaData()
    ours.reflect(session.connection(), only=lambda name, _: name in {"alembic_version", *Record.metadata.tables})
    ours.drop_all(session.connection())


def _insert(session: Session, table: Table, lines: Iterator[bytes]) -> Iterator[int]:
    """Insert rows, and yield how many there are so far."""
    moments = [column.name for column in table.columns if _holds(column.type, datetime)]
    binary = [column.name for column in table.columns if _holds(column.type, bytes)]
    for column in table.columns:
        if isinstance(column.type, JSON):
            column.type = JSON(none_as_null=True)  # as store/records.py has it
    done = 0
    while rows := [json.loads(line) for line in islice(lines, ROWS)]:
        for row in rows:
            for name in moments:
                row[name] = datetime.fromisoformat(row[name]) if row[name] is not None else None
            for name in binary:
                row[name] = bytes.fromhex(row[name]) if row[name] is not None else None
        session.execute(insert(table), rows)
        done += len(rows)
        yield done


def _holds(kind: Any, python: type) -> bool:
    try:
        return bool(kind.python_type is python)
    except NotImplementedError:
        return False
