"""The sampler: batches form while the device is busy (DESIGN: sampling).

When its bell rings it claims slices of queued jobs for one model, renders, encodes, stores, commits, and claims again,
until nothing is queued. A lone request waits for nobody; while a batch runs, the next one fills up by itself.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from models.png import encode
from models.sampling import RenderedImage, SampleItem
from store import jobs
from store.errors import LeaseLost, Unavailable
from store.events import Notice
from store.identifiers import new_id
from store.queue import Lane
from store.records import Image, Job
from store.resources import status_notice
from store.slices import Slice, claim_slices, commit_slices
from worker.errors import failure
from worker.generator_cache import GeneratorCache
from worker.provenance import text_chunks, xmp_packet
from worker.running import Station, progress_notice

log = logging.getLogger(__name__)

ENCODERS = 4  # threads that compress and store PNGs; both release the interpreter's lock


class SliceSampler:
    """Serves sample jobs on one device."""

    def __init__(self, station: Station) -> None:
        settings = station.resources.settings
        self._station = station
        self._resources = station.resources
        self._encoders = ThreadPoolExecutor(ENCODERS, thread_name_prefix="encoder")
        self._cache = GeneratorCache(
            station.resources.blobs,
            device=station.device,
            max_bytes=settings.generator_cache_bytes,
            max_batch=settings.max_batch,
            copies=settings.scratch_dir / "generators",
        )
        station.statistics.cache_bytes = lambda: self._cache.size_bytes

    def serve(self) -> None:
        """Renders until nothing is queued, or the worker drains; then hands back what is unfinished."""
        try:
            while not self._station.draining.is_set():
                self._end_canceled()
                slices = self._claim()
                if not slices:
                    break
                self._serve_batch(slices)
        except Unavailable as error:
            # Claimed jobs are left as they are; their leases run out and they come back.
            log.error("sampling stopped: %s", error)  # expected, no traceback
            self._forget_all()
        finally:
            self._hand_back()

    def _claim(self) -> list[Slice]:
        resources, heartbeat = self._resources, self._station.heartbeat
        settings, database = resources.settings, resources.database
        statistics = self._station.statistics
        held = heartbeat.held()
        with statistics.stage("claim"), database.transaction() as session:
            now = database.now(session)
            late = jobs.end_late(session, now=now)
            slices = claim_slices(
                session,
                held,
                owner=self._station.owner,
                now=now,
                lease_s=settings.lease_s,
                max_images=settings.max_batch,
            )
        for part in slices:
            heartbeat.hold(part.claim)
        known = {claim.job_id for claim in held}
        for part in slices:
            if part.claim.job_id not in known and part.claim.attempt == 1:
                statistics.note_wait(part.claim.waited_s)
        resources.tell(
            *(status_notice(job) for job in late),
            *(
                Notice(part.claim.job_id, "status", {"status": "running", "error": None})
                for part in slices
                if part.claim.job_id not in known
            ),
        )
        if sum(part.count for part in slices) == settings.max_batch:
            resources.ring(Lane.SAMPLE)  # a full batch may leave work behind: wake another device
        return slices

    def _serve_batch(self, slices: Sequence[Slice]) -> None:
        try:
            self._render_and_store(slices)
        except (LeaseLost, Unavailable):
            raise
        except Exception as error:
            if len(slices) > 1:
                log.warning("a batch of %d jobs failed (%s); each is tried alone", len(slices), error)
                for part in slices:
                    self._serve_batch([part])
                return
            log.exception("%s failed", slices[0].claim.job_id)
            self._fail(slices[0], error)

    def _render_and_store(self, slices: Sequence[Slice]) -> None:
        started = time.monotonic()
        sampler = self._cache.get(slices[0].claim.checkpoint or "")
        items = [
            SampleItem(seed=part.claim.request["seed"] + position, label=part.claim.request["label"])
            for part in slices
            for position in range(part.start, part.start + part.count)
        ]
        with self._station.statistics.stage("render"):
            rendered = sampler.sample(items)
        places = [(part, part.start + k) for part in slices for k in range(part.count)]
        classes, images_seen = sampler.generator.classes, sampler.generator.images_seen
        with self._resources.database.snapshot() as session:
            now = self._resources.database.now(session)

        def store(place: tuple[Slice, int], picture: RenderedImage) -> Image:
            name = classes[picture.label] if classes is not None and picture.label is not None else None
            return self._store(place[0], place[1], picture, name, images_seen, now)

        images = list(self._encoders.map(store, places, rendered))
        images_per_s = len(images) / max(time.monotonic() - started, 1e-6)
        self._commit(slices, images, images_per_s)
        self._station.statistics.note_batch(len(images), started)

    def _store(
        self, part: Slice, position: int, picture: RenderedImage, label: str | None, images_seen: int, now: datetime
    ) -> Image:
        claim, provenance = part.claim, self._resources.settings.provenance
        model_id = claim.model_id or ""
        chunks = text_chunks(model_id=model_id, images_seen=images_seen, seed=picture.seed, label=label)
        stage = self._station.statistics.stage
        with stage("encode"):
            data = encode(picture.pixels, text=chunks if provenance else None, xmp=xmp_packet() if provenance else None)
        # The key says what the picture is, so a second attempt writes the same bytes to the same place.
        key = f"images/{claim.job_id}/{position:06d}.png"
        with stage("store"):
            self._resources.blobs.put(key, data)
        height, width = picture.pixels.shape[1:]
        return Image(
            id=new_id("img"),
            job_id=claim.job_id,
            position=position,
            model_id=model_id,
            checkpoint=claim.checkpoint or "",
            seed=picture.seed,
            label=label,
            width=width,
            height=height,
            blob=key,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            created_at=now,
        )

    def _commit(self, slices: Sequence[Slice], images: Sequence[Image], images_per_s: float) -> None:
        by_job = {
            part.claim.job_id: [image for image in images if image.job_id == part.claim.job_id] for part in slices
        }
        database = self._resources.database
        with self._station.statistics.stage("commit"), database.transaction() as session:
            went_on = commit_slices(
                session,
                [(part, by_job[part.claim.job_id]) for part in slices],
                now=database.now(session),
                images_per_s=images_per_s,
            )
        unfinished = {job.id for job in went_on if job.finished_at is None}
        for part in slices:
            if part.claim.job_id not in unfinished:  # complete, or someone else's by now
                self._station.heartbeat.drop(part.claim)
        for job in went_on:
            self._tell(job, by_job[job.id])

    def _tell(self, job: Job, images: Sequence[Image]) -> None:
        notices = [
            Notice(
                job.id, "image", {"position": image.position, "id": image.id, "url": f"/v1/images/{image.id}/content"}
            )
            for image in images
        ]
        notices.append(progress_notice(job))
        if job.finished_at is not None:
            notices.append(status_notice(job))
        self._resources.tell(*notices)

    def _end_canceled(self) -> None:
        heartbeat, database = self._station.heartbeat, self._resources.database
        held = heartbeat.held()
        if not held:
            return
        ended = []
        with database.transaction() as session:
            flags = jobs.cancel_flags(session, held)
            for claim in held:
                if not flags.get(claim.job_id):
                    continue
                try:
                    result = {"images": jobs.hold(session, claim).cursor}
                    ended.append(jobs.stop(session, claim, now=database.now(session), result=result))
                except LeaseLost as lost:
                    log.warning("%s", lost)
        for claim in held:
            if claim.job_id not in flags or flags[claim.job_id]:
                heartbeat.drop(claim)
        self._resources.tell(*(status_notice(job) for job in ended))

    def _fail(self, part: Slice, error: Exception) -> None:
        found, database = failure(error), self._resources.database
        try:
            with database.transaction() as session:
                job = jobs.fail(
                    session,
                    part.claim,
                    now=database.now(session),
                    code=found.code,
                    message=found.message,
                    retryable=found.retryable,
                )
        except LeaseLost as lost:
            log.warning("%s", lost)
        else:
            self._resources.tell(status_notice(job))
        self._station.heartbeat.drop(part.claim)

    def _hand_back(self) -> None:
        heartbeat, database = self._station.heartbeat, self._resources.database
        held = heartbeat.held()
        if not held:
            return
        released = []
        with database.transaction() as session:
            for claim in sorted(held, key=lambda claim: claim.job_id):
                try:
                    released.append(jobs.release(session, claim))
                except LeaseLost as lost:
                    log.warning("%s", lost)
        self._forget_all()
        self._resources.tell(*(status_notice(job) for job in released))
        self._resources.ring(Lane.SAMPLE)

    def _forget_all(self) -> None:
        for claim in self._station.heartbeat.held():
            self._station.heartbeat.drop(claim)
