"""Running a job: claim it, keep its lease, do its work, and write how it ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from models.errors import Stopped
from store import jobs
from store.errors import LeaseLost, StorageFull, Unavailable
from store.events import Notice
from store.jobs import Claim
from store.queue import LANE_OF, Lane
from store.records import Job
from store.resources import Resources, status_notice
from worker.errors import Beyond, Canceled, HandedBack, failure, fault
from worker.heartbeat import Heartbeat
from worker.pauses import Pauses
from worker.statistics import WorkerStatistics

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0

# Written in the same transaction as the job's end; returns the job's result.
Finish = Callable[[Session], Mapping[str, Any]]


@dataclass(frozen=True)
class Station:
    """One worker process: what it is called, what it is attached to, and where its tensors live.

    A trainer may have `further` devices, which share the work of its trainings; everything else is done on the first.
    """

    owner: str
    resources: Resources
    heartbeat: Heartbeat
    device: str = "cpu"
    further: tuple[str, ...] = ()
    threads: int = 1  # of the CPU, among which a sampler shares its batches out
    draining: threading.Event = field(default_factory=threading.Event)  # set at SIGTERM: finish or hand back, soon
    statistics: WorkerStatistics = field(default_factory=WorkerStatistics)
    pauses: Pauses = field(
        default_factory=Pauses
    )  # taken when the surroundings fail, so that nobody tries without rest


class Run:
    """A claimed job at work."""

    def __init__(self, station: Station, claim: Claim) -> None:
        self.station = station
        self.claim = claim
        self.resources = station.resources
        self._reported_at = 0.0

    def should_stop(self) -> bool:
        """Whether the work must end now: canceled, lost, or this worker is shutting down. Cheap."""
        heartbeat = self.station.heartbeat
        return self.station.draining.is_set() or heartbeat.is_canceled(self.claim) or heartbeat.is_lost(self.claim)

    def raise_if_stopped(self) -> None:
        """Raises Canceled, LeaseLost or HandedBack where `should_stop` is true."""
        if self.station.heartbeat.is_canceled(self.claim):
            raise Canceled(self.claim.job_id)
        if self.station.heartbeat.is_lost(self.claim):
            raise LeaseLost(f"{self.claim.job_id} has another owner by now")
        if self.station.draining.is_set():
            raise HandedBack(self.claim.job_id)

    def report(self, *, done: float, total: float | None, rate: float | None, eta_s: float | None) -> None:
        """Shows progress, at most once a second. Raises LeaseLost."""
        if time.monotonic() - self._reported_at < REPORT_EVERY_S:
            return
        self._reported_at = time.monotonic()
        try:
            with self.resources.database.transaction() as session:
                job = jobs.report(session, self.claim, done=done, total=total, rate=rate, eta_s=eta_s)
        except (Unavailable, StorageFull) as error:
            log.warning("progress of %s was not written: %s", self.claim.job_id, error)
            return
        self.resources.tell(progress_notice(job))


def progress_notice(job: Job) -> Notice:
    """The notice of how far a job is."""
    data = {"done": job.done, "total": job.total, "unit": job.unit, "rate": job.rate, "eta_s": job.eta_s}
    return Notice(job.id, "progress", data)


def run_queued(
    station: Station, lane: Lane, work: Callable[[Run], Finish], ended: Callable[[Run], None] | None = None
) -> None:
    """Claims and runs jobs of the lane, one after the other, until none is queued or the worker drains.

    Args:
        station: this worker.
        lane: whose jobs.
        work: does one job and returns how to write its result; raises when it can't.
        ended: tidies up after a job that has ended, well or not; None: nothing to tidy.
    """
    resources = station.resources
    while not station.draining.is_set():
        try:
            with resources.database.transaction() as session:
                now = resources.database.now(session)
                claims = jobs.claim(
                    session, lane.kinds, owner=station.owner, now=now, lease_s=resources.settings.lease_s
                )
                started = [session.get_one(Job, claim.job_id) for claim in claims]
                left = lane in jobs.lanes_waiting(session)
        except (Unavailable, StorageFull) as error:
            log.error("no job can be claimed: %s", error)
            station.pauses.take(station.draining)
            continue
        if not claims:
            return
        resources.tell(*(status_notice(job) for job in started))
        if left:
            resources.ring(lane)  # another worker of the lane may be idle
        run = Run(station, claims[0])
        if run_claimed(run, work) and ended is not None:
            try:
                ended(run)
            except (Unavailable, StorageFull) as error:  # what is left over is swept later
                log.warning("%s was not tidied up after: %s", run.claim.job_id, error)


def run_claimed(run: Run, work: Callable[[Run], Finish]) -> bool:
    """Does the work of one claimed job and writes its end; every ending is dealt with here.

    Returns:
        Whether the job has ended. If not, it was handed back, or is another worker's.
    """
    station, claim = run.station, run.claim
    log.info("%s %s begins (attempt %d)", claim.kind.value, claim.job_id, claim.attempt)
    station.heartbeat.hold(claim)
    try:
        ended = _finish(run, work).finished_at is not None
        station.pauses.reset()
        return ended
    except LeaseLost as error:
        log.warning("%s", error)
    except (Unavailable, StorageFull, Beyond) as error:
        log.error("%s %s stopped: %s", claim.kind.value, claim.job_id, error)  # expected, no traceback
        return put_back(station, [claim], error)
    finally:
        station.heartbeat.drop(claim)
    return False


def put_back(station: Station, claims: Collection[Claim], why: Unavailable | StorageFull | Beyond) -> bool:
    """Puts claimed jobs back into the line for what is no fault of theirs, and takes a pause.

    With the database away it waits for that; the heartbeat holds the leases meanwhile. When the worker has to end before that,
    they run out.

    Returns:
        Whether any has ended instead: canceled, or its patience was at an end.
    """
    resources, found = station.resources, failure(why)
    database, settings = resources.database, resources.settings
    changed: list[Job] = []
    while True:
        try:
            with database.transaction() as session:
                now = database.now(session)
                for claim in sorted(claims, key=lambda claim: claim.job_id):  # one order for everybody: no deadlocks
                    with suppress(LeaseLost):
                        changed.append(
                            jobs.defer(
                                session,
                                claim,
                                now=now,
                                patience_s=settings.keep_trying_s,
                                code=found.code,
                                message=found.message,
                            )
                        )
            break
        except (Unavailable, StorageFull) as error:
            changed.clear()
            log.error("jobs can't be put back yet: %s", error)
            if station.pauses.take(station.draining):
                return False
    for job in changed:
        note = Notice(job.id, "note", {"text": f"Put back into the line: {found.message}"})
        resources.tell(*([note] if job.finished_at is None else []), status_notice(job))
    resources.ring(*{LANE_OF[job.kind] for job in changed if job.finished_at is None})
    station.pauses.take(station.draining)
    return any(job.finished_at is not None for job in changed)


def _finish(run: Run, work: Callable[[Run], Finish]) -> Job:
    claim = run.claim
    try:
        finish = work(run)
    except (Canceled, HandedBack, Stopped):
        return _end(run, lambda session, now: jobs.release(session, claim, now=now))
    except LeaseLost:
        raise
    except Exception as error:
        if (beside := fault(error)) is not None:
            raise beside from error
        found = failure(error)
        log.exception("%s %s failed", claim.kind.value, claim.job_id)
        return _end(
            run,
            lambda session, now: jobs.fail(
                session, claim, now=now, code=found.code, message=found.message, retryable=found.retryable
            ),
        )
    return _end(run, lambda session, now: jobs.succeed(session, claim, now=now, result=finish(session)))


def _end(run: Run, end: Callable[[Session, datetime], Job]) -> Job:
    station, database = run.station, run.resources.database
    while True:
        try:
            with database.transaction() as session:
                job = end(session, database.now(session))
            break
        except (Unavailable, StorageFull) as error:
            # Done work is not thrown away for a database that is away: a lease that ran out is good until somebody takes it.
            log.error("the end of %s can't be written yet: %s", run.claim.job_id, error)
            if station.pauses.take(station.draining):
                raise
    log.info("%s %s: %s", job.kind.value, job.id, job.status.value)
    run.resources.tell(progress_notice(job), status_notice(job))
    if job.finished_at is None:
        run.resources.ring(LANE_OF[job.kind])
    return job
