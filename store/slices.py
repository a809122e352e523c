"""Slices: the parts of sample jobs that share one forward pass.

A job for more images than a batch is a cursor: a sampler takes a slice, commits it, and goes to the end of the line. Batches
are made many times a second, so a whole one is claimed or committed by a handful of statements, however many jobs it has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, cast

from sqlalchemy import Row, Table, bindparam, func, insert, select, tuple_, update
from sqlalchemy.orm import Session

from store import jobs
from store.database import core
from store.jobs import RUNNING, SUCCEEDED, Claim
from store.records import DEFAULT_ACCOUNT, Image, Job, JobKind, JobPriority, JobStatus, UtcDateTime

# Tables and columns rather than records here: the same statements, without what the ORM adds to each.
JOBS, IMAGES = cast(Table, Job.__table__), cast(Table, Image.__table__)
JOB = JOBS.c
LINE = (JOB.turn_at, JOB.id)  # the order in which jobs are taken; ix_jobs_claim has it

# What a claim reads of a row; whole records would cost more than the statements.
COLUMNS = (
    JOB.id, JOB.status, JOB.fence, JOB.attempts, JOB.cursor, JOB.total, JOB.request, JOB.dataset_id, JOB.model_id,
    JOB.checkpoint, JOB.priority, JOB.turn_at, JOB.created_at,
)  # fmt: skip

# Statements are built once: to build one costs as much as SQLite takes to execute it.
QUEUED = (JOB.kind == JobKind.SAMPLE, JOB.status == JobStatus.QUEUED, JOB.needs <= jobs.UNDERSTOOD)
WORK_WAITS = select(JOB.id).where(*QUEUED).limit(1)
LINE_NOW = select(*COLUMNS).where(*QUEUED, jobs.in_time(bindparam("now"))).order_by(*LINE)
FIRST = LINE_NOW.limit(1).with_for_update(skip_locked=True)
BEFORE = tuple_(*LINE) < tuple_(bindparam("turn_at", type_=UtcDateTime), bindparam("job_id", type_=JOB.id.type))
FIRST_BEFORE = LINE_NOW.where(BEFORE).limit(1).with_for_update(skip_locked=True)
RIDERS = (
    LINE_NOW.where(JOB.model_id == bindparam("model_id"), JOB.checkpoint == bindparam("checkpoint"))
    .where(JOB.attempts == 0)  # see is_suspect
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
STILL_HELD = (
    select(*COLUMNS)
    .where(JOB.id.in_(bindparam("held", expanding=True)), JOB.status == RUNNING, JOB.owner == bindparam("held_by"))
    .where(JOB.cancel_requested.is_(False), jobs.in_time(bindparam("now")))
    .order_by(JOB.id)
    .with_for_update()
)
TAKE = (  # as jobs.take does it
    update(JOBS)
    .where(JOB.id.in_(bindparam("fresh", expanding=True)))
    .values(
        status=RUNNING,
        owner=bindparam("new_owner"),
        lease_until=bindparam("new_lease_until"),
        fence=JOB.fence + 1,
        attempts=JOB.attempts + 1,
        started_at=func.coalesce(JOB.started_at, bindparam("now", type_=UtcDateTime)),
    )
)
YIELD = update(JOBS).where(JOB.id.in_(bindparam("yielding", expanding=True))).values(turn_at=bindparam("new_turn_at"))
LOCK = (
    select(JOB.id, JOB.account, JOB.status, JOB.owner, JOB.fence, JOB.cursor, JOB.priority)
    .where(JOB.id.in_(bindparam("made", expanding=True)))
    .order_by(JOB.id)  # one order for everybody: no deadlocks
    .with_for_update()
)
STORE = insert(IMAGES)
SUBMIT = insert(JOBS)  # as jobs.submit does it
SUBMITTED = (  # what jobs.new fills in, and whoever it makes a job for
    "id", "account", "kind", "status", "request", "request_id", "model_id", "checkpoint", "idempotency_key",
    "idempotency_hash", "created_at", "priority", "turn_at", "deadline_at", "total", "unit", "needs", "fence", "attempts",
    "cancel_requested", "cursor", "done",
)  # fmt: skip
ADVANCE = (  # as jobs.advance and jobs.report do it
    update(JOBS)
    .where(JOB.id == bindparam("job"))
    .values(
        cursor=bindparam("new_cursor"),
        done=bindparam("new_done"),
        attempts=1,
        put_back_at=None,
        rate=bindparam("new_rate"),
        eta_s=bindparam("new_eta_s"),
        turn_at=bindparam("new_turn_at"),
    )
)
COMPLETE = (  # as jobs.succeed does it
    update(JOBS)
    .where(JOB.id.in_(bindparam("complete", expanding=True)))
    .values(
        status=SUCCEEDED,
        cursor=bindparam("new_cursor"),
        done=bindparam("new_done"),
        attempts=1,
        put_back_at=None,
        result=bindparam("new_result"),
        error_code=None,
        error_message=None,
        error_retryable=None,
        owner=None,
        lease_until=None,
        rate=None,
        eta_s=0.0,
        finished_at=bindparam("new_finished_at"),
    )
)


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


@dataclass(slots=True)
class NewImage:
    """The columns of an image to be stored; a record of the ORM would cost more than its insertion."""

    id: str
    job_id: str
    position: int
    model_id: str
    checkpoint: str
    seed: int
    label: str | None
    recipe: dict[str, Any] | None
    width: int
    height: int
    blob: str
    size_bytes: int
    sha256: str
    created_at: datetime
    account: str = DEFAULT_ACCOUNT  # its job's, as soon as it is committed


@dataclass(frozen=True)
class Outcome:
    """How far a job is with a slice that was stored."""

    job_id: str
    done: int  # images stored
    total: int
    images_per_s: float | None
    eta_s: float | None  # 0 once it has ended
    ended: bool  # it is complete, and has succeeded


def submit_jobs(session: Session, new: Collection[Job]) -> None:
    """Write sample jobs, as `jobs.new` has made them, by one statement; the session does not come to know them."""
    values = attrgetter(*SUBMITTED)
    if new:
        core(session).execute(SUBMIT, [dict(zip(SUBMITTED, values(job), strict=True)) for job in new])


def work_waits(session: Session) -> bool:
    """Whether a sample job is queued; for looking without a lock."""
    return core(session).execute(WORK_WAITS).first() is not None


def last_weights(session: Session) -> str | None:
    """The weights that the newest sample job is pinned to; None where there never was one."""
    newest = select(JOB.checkpoint).where(JOB.kind == JobKind.SAMPLE).order_by(JOB.id.desc()).limit(1)
    return core(session).execute(newest).scalar()


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
    may ride along, in the line's order. Jobs whose deadline has passed are left alone. One that was under way when its
    worker died goes alone until it gets further: should it be what kills workers, it takes no other job along.

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
    execute, ahead = core(session).execute, ahead or {}
    mine = {claim.job_id: claim for claim in held}
    going_on = _still_held(session, mine, owner, now)
    first = min(going_on, key=_turn, default=None)
    # Locked at once: if another sampler is just taking the first in the line, ours is the next, maybe for other weights.
    # And only where it is our first: what we lock and leave, another would skip and go to sleep.
    if first is None:
        first = execute(FIRST, {"now": now}).first()
    else:
        earlier = {"now": now, "turn_at": first.turn_at, "job_id": first.id}
        first = execute(FIRST_BEFORE, earlier).first() or first
    if first is None:
        return []
    weights = (first.model_id, first.checkpoint)
    if is_suspect(first) or max_images == 1:
        in_line = [first]
    else:
        same = {"model_id": first.model_id, "checkpoint": first.checkpoint}
        # Each job takes at least one place.
        riders = execute(RIDERS, {"now": now, "most": max_images, **same})
        held_too = (row for row in going_on if (row.model_id, row.checkpoint) == weights and not is_suspect(row))
        in_line = sorted([*held_too, *riders], key=_turn)
    slices: list[Slice] = []
    turns: dict[JobPriority, list[str]] = {}
    room = max_images
    for row in in_line:
        if room == 0:
            break
        claim = mine[row.id] if row.status is RUNNING else _taken(row, owner, now)
        start, total = max(row.cursor, ahead.get(row.id, 0)), int(row.total or 0)
        part = Slice(claim, start, min(room, total - start), total)
        slices.append(part)
        room -= part.count
        if not part.is_last:
            turns.setdefault(row.priority, []).append(row.id)
    if fresh := [part.claim.job_id for part in slices if part.claim.job_id not in mine]:
        lease_until = now + timedelta(seconds=lease_s)
        execute(TAKE, {"fresh": fresh, "new_owner": owner, "new_lease_until": lease_until, "now": now})
    for priority, job_ids in turns.items():  # to the end of the line now: the next claim may come before the commit
        execute(YIELD, {"yielding": job_ids, "new_turn_at": jobs.turn_at(priority, now)})
    return slices


def is_suspect(row: Row[*tuple[Any, ...]]) -> bool:
    """Whether a job's worker died, and it has got no further since."""
    return bool(row.attempts > (1 if row.status is RUNNING else 0))


def _still_held(session: Session, mine: Mapping[str, Claim], owner: str, now: datetime) -> list[Row[*tuple[Any, ...]]]:
    """Those of our jobs that are still ours and wanted, locked."""
    if not mine:
        return []
    # Our own heartbeat may be holding these rows: they are waited for.
    rows = core(session).execute(STILL_HELD, {"held": list(mine), "held_by": owner, "now": now})
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
    session: Session,
    made: Sequence[tuple[Slice, Sequence[Image | NewImage]]],
    *,
    now: datetime,
    images_per_s: float | None,
) -> list[Outcome]:
    """Store the images of a batch, and end the jobs that are complete with them.

    A slice whose lease was lost, or whose start is no longer the job's cursor, is dropped: someone else made it.

    Returns:
        How far the jobs are whose slices were stored.
    """
    execute = core(session).execute
    rows = execute(LOCK, {"made": [part.claim.job_id for part, _ in made]})
    locked = {row.id: row for row in rows}
    images: list[Image | NewImage] = []
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
        values = attrgetter(*columns)
        execute(STORE, [dict(zip(columns, values(image), strict=True)) for image in images])
    if further := [outcome for outcome in outcomes if not outcome.ended]:
        execute(
            ADVANCE,
            [
                {
                    "job": outcome.job_id,
                    "new_cursor": outcome.done,
                    "new_done": float(outcome.done),
                    "new_rate": outcome.images_per_s,
                    "new_eta_s": outcome.eta_s,
                    "new_turn_at": turns[outcome.job_id],
                }
                for outcome in further
            ],
        )
    complete: dict[int, list[str]] = {}
    for outcome in outcomes:
        if outcome.ended:
            complete.setdefault(outcome.done, []).append(outcome.job_id)
    for done, job_ids in complete.items():  # most are of one size
        ended = {"new_cursor": done, "new_done": float(done), "new_result": {"images": done}, "new_finished_at": now}
        execute(COMPLETE, {"complete": job_ids, **ended})
    return outcomes
