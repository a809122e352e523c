"""Pictures that were developed: encoded, stored, committed, and told of, a batch at a time."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.orm import Session

from models.png import encode
from models.sampling import RenderedImage
from store.events import Notice, Picture
from store.identifiers import new_id
from store.resources import Resources
from store.slices import NewImage, Outcome, Slice, commit_slices
from worker.provenance import text_chunks, xmp_packet
from worker.statistics import WorkerStatistics

log = logging.getLogger(__name__)

ENCODERS = 4  # threads that compress PNGs; zlib releases the interpreter's lock
SHARE_BYTES = 2**20  # of pixels, for one thread
FOLDER = slice(4, 12)  # of a job's id: the time it was made, in steps of about a minute


@dataclass(frozen=True)
class Batch:
    """Slices and their pictures, in one order."""

    slices: tuple[Slice, ...]
    pictures: tuple[RenderedImage, ...]
    classes: Sequence[str] | None  # what labels are called
    images_seen: int  # by the weights that made them
    started: float  # when rendering began, seconds of the monotonic clock
    untold: tuple[Notice, ...] = ()  # what else there is to tell of its jobs, before the pictures

    def split(self) -> list[Batch]:
        """Each slice as a batch of its own."""
        parts, start = [], 0
        for part in self.slices:
            parts.append(replace(self, slices=(part,), pictures=self.pictures[start : start + part.count]))
            start += part.count
        return parts

    def places(self) -> Iterator[tuple[Slice, int]]:
        """For each picture its slice and its position in the job."""
        return ((part, position) for part in self.slices for position in range(part.start, part.end))


@dataclass(frozen=True)
class _Files:
    """The PNGs of a batch, in its order, which are on the disk once `settle` returns."""

    keys: Sequence[str]
    contents: Sequence[bytes]
    settle: Callable[[], None]


@dataclass(frozen=True)
class _Kept:
    """A batch whose rows are written."""

    batch: Batch
    outcomes: list[Outcome]
    images: Mapping[str, Sequence[NewImage]]  # by job


class PictureStore:
    """Keeps pictures: blobs first, then rows, then news."""

    def __init__(self, resources: Resources, statistics: WorkerStatistics) -> None:
        self._resources = resources
        self._statistics = statistics
        self._encoders = ThreadPoolExecutor(ENCODERS, thread_name_prefix="encoder")
        self._xmp = xmp_packet()

    def keep(self, batch: Batch) -> list[Outcome]:
        """Stores the batch, and tells who watches; returns how far the jobs are whose slices were stored.

        Raises:
            Unavailable: a resource does not answer; nothing was committed.
            StorageFull: no room; nothing was committed.
        """
        files = self._stored(batch)
        with self._statistics.stage("commit"), self._resources.database.transaction() as session:
            kept = self._committed(session, batch, files)
        self._told(kept)
        return kept.outcomes

    def keep_claimed(self, claim: Callable[[Session], Batch]) -> Batch:
        """Stores what is claimed in the same transaction, as `keep` does otherwise; whatever `claim` raises undoes it."""
        with self._statistics.stage("commit"), self._resources.database.transaction() as session:
            batch = claim(session)
            kept = self._committed(session, batch, self._stored(batch))
        self._told(kept)
        return batch

    def _stored(self, batch: Batch) -> _Files:
        """The files of a batch, as good as on the disk."""
        places, stage = list(batch.places()), self._statistics.stage
        with stage("encode"):
            files = self._encoded(places, batch)
        # The key says what the picture is, so a second attempt writes the same bytes to the same place.
        keys = [_key(part.claim.job_id, position) for part, position in places]
        with stage("store"):
            return _Files(keys, files, self._resources.blobs.begin_many(dict(zip(keys, files, strict=True))))

    def _committed(self, session: Session, batch: Batch, files: _Files) -> _Kept:
        """The rows of a batch, written."""
        now = self._resources.database.now(session)
        images_per_s = len(batch.pictures) / max(time.monotonic() - batch.started, 1e-6)
        rows = [
            _row(place, picture, key, data, batch, now)
            for place, picture, key, data in zip(
                batch.places(), batch.pictures, files.keys, files.contents, strict=True
            )
        ]
        by_job = _by_job(rows)
        made = [(part, by_job[part.claim.job_id]) for part in batch.slices]
        outcomes = commit_slices(session, made, now=now, images_per_s=images_per_s)
        files.settle()
        return _Kept(batch, outcomes, by_job)

    def _told(self, kept: _Kept) -> None:
        """Tells who watches of what was committed."""
        batch, outcomes = kept.batch, kept.outcomes
        stored = {outcome.job_id for outcome in outcomes}
        for part in batch.slices:
            if part.claim.job_id not in stored:
                log.warning(
                    "%s is no longer this worker's (its fence was %d), or has ended; its late images %d to %d are dropped",
                    part.claim.job_id,
                    part.claim.fence,
                    part.start,
                    part.end - 1,
                )
        made = (notice for outcome in outcomes for notice in _notices(outcome, kept.images[outcome.job_id]))
        self._resources.tell(*(notice for notice in batch.untold if notice.job_id in stored), *made)
        self._statistics.note_batch(len(batch.pictures), batch.started)

    def _encoded(self, places: Sequence[tuple[Slice, int]], batch: Batch) -> list[bytes]:
        """The PNGs; several threads share them where that pays for handing them over."""
        step = max(1, SHARE_BYTES // batch.pictures[0].pixels.nbytes)
        starts = range(0, len(places), step)

        def share(start: int) -> list[bytes]:
            part = slice(start, start + step)
            return [
                picture.file or self.encode(of, picture, batch.classes, batch.images_seen)
                for (of, _), picture in zip(places[part], batch.pictures[part], strict=True)
            ]

        shares = map(share, starts) if len(starts) == 1 else self._encoders.map(share, starts)
        return [file for files in shares for file in files]

    def encode(self, part: Slice, picture: RenderedImage, classes: Sequence[str] | None, images_seen: int) -> bytes:
        """Return a slice's picture as a PNG, which says what made it; `classes` and `images_seen` as in Batch."""
        if not self._resources.settings.provenance:
            return encode(picture.pixels)
        text = text_chunks(
            model_id=part.claim.model_id or "",
            images_seen=images_seen,
            seed=picture.seed,
            label=_class_name(picture, classes),
            recipe=picture.recipe,
        )
        return encode(picture.pixels, text=text, xmp=self._xmp)


def _key(job_id: str, position: int) -> str:
    # Those of a minute share a folder: a new one for each job would cost more than its one picture.
    return f"images/{job_id[FOLDER]}/{job_id}-{position:06d}.png"


def _row(
    place: tuple[Slice, int], picture: RenderedImage, key: str, data: bytes, batch: Batch, now: datetime
) -> NewImage:
    (part, position), (height, width) = place, picture.pixels.shape[1:]
    return NewImage(
        id=new_id("img"),
        job_id=part.claim.job_id,
        position=position,
        model_id=part.claim.model_id or "",
        checkpoint=part.claim.checkpoint or "",
        seed=picture.seed,
        label=_class_name(picture, batch.classes),
        recipe=picture.recipe,
        width=width,
        height=height,
        blob=key,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        created_at=now,
    )


def _class_name(picture: RenderedImage, classes: Sequence[str] | None) -> str | None:
    return classes[picture.label] if classes is not None and picture.label is not None else None


def _by_job(rows: Sequence[NewImage]) -> Mapping[str, list[NewImage]]:
    found: dict[str, list[NewImage]] = {}
    for row in rows:
        found.setdefault(row.job_id, []).append(row)
    return found


def _notices(outcome: Outcome, images: Sequence[NewImage]) -> Iterator[Notice]:
    for image in images:
        yield Notice(
            outcome.job_id,
            "image",
            {"position": image.position, "id": image.id, "url": f"/v1/images/{image.id}/content"},
        )
    if outcome.ended:
        only = Picture(images[0].id, images[0].sha256, images[0].blob) if outcome.total == 1 else None
        yield Notice(outcome.job_id, "done", {"status": "succeeded", "error": None}, only)
        return
    progress = {
        "done": float(outcome.done),
        "total": float(outcome.total),
        "unit": "images",
        "rate": outcome.images_per_s,
        "eta_s": outcome.eta_s,
    }
    yield Notice(outcome.job_id, "progress", progress)
