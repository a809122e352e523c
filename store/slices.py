"""Slices: the parts of sample jobs that share one forward pass.

A job for more images than a batch is a cursor: a sampler takes a slice, commits it, and goes to the end of the line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import literal, select, tuple_
from sqlalchemy.orm import Session

from store import jobs
from store.errors import LeaseLost
from store.jobs import RUNNING, Claim
from store.records import Image, Job, JobKind, JobStatus, UtcDateTime

LINE = (Job.turn_at, Job.id)  # the order in which jobs are taken; ix_jobs_claim has it


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

    The first job in the line (the one whose turn is due first) picks the weights; every other job for the same weights
    may ride along, in the line's order. Jobs whose deadline has passed are left alone.

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
    going_on = _still_held(session, mine, owner, now)
    queued = (Job.kind == JobKind.SAMPLE, Job.status == JobStatus.QUEUED, jobs.in_time(now))
    first = min(going_on, key=_turn, default=None)
    before = () if first is None else (tuple_(*LINE) < tuple_(literal(first.turn_at, UtcDateTime), first.id),)
    # Locked at once: if another sampler is just taking the first in the line, ours is the next, maybe for other weights.
    # And only where it is our first: what we lock and leave, another would skip and go to sleep.
    first = (
        session.scalars(
            select(Job).where(*queued, *before).order_by(*LINE).limit(1).with_for_update(skip_locked=True)
        ).first()
        or first
    )
    if first is None:
        return []
    riders = (
        select(Job)
        .where(*queued, Job.model_id == first.model_id, Job.checkpoint == first.checkpoint)
        .order_by(*LINE)
        .limit(max_images)  # each job takes at least one place
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    in_line = [job for job in going_on if (job.model_id, job.checkpoint) == (first.model_id, first.checkpoint)]
    slices: list[Slice] = []
    room = max_images
    for job in sorted([*in_line, *session.scalars(riders)], key=_turn):
        if room == 0:
            break
        claim = mine[job.id] if job.status is RUNNING else jobs.take(job, owner=owner, now=now, lease_s=lease_s)
        count = min(room, int(job.total or 0) - job.cursor)
        slices.append(Slice(claim, job.cursor, count))
        room -= count
    return slices


def _still_held(session: Session, mine: Mapping[str, Claim], owner: str, now: datetime) -> list[Job]:
    """Those of our jobs that are still ours and wanted, locked."""
    if not mine:
        return []
    # Our own heartbeat may be holding these rows: they are waited for.
    rows = session.scalars(
        select(Job)
        .where(Job.id.in_(mine), Job.status == RUNNING, Job.owner == owner)
        .where(Job.cancel_requested.is_(False), jobs.in_time(now))
        .order_by(Job.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return [job for job in rows if job.fence == mine[job.id].fence]


def _turn(job: Job) -> tuple[datetime, str]:
    return job.turn_at, job.id


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
        job.turn_at = jobs.turn_at(job.priority, now)
        if left == 0:
            jobs.succeed(session, part.claim, now=now, result={"images": job.cursor})
        went_on.append(job)
    return went_on
