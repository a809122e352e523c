"""The sampler: batches form while the device is busy (DESIGN: sampling).

When its bell rings it claims slices of queued jobs for one model, renders, encodes, stores, commits, and claims again,
until nothing is queued. A lone request waits for nobody; while a batch runs, the next one fills up by itself. Stages overlap:
one thread claims and has lanes render, and claims again as soon as one of these has room; another has the batch before
encoded, stored and committed (docs/decisions/0014-hot-path.md).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from models.errors import ModelsError
from models.lanes import at_once
from models.sampling import RenderedImage, Rendering
from store import jobs
from store.ahead import Ahead
from store.errors import BlobNotFound, LeaseLost, RedisUnavailable, StorageFull, Unavailable
from store.events import Notice
from store.queue import LONGEST_TAKE_S, Lane
from store.resources import status_notice
from store.slices import Slice, claim_slices, last_weights, work_waits
from worker.errors import Beyond, failure, fault
from worker.generator_cache import GeneratorCache
from worker.pictures import Batch, PictureStore
from worker.recipes import item_of
from worker.running import Station, put_back

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 0.5
SOON_S = 0.5  # until a batch's pictures are made: that its jobs run is told together with them
AHEAD_S = 0.004  # that claiming and drawing take, before a lane can begin
LINGER_S = 5.0  # without a bell, after which a sampler leaves them to Celery again


class SomethingElse(Exception):
    """What is next in the line is not what was made ahead."""


@dataclass(frozen=True)
class UnderWay:
    """Slices that are being developed."""

    slices: tuple[Slice, ...]  # of one model
    begun: Future[Rendering]  # done; it raises what beginning with them raised
    untold: tuple[Notice, ...] = ()  # that jobs are running, where their pictures follow at once

    @property
    def count(self) -> int:
        """How many pictures."""
        return sum(part.count for part in self.slices)

    @property
    def is_done(self) -> bool:
        """Whether nothing of it is left to be developed, be it that it failed."""
        return self.begun.exception() is not None or self.begun.result().is_done


class SliceSampler:
    """Serves sample jobs on one device.

    Args:
        station: its worker.
        linger_s: how long it listens for the next bell itself once nothing is queued, seconds: requests that come one by one
            then wait for nothing that Celery does between two tasks.
    """

    def __init__(self, station: Station, *, linger_s: float = 0) -> None:
        self._linger_s = linger_s
        settings = station.resources.settings
        self._station = station
        self._resources = station.resources
        self._store = PictureStore(station.resources, station.statistics)
        self._behind = ThreadPoolExecutor(
            1, thread_name_prefix="behind"
        )  # does things in the order they are given to it
        self._latest: dict[str, Slice] = {}  # of each job that is held
        self._ahead: tuple[Ahead, Rendering] | None = None  # what was announced, made
        self._picture_s = 0.0  # for each picture of the latest batch that lanes shared, until one was idle; 0: none yet
        self._was_full = False  # the latest batch claimed
        self._swept_at = -math.inf  # when jobs were last ended that missed their deadline, monotonic seconds
        self._cache = GeneratorCache(
            station.resources.blobs,
            device=station.device,
            max_bytes=settings.generator_cache_bytes,
            max_batch=settings.max_batch,
            copies=settings.scratch_dir / "generators",
            rewrite=settings.rewrite_generators,
            threads=station.threads,
        )
        station.statistics.cache_bytes = lambda: self._cache.size_bytes

    def warm(self) -> None:
        """Loads the generator that was asked for last, so that the next request need not wait for it."""
        self._cache.warm()
        try:
            with self._resources.database.snapshot() as session:
                checkpoint = last_weights(session)
            if checkpoint is not None:
                self._cache.get(checkpoint)
        except (BlobNotFound, ModelsError, Unavailable) as error:  # whoever asks for it is told
            log.info("nothing was loaded beforehand: %s", error)

    def serve(self) -> None:
        """Renders until nothing is queued and no bell rings any more, or the worker drains; then hands back what is unfinished.

        What its surroundings fail it for goes back into the line, and after a pause it claims again.
        """
        while not self._station.draining.is_set():
            try:
                self._serve()
                if not self._hears():
                    break
            except (Unavailable, StorageFull, Beyond) as error:
                log.error("sampling stopped: %s", error)  # expected, no traceback
                self._settle()
                put_back(self._station, self._station.heartbeat.held(), error)
                self._forget_all()
            except Exception:  # a defect: what is held must not be renewed for ever
                self._settle()
                self._hand_back()
                raise

    def _hears(self) -> bool:
        """Whether a bell has rung before it was time to stop listening."""
        until = time.monotonic() + self._linger_s
        try:
            while not self._station.draining.is_set() and (left_s := until - time.monotonic()) > 0:
                if self._resources.queue.take(Lane.SAMPLE, min(left_s, LONGEST_TAKE_S), self._work_ahead):
                    return True
        except RedisUnavailable as error:
            log.warning("no bell is heard: %s", error)  # Celery goes on trying
        return False

    def _work_ahead(self, announced: str) -> None:
        """Makes a picture whose job is just being committed."""
        self._ahead = None
        try:
            ahead = Ahead.read(announced)
            if ahead.checkpoint in self._cache:  # to load it is for who has claimed
                self._ahead = ahead, self._cache.get(ahead.checkpoint).begin([item_of(ahead.request, 0)])
        except Exception as error:  # a guess may be of any kind; whoever is claimed for it is told
            log.warning("nothing was made ahead: %s", error)

    def _keep_ahead(self) -> bool:
        """Claims the job of what was made ahead, and ends it, by one transaction; whether that was next in the line.

        Else nothing has changed, and it is made anew like any other.
        """
        found, self._ahead = self._ahead, None
        if found is None:
            return False
        ahead, rendering = found
        settings, statistics = self._resources.settings, self._station.statistics

        def claim(session: Session) -> Batch:
            now = self._resources.database.now(session)
            lease_s = settings.lease_s
            slices = claim_slices(session, [], owner=self._station.owner, now=now, lease_s=lease_s, max_images=1)
            if not slices or not ahead.is_of(slices[0]):
                raise SomethingElse
            return _batch(slices, rendering, [_running(slices[0])])

        try:
            [part] = self._store.keep_claimed(claim).slices
        except SomethingElse:
            return False
        except Exception as error:
            if (beside := fault(error)) is not None:
                raise beside from error
            log.warning("what was made ahead was not stored, and is made anew: %s", error)
            return False
        statistics.note_wait(part.claim.waited_s)
        statistics.note_stage("ahead", time.monotonic() - rendering.started)
        return True

    def _serve(self) -> None:
        before: UnderWay | None = None
        finishing: Future[None] | None = None
        just_rung = not self._keep_ahead()
        while not self._station.draining.is_set():
            if any(map(self._station.heartbeat.is_canceled, self._station.heartbeat.held())):
                self._end_canceled()
            slices, news = self._claim(look_first=not just_rung)
            just_rung = False
            suspect = any(part.claim.attempt > 1 and part.start == part.claim.cursor for part in slices)
            if suspect:  # what may be poison finds nothing else in the making
                self._wait(self._pass_on(before, finishing))
                before = finishing = None
            begun = self._begin(slices, news) if slices else None
            if not (begun or before or finishing):
                break
            if before is None and begun is None:
                self._wait(finishing)  # whether its jobs go on is known only when it is stored
                finishing = None
                if not self._latest:  # they do not; and what is new has rung
                    break
            finishing = self._pass_on(before, finishing)
            before = begun
            if begun is not None and (suspect or not self._makes_room(begun)):
                before = None
                # To look for more meanwhile would hold up who asks alone, and so would another thread.
                if begun.count == 1:
                    self._wait(finishing)
                    finishing = None
                    self._finish(self._collect(begun))
                else:
                    finishing = self._pass_on(begun, finishing)
        self._wait(self._pass_on(before, finishing))
        self._settle()
        self._end_canceled()
        self._hand_back()

    def _pass_on(self, made: UnderWay | None, finishing: Future[None] | None) -> Future[None] | None:
        """Has a batch stored once it is rendered, and the one before it is stored: at most one is behind."""
        if made is None:
            return finishing
        batches = self._collect(made)
        self._wait(finishing)
        return self._behind.submit(self._finish, batches) if batches else None

    @staticmethod
    def _wait(finishing: Future[None] | None) -> None:
        if finishing is not None:
            finishing.result()

    def _settle(self) -> None:
        """Waits until nothing is behind any more."""
        self._behind.submit(lambda: None).result()

    def _claim(self, *, look_first: bool) -> tuple[list[Slice], list[Notice]]:
        """The next batch, and that its jobs are running now; `look_first`: where it is likely that there is none."""
        resources, heartbeat = self._resources, self._station.heartbeat
        settings, database = resources.settings, resources.database
        latest = dict(self._latest)
        unfinished = [part.claim for part in latest.values() if not part.is_last]
        if look_first and not unfinished:
            with database.snapshot() as session:  # which takes no lock from those who submit or commit
                if not work_waits(session):
                    return [], []
        statistics = self._station.statistics
        # A larger batch costs less for each image, but clients come back in groups: of two that are not even the smaller is
        # back long before the larger is made, and then the device waits for the larger. So none is above a half unless the
        # one before was full.
        most = settings.max_batch if self._was_full else math.ceil(settings.max_batch / 2)
        # A claim that a power cut undoes is a lease that is free again, and nothing was made under it.
        with statistics.stage("claim"), database.transaction(durable="eventually") as session:
            now = database.now(session)
            late = jobs.end_late(session, now=now) if unfinished or self._sweeps() else []
            slices = claim_slices(
                session,
                unfinished,
                owner=self._station.owner,
                now=now,
                lease_s=settings.lease_s,
                max_images=most,
                ahead={job_id: part.end for job_id, part in latest.items()},
            )
        for part in slices:
            heartbeat.hold(part.claim)
            self._latest[part.claim.job_id] = part
            if part.claim.job_id not in latest and part.claim.attempt == 1:
                statistics.note_wait(part.claim.waited_s)
        if late:
            self._behind.submit(resources.tell, *map(status_notice, late))
        self._was_full = sum(part.count for part in slices) == most
        if self._was_full:
            self._behind.submit(resources.ring, Lane.SAMPLE)  # a full batch may leave work behind: wake another device
        return slices, [_running(part) for part in slices if part.claim.job_id not in latest]

    def _begin(self, slices: Sequence[Slice], news: Sequence[Notice] = ()) -> UnderWay:
        begun = UnderWay(tuple(slices), at_once(self._begin_rendering, slices))
        if begun.is_done or 0 < begun.count * self._picture_s < SOON_S:
            return replace(begun, untold=tuple(news))
        if news:
            self._behind.submit(self._resources.tell, *news)
        return begun

    def _begin_rendering(self, slices: Sequence[Slice]) -> Rendering:
        sampler = self._cache.get(slices[0].claim.checkpoint or "")
        places = [(part, position) for part in slices for position in range(part.start, part.end)]
        generator = sampler.generator

        def encode(picture: RenderedImage, place: int) -> bytes:
            return self._store.encode(places[place][0], picture, generator.classes, generator.images_seen)

        return sampler.begin([item_of(part.claim.request, position) for part, position in places], encode)

    def _makes_room(self, made: UnderWay) -> bool:
        """Waits until a lane of the device is about to be idle; returns whether any is still at work on the batch."""
        if not made.is_done:
            rendering = made.begun.result()
            due_s = made.count * self._picture_s - (time.monotonic() - rendering.started)
            rendering.wait_for_room(max(0.0, due_s - AHEAD_S) if self._picture_s else None)
        return not made.is_done

    def _collect(self, made: UnderWay) -> list[Batch]:
        """The slices developed, in one batch where that works, else each alone; those that can't be fail."""
        try:
            return [self._developed(made)]
        except LeaseLost:
            raise
        except Exception as error:
            if (beside := fault(error)) is not None:
                raise beside from error
            slices = made.slices
            if len(slices) > 1:
                log.warning("a batch of %d jobs failed (%s); each is tried alone", len(slices), error)
                return [
                    batch for part in slices for batch in self._collect(self._begin([part], _of(part, made.untold)))
                ]
            log.exception("%s failed", slices[0].claim.job_id)
            self._fail(slices[0], error)
            return []

    def _developed(self, made: UnderWay) -> Batch:
        rendering = made.begun.result()
        batch = _batch(made.slices, rendering, made.untold)
        self._station.statistics.note_stage("render", time.monotonic() - rendering.started)
        if rendering.first_share_s is not None:
            self._picture_s = rendering.first_share_s / made.count
        return batch

    def _finish(self, batches: Sequence[Batch]) -> None:
        """Stores and commits batches; one of several jobs that can't be is tried again job by job."""
        for batch in batches:
            try:
                outcomes = self._store.keep(batch)
            except LeaseLost:
                raise
            except Exception as error:
                if (beside := fault(error)) is not None:
                    raise beside from error
                if len(batch.slices) > 1:
                    log.warning("a batch of %d jobs was not stored (%s); each is tried alone", len(batch.slices), error)
                    self._finish(batch.split())
                    continue
                log.exception("%s failed", batch.slices[0].claim.job_id)
                self._fail(batch.slices[0], error)
                continue
            self._station.pauses.reset()
            going_on = {outcome.job_id for outcome in outcomes if not outcome.ended}
            for part in batch.slices:
                if part.claim.job_id not in going_on:  # complete, or someone else's by now
                    self._drop(part)

    def _sweeps(self) -> bool:
        """Whether to end what is too late, which claims leave alone anyway; not for every one of many batches."""
        due = time.monotonic() - self._swept_at >= SWEEP_EVERY_S
        self._swept_at = time.monotonic() if due else self._swept_at
        return due

    def _drop(self, part: Slice) -> None:
        self._latest.pop(part.claim.job_id, None)
        self._station.heartbeat.drop(part.claim)

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
                self._latest.pop(claim.job_id, None)
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
        self._drop(part)

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
        self._latest.clear()
        for claim in self._station.heartbeat.held():
            self._station.heartbeat.drop(claim)


def _batch(slices: Sequence[Slice], rendering: Rendering, untold: Sequence[Notice]) -> Batch:
    pictures, generator = tuple(rendering.pictures()), rendering.generator
    return Batch(tuple(slices), pictures, generator.classes, generator.images_seen, rendering.started, tuple(untold))


def _running(part: Slice) -> Notice:
    return Notice(part.claim.job_id, "status", {"status": "running", "error": None})


def _of(part: Slice, news: Sequence[Notice]) -> list[Notice]:
    return [notice for notice in news if notice.job_id == part.claim.job_id]
