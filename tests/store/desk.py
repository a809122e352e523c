"""Short ways to put a job into a state and to look at it, for the tests of jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from store import jobs
from store.database import Database
from store.jobs import Claim
from store.records import Job, JobKind, JobStatus

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LEASE_S = 30.0


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def submit(database: Database, kind: JobKind = JobKind.SAMPLE, **columns: Any) -> str:
    with database.transaction() as session:
        return jobs.submit(session, kind, {"seed": 1}, **{"now": NOW, "total": 8, **columns}).id


def claim(database: Database, *kinds: JobKind, owner: str = "w1", now: datetime = NOW, limit: int = 1) -> list[Claim]:
    with database.transaction() as session:
        return jobs.claim(session, kinds or list(JobKind), owner=owner, now=now, lease_s=LEASE_S, limit=limit)


def claimed(database: Database, kind: JobKind = JobKind.SAMPLE, **columns: Any) -> Claim:
    submit(database, kind, **columns)
    [one] = claim(database, kind)
    return one


def recover(database: Database, *, now: datetime = NOW, max_attempts: int = 3, owner: str | None = None) -> list[str]:
    with database.transaction() as session:
        return [job.id for job in jobs.recover(session, now=now, max_attempts=max_attempts, owner=owner)]


def look(database: Database, job_id: str) -> Job:
    with database.snapshot() as session:
        return session.get_one(Job, job_id)


def write(database: Database, change: Callable[[Session], object]) -> None:
    with database.transaction() as session:
        change(session)


# Each step as its caller takes it.
STEPS: dict[str, Callable[[Session, Claim], object]] = {
    "claim": lambda session, claim: jobs.take(session.get_one(Job, claim.job_id), owner="w2", now=NOW, lease_s=LEASE_S),
    "cancel": lambda session, claim: jobs.request_cancel(session, claim.job_id, now=NOW),
    "succeed": lambda session, claim: jobs.succeed(session, claim, now=NOW, result={"images": 8}),
    "fail": lambda session, claim: jobs.fail(session, claim, now=NOW, code="x", message="y", retryable=False),
    "stop": lambda session, claim: jobs.stop(session, claim, now=NOW),
    "release": lambda session, claim: jobs.release(session, claim),
}


def brought_to(database: Database, status: JobStatus, kind: JobKind = JobKind.SAMPLE, **columns: Any) -> Claim:
    """A job in that state, by a legal way, and the claim on it."""
    one = claimed(database, kind, **columns)
    way = {"queued": "release", "running": None, "succeeded": "succeed", "failed": "fail", "canceled": "stop"}[status]
    if way is not None:
        write(database, lambda session: STEPS[way](session, one))
    assert look(database, one.job_id).status is status
    return one


def columns_of(job: Job) -> dict[str, object]:
    return {column.name: getattr(job, column.name) for column in Job.__table__.columns}
