"""Slices: the parts of sample jobs that share one forward pass.

A job for more images than a batch is a cursor: a sampler takes a slice, commits it, and goes to the end of the line.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from store import jobs
from store.errors import LeaseLost
from store.jobs import RUNNING, Claim
from store.records import Image, Job, JobKind, JobStatus


@dataclass(frozen=True)
class Slice:
    """Images `start … start + count - 1` of one claimed job."""

    claim: Claim
    start: int
    count: int


def claim_slices(
    session: Session, held: Collection[Claim], *, owner: str, now: datetime, lease_s: float, max_images: int
) -> list[Slice]:
    """Return the next batch: slices of jobs that want the same weights, at most `max_images` images in all.

    The first job in the line (highest priority, then earliest turn) picks the weights; every other job for the same
    weights may ride along, in the line's order.

    Args:
        session: a writing transaction.
        held: this sampler's claims on jobs that still have images to go; they stand in the line like queued ones,
            unless their cancellation was asked for.
        owner: this sampler.
        now: the database's time.
        lease_s: how long a new claim is good for, in seconds.
        max_images: the batch's size, at least 1.
    """
    mine = {claim.job_id: claim for claim in held}
    still_mine = and_(Job.status == RUNNING, Job.owner == owner, Job.id.in_(mine), Job.cancel_requested.is_(False))
    if mine:
        # Our own heartbeat may be holding these rows: they are waited for, or they would be skipped below.
        session.execute(select(Job.id).where(still_mine).order_by(Job.id).with_for_update()).all()
    in_line = and_(Job.kind == JobKind.SAMPLE, or_(Job.status == JobStatus.QUEUED, still_mine))
    order = (Job.priority.desc(), Job.turn_at, Job.id)
    # Locked at once: if another sampler is just taking the first in the line, ours is the next, maybe for other weights.
    first = session.execute(
        select(Job.model_id, Job.checkpoint).where(in_line).order_by(*order).limit(1).with_for_update(skip_locked=True)
    ).first()
    if first is None:
        return []
    model_id, checkpoint = first
    riders = (
        select(Job)
        .where(in_line, Job.model_id == model_id, Job.checkpoint == checkpoint)
        .order_by(*order)
        .limit(max_images)  # each job takes at least one place
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    slices: list[Slice] = []
    room = max_images
    for job in session.scalars(riders):
        if room == 0:
            break
        if job.status is RUNNING:
            claim = mine[job.id]
            if claim.fence != job.fence:
                continue
        else:
            claim = jobs.take(job, owner=owner, now=now, lease_s=lease_s)
        count = min(room, int(job.total or 0) - job.cursor)
        slices.append(Slice(claim, job.cursor, count))
        room -= count
    return slices


def commit_slices(
    session: Session, made: Sequence[tuple[Slice, Sequence[Image]]], *, now: datetime, images_per_s: float | None
) -> list[Job]:
    """Store the images of a batch, and end the jobs that are complete with them.

    A slice whose lease was lost, or whose start is no longer the job's cursor, is dropped: someone else made it.

    Returns:
        The jobs that went on, each with its new cursor.
    """
    went_on = []
    for part, images in sorted(made, key=lambda pair: pair[0].claim.job_id):  # one order for everybody: no deadlocks
        try:
            job = jobs.hold(session, part.claim)
        except LeaseLost:
            continue
        if job.cursor != part.start:
            continue
        session.add_all(images)
        jobs.advance(session, part.claim, part.start + part.count)
        left = int(job.total or 0) - job.cursor
        job.done = job.cursor
        job.rate = images_per_s
        job.eta_s = left / images_per_s if images_per_s else None
        job.turn_at = now
        if left == 0:
            jobs.succeed(session, part.claim, now=now, result={"images": job.cursor})
        went_on.append(job)
    return went_on
