"""Hands that play every worker, so that jobs end while others ask for them: no torch, only the steps of the rows."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from store import jobs, slices
from store.exports import export_key
from store.identifiers import new_id
from store.jobs import Claim
from store.records import Image, Job, JobKind
from store.resources import Resources, status_notice
from tests.openapi.stock import png

BEAT_S = 0.05  # between two looks: some requests find a job queued, some running, some ended
OWNER = "hands@here"
LEASE_S = 3600.0
MOST_IMAGES = 1000  # as many as a request may ask for: no job is left half done
OTHERS = [kind for kind in JobKind if kind is not JobKind.SAMPLE]
ZIP = b"PK\x05\x06" + bytes(18)  # an archive without entries


@contextmanager
def busy(resources: Resources) -> Iterator[None]:
    """Works on queued jobs while the block lasts: most end well, some fail. Raises what went wrong here."""
    stop, raised = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            while not stop.wait(BEAT_S):
                _sample(resources)
                _work_off(resources)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="hands")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


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


def _sample(resources: Resources) -> None:
    """Draws a batch as a sampler does, every picture the same."""
    with resources.database.transaction() as session:
        now = resources.database.now(session)
        batch = slices.claim_slices(session, [], owner=OWNER, now=now, lease_s=LEASE_S, max_images=MOST_IMAGES)
    if not batch:
        return
    content = png()
    made = []
    for part in batch:
        keys = {
            position: f"images/{part.claim.job_id}/{position:06d}.png"
            for position in range(part.start, part.start + part.count)
        }
        resources.blobs.put_many(dict.fromkeys(keys.values(), content))
        images = [
            Image(
                id=new_id("img"),
                job_id=part.claim.job_id,
                position=position,
                model_id=part.claim.model_id,
                checkpoint=part.claim.checkpoint,
                seed=part.claim.request["seed"],
                label=None,
                width=32,
                height=32,
                blob=key,
                size_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                created_at=now,
            )
            for position, key in keys.items()
        ]
        made.append((part, images))
    with resources.database.transaction() as session:
        ended = slices.commit_slices(session, made, now=resources.database.now(session), images_per_s=100.0)
        notices = [status_notice(session.get_one(Job, one.job_id)) for one in ended if one.ended]
    resources.tell(*notices)
