"""Garbage: blobs and files that no row refers to and no job will, found and removed beside the running service.

Why nothing that is referred to is ever lost: a blob is judged by rows that are read after it was listed. It goes only if no row
refers to it then, and no unfinished job could: a job that has ended commits nothing more. What belongs to no job yet, an upload
whose request is under way, is protected by its age alone.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sqlalchemy import select

from store.blobs import Blobs, Entry
from store.database import Database
from store.records import Image, Job, JobStatus, Model
from store.references import FOLDERS, images_to_stay, read_references
from store.settings import Settings

GRACE_S = 3600.0  # younger than this, nothing is garbage
BATCH = 500  # blobs that are judged by one look at the rows

OnProgress = Callable[[int], None]


@dataclass
class Findings:
    """What a look through everything has found."""

    kept: Counter[str] = field(default_factory=Counter)  # bytes by folder, of what stays
    garbage: Counter[str] = field(default_factory=Counter)  # bytes by folder, of what went or would go
    removed: list[str] = field(default_factory=list)  # keys, and paths of scratch files, that went or would go
    unknown: list[str] = field(default_factory=list)  # keys that no release of ours has written; they stay
    missing: list[str] = field(default_factory=list)  # keys or folders of keys that rows refer to in vain


def collect(
    database: Database,
    blobs: Blobs,
    *,
    grace_s: float = GRACE_S,
    dry: bool = False,
    clock: Callable[[], float] = time.time,
    on_progress: OnProgress = lambda _done: None,
) -> Findings:
    """Remove blobs that nothing refers to, and name rows whose blob is missing.

    Args:
        grace_s: how long a blob must have lain there to be garbage, seconds.
        dry: remove nothing.
        clock: the time by which blobs are dated, Unix seconds.
        on_progress: is told how many blobs were looked at.

    Raises:
        Unavailable: a resource does not answer; what was removed by then was garbage.
    """
    found, done, old = Findings(), 0, clock() - grace_s
    for batch in _batches(blobs.entries()):
        stays = _to_stay(database, [entry for entry in batch if entry.written_at <= old])
        for entry in batch:
            folder = entry.key.partition("/")[0]
            if folder not in FOLDERS:
                found.unknown.append(entry.key)
            elif entry.written_at > old or entry.key in stays:
                found.kept[folder] += entry.size_bytes
            else:
                found.garbage[folder] += entry.size_bytes
                found.removed.append(entry.key)
                if not dry:
                    blobs.delete(entry.key)
        done += len(batch)
        on_progress(done)
    for entry in blobs.sweep(max(grace_s, 0.0), dry=dry):
        found.garbage["unfinished"] += entry.size_bytes
        found.removed.append(entry.key)
    found.missing = [*_missing_folders(database, blobs), *_missing_images(database, blobs)]
    return found


def collect_files(
    database: Database, settings: Settings, found: Findings, *, grace_s: float = GRACE_S, dry: bool = False
) -> None:
    """Remove from this host's disk what dead workers left in scratch, and event files of models that are gone.

    Args:
        found: what went is added to it.
        grace_s: how long nothing was written to it, seconds.
        dry: remove nothing.
    """
    for folder, is_needed in ((settings.scratch_dir, _is_claimed), (settings.resolved_tensorboard_dir, _is_a_model)):
        for place in sorted(folder.iterdir()) if folder.is_dir() else []:
            size_bytes, written_at = _weigh(place)
            if time.time() - written_at <= grace_s or is_needed(database, place.name):
                continue
            found.garbage[folder.name] += size_bytes
            found.removed.append(str(place))
            if not dry:
                shutil.rmtree(place, ignore_errors=True)


def _to_stay(database: Database, entries: Sequence[Entry]) -> set[str]:
    images = [entry.key for entry in entries if entry.key.startswith("images/")]
    others = [entry.key for entry in entries if not entry.key.startswith("images/")]
    with database.snapshot() as session:
        stays = images_to_stay(session, images) if images else set()
        if others:
            references = read_references(session)
            stays.update(key for key in others if references.cover(key))
    return stays


def _missing_folders(database: Database, blobs: Blobs) -> list[str]:
    def read() -> frozenset[str]:
        with database.snapshot() as session:
            return read_references(session).required

    absent = {folder for folder in read() if not blobs.keys(folder)}
    # A row that is there before and after its blob was not: the blob was missing, not just deleted.
    return sorted(absent & read()) if absent else []


def _missing_images(database: Database, blobs: Blobs) -> Iterator[str]:
    last = ""
    while True:
        page = select(Image.id, Image.blob).where(Image.id > last).order_by(Image.id).limit(BATCH)
        with database.snapshot() as session:
            rows = session.execute(page).all()
        if not rows:
            return
        last = rows[-1][0]
        absent = {image_id: blob for image_id, blob in rows if not blobs.exists(blob)}
        with database.snapshot() as session:
            still = session.scalars(select(Image.id).where(Image.id.in_(absent)).order_by(Image.id)) if absent else ()
            yield from (absent[image_id] for image_id in still)


def _is_claimed(database: Database, name: str) -> bool:
    """Whether a scratch directory, `{job}-{fence}`, is of a claim that may still be good; others are not judged."""
    job_id, _, fence = name.rpartition("-")
    if not job_id.startswith("job_") or not fence.isdigit():
        return True
    with database.snapshot() as session:
        job = session.get(Job, job_id)
    return job is not None and job.status is JobStatus.RUNNING and job.fence == int(fence)


def _is_a_model(database: Database, name: str) -> bool:
    if not name.startswith("mdl_"):
        return True
    with database.snapshot() as session:
        return session.get(Model, name) is not None


def _weigh(place: Path) -> tuple[int, float]:
    """The bytes in a directory, and when something was last written there, Unix seconds."""
    size_bytes, newest = 0, 0.0
    for path in [place, *place.rglob("*")]:
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        size_bytes += status.st_size if path.is_file() else 0
        newest = max(newest, status.st_mtime)
    return size_bytes, newest


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    rest = iter(entries)
    while batch := list(islice(rest, BATCH)):
        yield batch
