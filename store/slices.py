"""Slices: the parts of sample jobs that share one forward pass.

A job for more images than a batch is a cursor: a sampler takes a slice, commits it, and goes to the end of the line. Batches
are made many times a second, so a whole one is claimed or committed by a handful of statements, however many jobs it has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import BindParameter, Row, Table, bindparam, func, insert, literal, select, tuple_, update
from sqlalchemy.orm import Session

from store import jobs
from store.jobs import RUNNING, SUCCEEDED, Claim
from store.records import Image, Job, JobKind, JobPriority, JobStatus, UtcDateTime

# Tables and columns rather than records here: the same statements, without what the ORM adds to each.
JOBS, IMAGES = cast(Table, Job.__table__), cast(Table, Image.__table__)
JOB = JOBS.c
LINE = (JOB.turn_at, JOB.id)  # the order in which jobs are taken; ix_jobs_claim has it

# What a claim reads of a row; whole records would cost more than the statements.
COLUMNS = (
    JOB.id, JOB.status, JOB.fence, JOB.attempts, JOB.cursor, JOB.total, JOB.request, JOB.dataset_id, JOB.model_id,
    JOB.checkpoint, JOB.priority, JOB.turn_at, JOB.created_at,
)  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """Images `start … start + count - 1` of one claimed job that wants `total`."""

    claim: Claim
    start: int
    count: int
    total: int

    @property
    def end(self) -> int:
        """The position after its last image."""
        return self.start + self.count

    @property
    def is_last(self) -> bool:
        """Whether the job is complete with it."""
        return self.end >= self.total


@dataclass(frozen=True)
class Outcome:
    """How far a job is with a slice that was stored."""

    job_id: str
    done: int  # images stored
    total: int
    images_per_s: float | None
    eta_s: float | None  # 0 once it has ended
    ended: bool  # it is complete, and has succeeded


def work_waits(session: Session) -> bool:
    """Whether a sample job is queued; for looking without a lock."""
    found = select(JOB.id).where(JOB.status == JobStatus.QUEUED, JOB.kind == JobKind.SAMPLE).limit(1)
    return session.execute(found).first() is not None


def last_weights(session: Session) -> str | None:
    """The weights that the newest sample job is pinned to; None where there never was one."""
    newest = select(JOB.checkpoint).where(JOB.kind == JobKind.SAMPLE).order_by(JOB.id.desc()).limit(1)
    return session.execute(newest).scalar()


def claim_slices(
    session: Session,
    held: Collection[Claim],
    *,
    owner: str,
    now: datetime,
    lease_s: float,
    max_images: int,
    ahead: Mapping[str, int] | None = None,
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
        ahead: by job, the position up to which images are in the making, though their slices are not committed yet.
    """
    ahead = ahead or {}
    mine = {claim.job_id: claim for claim in held}
    going_on = _still_held(session, mine, owner, now)
    queued = (
        JOB.kind == JobKind.SAMPLE,
        JOB.status == JobStatus.QUEUED,
        JOB.needs <= jobs.UNDERSTOOD,
        jobs.in_time(now),
    )
    first = min(going_on, key=_turn, default=None)
    before = () if first is None else (tuple_(*LINE) < tuple_(literal(first.turn_at, UtcDateTime), first.id),)
    # Locked at once: if another sampler is just taking the first in the line, ours is the next, maybe for other weights.
    # And only where it is our first: what we lock and leave, another would skip and go to sleep.
    first = (
        session.execute(
            select(*COLUMNS).where(*queued, *before).order_by(*LINE).limit(1).with_for_update(skip_locked=True)
        ).first()
        or first
    )
    if first is None:
        return []
    weights = (first.model_id, first.checkpoint)
    riders = session.execute(
        select(*COLUMNS)
        .where(*queued, JOB.model_id == first.model_id, JOB.checkpoint == first.checkpoint)
        .order_by(*LINE)
        .limit(max_images)  # each job takes at least one place
        .with_for_update(skip_locked=True)
    ).all()
    slices: list[Slice] = []
    turns: dict[JobPriority, list[str]] = {}
    room = max_images
    in_line = [row for row in going_on if (row.model_id, row.checkpoint) == weights]
    for row in sorted([*in_line, *riders], key=_turn):
        if room == 0:
            break
        claim = mine[row.id] if row.status is RUNNING else _taken(row, owner, now)
        start, total = max(row.cursor, ahead.get(row.id, 0)), int(row.total or 0)
        part = Slice(claim, start, min(room, total - start), total)
        slices.append(part)
        room -= part.count
        if not part.is_last:
            turns.setdefault(row.priority, []).append(row.id)
    if fresh := [part.claim.job_id for part in slices if part.claim.job_id not in mine]:  # as jobs.take does it
        session.execute(
            update(JOBS)
            .where(JOB.id.in_(fresh))
            .values(
                status=RUNNING,
                owner=owner,
                lease_until=now + timedelta(seconds=lease_s),
                fence=JOB.fence + 1,
                attempts=JOB.attempts + 1,
                started_at=func.coalesce(JOB.started_at, now),
            )
        )
    for priority, job_ids in turns.items():  # to the end of the line now: the next claim may come before the commit
        session.execute(update(JOBS).where(JOB.id.in_(job_ids)).values(turn_at=jobs.turn_at(priority, now)))
    return slices


def _still_held(session: Session, mine: Mapping[str, Claim], owner: str, now: datetime) -> list[Row[*tuple[Any, ...]]]:
    """Those of our jobs that are still ours and wanted, locked."""
    if not mine:
        return []
    # Our own heartbeat may be holding these rows: they are waited for.
    rows = session.execute(
        select(*COLUMNS)
        .where(JOB.id.in_(mine), JOB.status == RUNNING, JOB.owner == owner)
        .where(JOB.cancel_requested.is_(False), jobs.in_time(now))
        .order_by(JOB.id)
        .with_for_update()
    )
    return [row for row in rows if row.fence == mine[row.id].fence]


def _taken(row: Row[*tuple[Any, ...]], owner: str, now: datetime) -> Claim:
    return Claim(
        job_id=row.id,
        kind=JobKind.SAMPLE,
        owner=owner,
        fence=row.fence + 1,
        attempt=row.attempts + 1,
        request=row.request,
        cursor=row.cursor,
        dataset_id=row.dataset_id,
        model_id=row.model_id,
        checkpoint=row.checkpoint,
        waited_s=(now - row.created_at).total_seconds(),
    )


def _turn(row: Row[*tuple[Any, ...]]) -> tuple[datetime, str]:
    return row.turn_at, row.id


def commit_slices(
    session: Session, made: Sequence[tuple[Slice, Sequence[Image]]], *, now: datetime, images_per_s: float | None
) -> list[Outcome]:
    """Store the images of a batch, and end the jobs that are complete with them.

    A slice whose lease was lost, or whose start is no longer the job's cursor, is dropped: someone else made it.

    Returns:
        How far the jobs are whose slices were stored.
    """
    rows = session.execute(
        select(JOB.id, JOB.account, JOB.status, JOB.owner, JOB.fence, JOB.cursor, JOB.priority)
        .where(JOB.id.in_([part.claim.job_id for part, _ in made]))
        .order_by(JOB.id)  # one order for everybody: no deadlocks
        .with_for_update()
    )
    locked = {row.id: row for row in rows}
    images: list[Image] = []
    outcomes, turns = [], {}
    for part, pictures in made:
        row, claim = locked.get(part.claim.job_id), part.claim
        if row is None or row.status is not RUNNING or (row.owner, row.fence) != (claim.owner, claim.fence):
            continue  # as jobs.hold says it
        if row.cursor != part.start:
            continue
        for image in pictures:
            image.account = row.account
        images.extend(pictures)
        turns[row.id] = jobs.turn_at(row.priority, now)
        left_s = (part.total - part.end) / images_per_s if images_per_s else None
        outcomes.append(Outcome(claim.job_id, part.end, part.total, images_per_s, left_s, part.is_last))
    if images:
        columns = IMAGES.c.keys()
        session.execute(insert(IMAGES), [{name: getattr(image, name) for name in columns} for image in images])
    if further := [outcome for outcome in outcomes if not outcome.ended]:  # as jobs.advance and jobs.report
        _update_each(
            session,
            [
                {
                    "job": outcome.job_id,
                    "cursor": outcome.done,
                    "done": float(outcome.done),
                    "attempts": 1,
                    "put_back_at": None,
                    "rate": outcome.images_per_s,
                    "eta_s": outcome.eta_s,
                    "turn_at": turns[outcome.job_id],
                }
                for outcome in further
            ],
        )
    if complete := [outcome for outcome in outcomes if outcome.ended]:  # as jobs.succeed
        _update_each(
            session,
            [
                {
                    "job": outcome.job_id,
                    "status": SUCCEEDED,
                    "cursor": outcome.done,
                    "done": float(outcome.done),
                    "attempts": 1,
                    "put_back_at": None,
                    "turn_at": turns[outcome.job_id],
                    "result": {"images": outcome.done},
                    "error_code": None,
                    "error_message": None,
                    "error_retryable": None,
                    "owner": None,
                    "lease_until": None,
                    "rate": None,
                    "eta_s": 0.0,
                    "finished_at": now,
                }
                for outcome in complete
            ],
        )
    return outcomes


def _update_each(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write to each `job` the columns that are given with it, the same ones for all."""
    values: dict[str, BindParameter[Any]] = {name: bindparam(f"new_{name}") for name in rows[0] if name != "job"}
    statement = update(JOBS).where(JOB.id == bindparam("job")).values(values)
    session.execute(
        statement, [{name if name == "job" else f"new_{name}": value for name, value in row.items()} for row in rows]
    )
