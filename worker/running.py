"""Running a job: claim it, keep its lease, do its work, and write how it ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from models.errors import Stopped
from store import jobs
from store.errors import LeaseLost, Unavailable
from store.events import Notice
from store.jobs import Claim
from store.queue import LANE_OF, Lane
from store.records import Job
from store.resources import Resources, status_notice
from worker.errors import Canceled, HandedBack, failure
from worker.heartbeat import Heartbeat
from worker.statistics import WorkerStatistics

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
FINISH_RETRY_S = 2.0

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
    draining: threading.Event = field(default_factory=threading.Event)  # set at SIGTERM: finish or hand back, soon
    statistics: WorkerStatistics = field(default_factory=WorkerStatistics)


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
        except Unavailable as error:
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
        with resources.database.transaction() as session:
            now = resources.database.now(session)
            claims = jobs.claim(session, lane.kinds, owner=station.owner, now=now, lease_s=resources.settings.lease_s)
            started = [session.get_one(Job, claim.job_id) for claim in claims]
            left = lane in jobs.lanes_waiting(session)
        if not claims:
            return
        resources.tell(*(status_notice(job) for job in started))
        if left:
            resources.ring(lane)  # another worker of the lane may be idle
        run = Run(station, claims[0])
        if run_claimed(run, work) and ended is not None:
            ended(run)


def run_claimed(run: Run, work: Callable[[Run], Finish]) -> bool:
    """Does the work of one claimed job and writes its end; every ending is dealt with here.

    Returns:
        Whether the job has ended. If not, it was handed back, or is another worker's.
    """
    station, claim = run.station, run.claim
    log.info("%s %s begins (attempt %d)", claim.kind.value, claim.job_id, claim.attempt)
    station.heartbeat.hold(claim)
    try:
        return _finish(run, work).finished_at is not None
    except LeaseLost as error:
        log.warning("%s", error)
    except Unavailable as error:
        # Left as it is: the lease runs out, and the job is tried again, with a pause and a count of attempts.
        log.error("%s %s stopped: %s", claim.kind.value, claim.job_id, error)  # expected, no traceback
    finally:
        station.heartbeat.drop(claim)
    return False


def _finish(run: Run, work: Callable[[Run], Finish]) -> Job:
    claim = run.claim
    try:
        finish = work(run)
    except (Canceled, HandedBack, Stopped):
        return _end(run, lambda session, now: _stopped(run, session, now))
    except (LeaseLost, Unavailable):
        raise
    except Exception as error:
        found = failure(error)
        log.exception("%s %s failed", claim.kind.value, claim.job_id)
        return _end(
            run,
            lambda session, now: jobs.fail(
                session, claim, now=now, code=found.code, message=found.message, retryable=found.retryable
            ),
        )
    return _end(run, lambda session, now: jobs.succeed(session, claim, now=now, result=finish(session)))


def _stopped(run: Run, session: Session, now: datetime) -> Job:
    job = jobs.hold(session, run.claim)
    if job.cancel_requested:
        return jobs.stop(session, run.claim, now=now)
    return jobs.release(session, run.claim)


def _end(run: Run, end: Callable[[Session, datetime], Job]) -> Job:
    database = run.resources.database
    deadline = time.monotonic() + run.resources.settings.lease_s
    while True:
        try:
            with database.transaction() as session:
                job = end(session, database.now(session))
            break
        except Unavailable:
            # Long work is not thrown away for a database that restarts: the heartbeat tries to keep the lease meanwhile.
            if time.monotonic() > deadline:
                raise
            time.sleep(FINISH_RETRY_S)
    log.info("%s %s: %s", job.kind.value, job.id, job.status.value)
    run.resources.tell(progress_notice(job), status_notice(job))
    if job.finished_at is None:
        run.resources.ring(LANE_OF[job.kind])
    return job
