"""Hands that play every worker, so that jobs end while others ask for them: no torch, only the steps of the rows."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from store import jobs
from store.exports import export_key
from store.jobs import Claim
from store.records import Job, JobKind
from store.resources import Resources, status_notice
from tests.app.conftest import Worker, at_the_same_time
from tests.openapi.stock import png

BEAT_S = 0.05  # between two looks: some requests find a job queued, some running, some ended
OWNER = "hands@here"
LEASE_S = 3600.0
OTHERS = [kind for kind in JobKind if kind is not JobKind.SAMPLE]
ZIP = b"PK\x05\x06" + bytes(18)  # an archive without entries


@contextmanager
def busy(resources: Resources) -> Iterator[None]:
    """Works on queued jobs while the block lasts: most end well, some fail. Raises what went wrong here."""
    stop, worker = threading.Event(), Worker(resources, png())

    def work() -> None:
        while not stop.wait(BEAT_S):
            worker.sample()
            _work_off(resources)

    with at_the_same_time(work):
        try:
            yield
        finally:
            stop.set()


def _work_off(resources: Resources) -> None:
    """Takes a job of every other kind, and ends it."""
    with resources.database.transaction() as session:
        now = resources.database.now(session)
        claims = jobs.claim(session, OTHERS, owner=OWNER, now=now, lease_s=LEASE_S, limit=len(OTHERS))
        started = [status_notice(session.get_one(Job, claim.job_id)) for claim in claims]
    resources.tell(*started)
    for claim in claims:
        if claim.kind is JobKind.EXPORT:
            resources.blobs.put(export_key(claim.model_id or "", claim.job_id, claim.fence), ZIP)
        resources.tell(status_notice(_end(resources, claim)))


def _end(resources: Resources, claim: Claim) -> Job:
    with resources.database.transaction() as session:
        now = resources.database.now(session)
        if jobs.hold(session, claim).cancel_requested:
            return jobs.stop(session, claim, now=now)
        if claim.job_id[-1] in "0123":  # a quarter of all ids
            code, message = "storage_full", "no space is left"
            return jobs.fail(session, claim, now=now, code=code, message=message, retryable=True)
        return jobs.succeed(session, claim, now=now, result={"sha256": hashlib.sha256(ZIP).hexdigest()})
