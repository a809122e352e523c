"""Jobs: their states, and every step between them. The row is the truth; see docs/jobs.md for the diagram.

Each function works inside the caller's transaction and commits nothing. Whoever changes a job tells the bus afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec

from sqlalchemy import BindParameter, ColumnElement, bindparam, func, or_, select
from sqlalchemy.orm import Session

from store.errors import InvalidTransition, JobNotFound, LeaseLost
from store.identifiers import new_id
from store.queue import LANE_OF, Lane
from store.records import (
    DEFAULT_ACCOUNT,
    Dataset,
    DatasetStatus,
    Job,
    JobKind,
    JobPriority,
    JobStatus,
    Model,
    ModelStatus,
)

QUEUED, RUNNING = JobStatus.QUEUED, JobStatus.RUNNING
SUCCEEDED, FAILED, CANCELED = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED
KNOWN = tuple(JobKind)  # a later release may have put others into the table; they are none of ours
ENDED = frozenset({SUCCEEDED, FAILED, CANCELED})

# Every step there is. docs/jobs.md draws the same; a test compares the two.
TRANSITIONS: Mapping[str, tuple[JobStatus, JobStatus]] = {
    "claim": (QUEUED, RUNNING),  # a worker took it, with a lease and a new fence
    "cancel": (QUEUED, CANCELED),  # asked for before anyone took it: never computed
    "succeed": (RUNNING, SUCCEEDED),
    "fail": (RUNNING, FAILED),  # the work said no, or its worker died too often without progress
    "stop": (RUNNING, CANCELED),  # the work saw the cancel flag
    "release": (RUNNING, QUEUED),  # handed back at shutdown, or its lease ran out
}

# The line goes by the time at which a turn is due, and nothing else. A batch job lets pass whatever comes within this time
# after it, and after each of its slices; then it is as old as the rest, so neither sort can starve the other.
BATCH_YIELDS_S = 15.0

# What requests may say, by number. Whoever gives a request a new meaning adds one here and says so to `submit`: workers of
# releases before leave that job to others (docs/decisions/0025-two-releases-side-by-side.md).
UNDERSTOOD = 1

DEADLINE = "deadline"  # error code of a job that was canceled because nobody wants it any more

Given = ParamSpec("Given")


# Built once, since claims execute it many times a second.
LATE = (
    select(Job)
    .where(Job.kind.in_(KNOWN), Job.status.in_((QUEUED, RUNNING)))
    .where(Job.deadline_at <= bindparam("now"), Job.cancel_requested.is_(False))
    .order_by(Job.id)
    .with_for_update(skip_locked=True)
    .execution_options(populate_existing=True)
)


@dataclass(frozen=True)
class Claim:
    """A worker's right to a running job, good while the row's fence is the same."""

    job_id: str
    kind: JobKind
    owner: str
    fence: int
    attempt: int  # 1 for the first claim, or the first since committed progress
    request: Mapping[str, Any]
    cursor: int
    dataset_id: str | None
    model_id: str | None
    checkpoint: str | None
    waited_s: float = 0.0  # from its submission to this claim


def turn_at(priority: JobPriority, now: datetime) -> datetime:
    """Return when the turn of a job is due that joins the line now: its place there, for good."""
    return now + timedelta(seconds=BATCH_YIELDS_S) if priority is JobPriority.BATCH else now


def in_time(now: datetime | BindParameter[Any]) -> ColumnElement[bool]:
    """The condition that a job's deadline, if it has one, has not passed."""
    deadline_at = Job.__table__.c.deadline_at  # the column itself, for statements without the ORM too
    return or_(deadline_at.is_(None), deadline_at > now)


def new(
    kind: JobKind,
    request: Mapping[str, Any],
    *,
    now: datetime,
    dataset_id: str | None = None,
    model_id: str | None = None,
    checkpoint: str | None = None,
    total: float | None = None,
    unit: str = "images",
    priority: JobPriority = JobPriority.INTERACTIVE,
    deadline_at: datetime | None = None,
    idempotency: tuple[str, str] | None = None,
    job_id: str | None = None,
    account: str = DEFAULT_ACCOUNT,
    needs: int = 1,
) -> Job:
    """Return a new queued job, which is in no session yet.

    Args:
        kind: what to do.
        request: its parameters, JSON.
        now: the database's time.
        dataset_id: the data set it makes or learns from.
        model_id: the model it makes or uses.
        checkpoint: the weights that a job is pinned to: its model's, or for a training those it begins with.
        total: how much there is to do, in `unit`; None where it is not known yet.
        unit: what is counted.
        priority: whether it goes by its time, or lets others go first for a while.
        deadline_at: when it is canceled if it has not succeeded by then; None: never.
        idempotency: the client's key and the hash of its request; the key must be new.
        job_id: what it is called; None: a new id.
        account: whose it is, and what it makes.
        needs: what a worker must have understood to do it, as in UNDERSTOOD.
    """
    return Job(
        id=job_id or new_id("job"),
        account=account,
        kind=kind,
        status=QUEUED,
        request=dict(request),
        dataset_id=dataset_id,
        model_id=model_id,
        checkpoint=checkpoint,
        total=total,
        unit=unit,
        priority=priority,
        deadline_at=deadline_at,
        idempotency_key=idempotency[0] if idempotency else None,
        idempotency_hash=idempotency[1] if idempotency else None,
        created_at=now,
        turn_at=turn_at(priority, now),
        needs=needs,
        fence=0,
        attempts=0,
        cancel_requested=False,
        cursor=0,
        done=0.0,
    )


def _added(make: Callable[Given, Job]) -> Callable[Concatenate[Session, Given], Job]:
    def submit(session: Session, /, *args: Given.args, **kwargs: Given.kwargs) -> Job:
        job = make(*args, **kwargs)
        session.add(job)
        return job

    return submit


#: Adds a new queued job, as `new` makes it, to a writing transaction; ring `LANE_OF[kind]` after the commit.
submit = _added(new)


def claim(
    session: Session, kinds: Collection[JobKind], *, owner: str, now: datetime, lease_s: float, limit: int = 1
) -> list[Claim]:
    """Return claims on the first `limit` queued jobs of these kinds; none when another was faster."""
    line = (
        select(Job)
        .where(Job.status == QUEUED, Job.kind.in_(kinds), Job.needs <= UNDERSTOOD, in_time(now))
        .order_by(Job.turn_at, Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return [take(job, owner=owner, now=now, lease_s=lease_s) for job in session.scalars(line)]


def take(job: Job, *, owner: str, now: datetime, lease_s: float) -> Claim:
    """Return the claim on a queued row that the caller has locked."""
    _step(job, "claim")
    job.owner = owner
    job.lease_until = now + timedelta(seconds=lease_s)
    job.fence += 1
    job.attempts += 1
    job.started_at = job.started_at or now
    return Claim(
        job_id=job.id,
        kind=job.kind,
        owner=owner,
        fence=job.fence,
        attempt=job.attempts,
        request=job.request,
        cursor=job.cursor,
        dataset_id=job.dataset_id,
        model_id=job.model_id,
        checkpoint=job.checkpoint,
        waited_s=(now - job.created_at).total_seconds(),
    )


def needs_model(model_id: str) -> ColumnElement[bool]:
    """The condition that a job needs a model: it is the job's own, or the job is pinned to weights of it."""
    return or_(Job.model_id == model_id, Job.checkpoint.startswith(f"models/{model_id}/", autoescape=True))


def hold(session: Session, claim: Claim) -> Job:
    """Return the claim's row, locked until the transaction ends.

    Raises:
        LeaseLost: the job has another owner by now, or has ended; write nothing.
    """
    job = session.get(Job, claim.job_id, with_for_update=True, populate_existing=True)
    if job is None or job.status is not RUNNING or job.fence != claim.fence or job.owner != claim.owner:
        raise LeaseLost(
            f"{claim.job_id} is no longer this worker's (its fence was {claim.fence}, is "
            f"{job.fence if job else 'gone'}); its late work is dropped"
        )
    return job


def renew(session: Session, claims: Collection[Claim], *, now: datetime, lease_s: float) -> dict[str, bool]:
    """Extend the leases of these claims.

    Returns:
        For each job still held, whether its cancellation was asked for; a lost one is missing.
    """
    held = {}
    for one in sorted(claims, key=lambda claim: claim.job_id):  # one order for everybody: no deadlocks
        try:
            job = hold(session, one)
        except LeaseLost:
            continue
        job.lease_until = now + timedelta(seconds=lease_s)
        held[job.id] = job.cancel_requested
    return held


def cancel_flags(session: Session, claims: Collection[Claim]) -> dict[str, bool]:
    """As renew, without renewing and without locks: for polling often."""
    fences = {claim.job_id: claim.fence for claim in claims}
    rows = session.execute(
        select(Job.id, Job.fence, Job.cancel_requested).where(Job.id.in_(fences), Job.status == RUNNING)
    )
    return {job_id: canceled for job_id, fence, canceled in rows if fence == fences[job_id]}


def report(
    session: Session,
    claim: Claim,
    *,
    done: float,
    total: float | None = None,
    rate: float | None = None,
    eta_s: float | None = None,
) -> Job:
    """Write the progress that people see; None leaves a total as it is. Raises LeaseLost."""
    job = hold(session, claim)
    job.done = done
    job.total = total if total is not None else job.total
    job.rate, job.eta_s = rate, eta_s
    return job


def advance(session: Session, claim: Claim, cursor: int) -> Job:
    """Record work that is committed for good: it need not be done again, and the attempts start anew. Raises LeaseLost."""
    job = hold(session, claim)
    if cursor > job.cursor:
        job.cursor = cursor
        job.attempts = 1
        job.put_back_at = None
    return job


def succeed(session: Session, claim: Claim, *, now: datetime, result: Mapping[str, Any]) -> Job:
    """End the job well. Raises LeaseLost."""
    job = hold(session, claim)
    job.result = dict(result)
    job.error_code = job.error_message = job.error_retryable = None
    if job.total is not None:
        job.done = job.total
    _end(session, job, "succeed", now)
    job.eta_s = 0.0
    return job


def fail(session: Session, claim: Claim, *, now: datetime, code: str, message: str, retryable: bool) -> Job:
    """End the job with an error that says what to do. Raises LeaseLost."""
    return _fail(session, hold(session, claim), now, code, message, retryable)


def stop(session: Session, claim: Claim, *, now: datetime, result: Mapping[str, Any] | None = None) -> Job:
    """End a job whose cancellation the work has seen, keeping what it has made. Raises LeaseLost."""
    job = hold(session, claim)
    job.result = dict(result) if result is not None else job.result
    return _end(session, job, "stop", now)


def release(session: Session, claim: Claim, *, now: datetime | None = None) -> Job:
    """Hand the job back, in good order, for another worker to go on with; it costs no attempt.

    One whose cancellation was asked for ends here instead: nothing in the line is canceled.

    Args:
        session: a writing transaction.
        claim: whose job.
        now: when it ended, if it does; None: this host's time.

    Raises:
        LeaseLost: it is no longer this worker's to give.
    """
    return _hand_back(session, hold(session, claim), now or datetime.now(UTC))


def defer(session: Session, claim: Claim, *, now: datetime, patience_s: float, code: str, message: str) -> Job:
    """Hand the job back for what is no fault of its own, behind all others; it costs no attempt.

    That goes on until it gets further, but not for ever: a job that only one disk is too small for would never end.

    Args:
        session: a writing transaction.
        claim: whose job.
        now: the database's time.
        patience_s: how long after the first time in a row it fails instead, in seconds.
        code: of the error that it fails with then.
        message: likewise.

    Raises:
        LeaseLost: it is no longer this worker's to give.
    """
    job = hold(session, claim)
    since = job.put_back_at or now
    if not job.cancel_requested and now - since >= timedelta(seconds=patience_s):
        return _fail(session, job, now, code, message, retryable=True)
    job.put_back_at, job.turn_at = since, turn_at(job.priority, now)
    return release(session, claim, now=now)


def request_cancel(session: Session, job_id: str, *, now: datetime) -> Job:
    """Cancel a queued job at once; ask a running one to stop. Asking twice is as good as once.

    Raises:
        JobNotFound: there is no such job.
        InvalidTransition: it has succeeded or failed.
    """
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        raise JobNotFound(f"there is no job {job_id}")
    if job.status in {SUCCEEDED, FAILED}:
        raise InvalidTransition(f"{job_id} has already {job.status.value}, so it can't be canceled")
    if job.status is QUEUED:
        job.cancel_requested = True
        return _end(session, job, "cancel", now)
    job.cancel_requested = True
    return job


def end_late(session: Session, *, now: datetime) -> list[Job]:
    """Cancel the queued jobs whose deadline has passed, and ask the running ones to stop.

    Returns:
        The jobs that changed; each says why in its error.
    """
    ended = list(session.scalars(LATE, {"now": now}))
    for job in ended:
        job.cancel_requested = True
        job.error_code, job.error_retryable = DEADLINE, True
        job.error_message = (
            f"its deadline, {job.deadline_at:%Y-%m-%dT%H:%M:%SZ}, passed before it was done; ask again with more time, "
            "or when less is queued"
        )
        if job.status is QUEUED:
            _end(session, job, "cancel", now)
    return ended


def recover(
    session: Session, *, now: datetime, max_attempts: int, owner: str | None = None, how: str | None = None
) -> list[Job]:
    """Take jobs from workers that are gone: back into the line, or ended.

    Args:
        now: leases that ran out before this moment are taken.
        max_attempts: a job claimed this often without committed progress fails.
        owner: take this owner's jobs at once, whatever their lease: it is known to be dead. None: only expired leases.
        how: how it died, as "signal SIGKILL"; None: nobody saw it.

    Returns:
        The jobs that changed.
    """
    gone = Job.owner == owner if owner is not None else Job.lease_until < now
    lost = (
        select(Job)
        .where(Job.kind.in_(KNOWN), Job.status == RUNNING, gone)
        .order_by(Job.id)
        # The dead one's last transaction may still hold a lock for a moment: worth the wait, where nobody comes back.
        .with_for_update(skip_locked=owner is None)
        .execution_options(populate_existing=True)
    )
    jobs = list(session.scalars(lost))
    for job in jobs:
        if job.cancel_requested:
            _end(session, job, "stop", now)
        elif job.attempts >= max_attempts:
            message = (
                f"its worker died {job.attempts} times without getting further, the last time {_died(how)}; look into the "
                "worker's log (out of memory is the usual cause), then submit it again, perhaps smaller"
            )
            _fail(session, job, now, "worker_lost", message, retryable=True)
        else:
            _put_back(job)
    return jobs


def put_back(session: Session, *, now: datetime) -> list[Job]:
    """Take every running job from its worker, which is none of this database's: it was restored. It costs no attempt.

    Returns:
        The jobs that changed: back in the line, or ended where their cancellation was asked for.
    """
    running = list(session.scalars(select(Job).where(Job.status == RUNNING).order_by(Job.id)))
    for job in running:
        _hand_back(session, job, now)
    return running


def _died(how: str | None) -> str:
    if how is None:
        return "unseen: its lease ran out"
    killed = " (what the kernel sends where memory is exhausted)" if how == "signal SIGKILL" else ""
    return f"by {how}{killed}"


def next_expiry(session: Session) -> datetime | None:
    """When the first of the leases runs out that are held now; None where there is none."""
    return session.scalar(select(func.min(Job.lease_until)).where(Job.status == RUNNING))


def lanes_waiting(session: Session) -> set[Lane]:
    """The lanes in which jobs are queued: their bells should ring."""
    queued = select(Job.kind).where(Job.kind.in_(KNOWN), Job.status == QUEUED).distinct()
    return {LANE_OF[kind] for kind in session.scalars(queued)}


def _step(job: Job, step: str) -> None:
    before, after = TRANSITIONS[step]
    if job.status is not before:
        raise InvalidTransition(f"{job.id} is {job.status.value}; {step} is for {before.value} jobs")
    job.status = after


def _hand_back(session: Session, job: Job, now: datetime) -> Job:
    """Put back a job whose work was not at fault; one whose cancellation was asked for ends instead."""
    if job.cancel_requested:
        return _end(session, job, "stop", now)
    job.attempts -= 1
    return _put_back(job)


def _put_back(job: Job) -> Job:
    _step(job, "release")
    job.owner = job.lease_until = job.rate = job.eta_s = None
    return job


def _fail(session: Session, job: Job, now: datetime, code: str, message: str, retryable: bool) -> Job:
    job.error_code, job.error_message, job.error_retryable = code, _storable(message)[:2000], retryable
    return _end(session, job, "fail", now)


def _end(session: Session, job: Job, step: str, now: datetime) -> Job:
    _step(job, step)
    job.owner = job.lease_until = job.rate = job.eta_s = None
    job.finished_at = now
    if job.kind is JobKind.SAMPLE and job.status is CANCELED and job.result is None:
        job.result = {"images": job.cursor}  # those stay
    # What the job was making must not look unfinished for ever.
    if job.kind is JobKind.IMPORT and job.status is not SUCCEEDED:
        dataset = session.get(Dataset, job.dataset_id)
        if dataset is not None:
            dataset.status = DatasetStatus.FAILED
    if job.kind is JobKind.TRAIN:
        model = session.get(Model, job.model_id)
        if model is not None:
            model.status = ModelStatus.READY if model.checkpoint is not None else ModelStatus.FAILED
    return job


def _storable(text: str) -> str:
    # A message may quote the name of a hostile file; PostgreSQL keeps no NUL, and no database half of a surrogate pair.
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
