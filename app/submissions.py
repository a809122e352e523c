"""Submitting a job: once for each Idempotency-Key, rung for after the commit.

The bus is not told of new jobs: nobody follows what nobody knows yet, and whoever does later begins with the row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from fastapi import Response
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import tracing
from app.auth import Caller
from app.backlog import Backlog
from app.errors import AppError, KeyReused, QuotaExceeded, RateLimited
from app.jobs import Job
from app.quotas import Quotas, Wish
from app.refusals import refusals
from app.webhooks import Webhook, url_of
from store import records, webhooks
from store.ahead import Ahead
from store.queue import LANE_OF
from store.records import DEFAULT_ACCOUNT
from store.resources import Resources
from store.slices import submit_jobs

LOCATION: Final = {"Location": {"description": "Path of what was made.", "schema": {"type": "string"}}}
LONGEST_KEY = 200  # characters of its column

# What every route that creates answers with.
ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    202: {
        "description": "The job is in the line; `Location` has its path.",
        "headers": LOCATION,
    },
    **refusals(RateLimited, QuotaExceeded),
}


@dataclass(frozen=True)
class Idempotency:
    """A client's key with its account and route, and the hash of what came with it."""

    key: str
    digest: str

    @classmethod
    def of(cls, caller: Caller, route: str, key: str | None, content: bytes | BaseModel) -> Idempotency | None:
        """None without a key.

        Args:
            caller: whose key it is; another account may use the same one.
            route: path of the route; another route may see the same key.
            key: the Idempotency-Key header.
            content: what was asked for: bytes, or a body as its client wrote it, whatever the order of its members.
        """
        if key is None:
            return None
        if isinstance(content, BaseModel):
            content = json.dumps(content.model_dump(mode="json", exclude_unset=True), sort_keys=True).encode()
        # Routes begin with a slash and accounts do not, so the keys from before there were accounts are the default one's.
        whole = f"{route} {key}" if caller.account == DEFAULT_ACCOUNT else f"{caller.account} {route} {key}"
        if len(whole) > LONGEST_KEY:
            whole = hashlib.sha256(whole.encode()).hexdigest()
        return cls(whole, hashlib.sha256(content).hexdigest())

    @property
    def columns(self) -> tuple[str, str]:
        """As `store.jobs.submit` takes it."""
        return self.key, self.digest


@dataclass(frozen=True)
class Submission:
    """A job that is to be made together with others."""

    idempotency: Idempotency | None
    # Makes the job, in no session yet; may look, and refuses before it writes anything. It is given the database's time.
    create: Callable[[Session, datetime], records.Job]
    wish: Wish  # what it uses up; its images are those that it adds to the line
    webhook: str | None = None  # URL that is told when the job has ended
    ahead: Ahead | None = None  # what a sampler that has nothing to do may begin with meanwhile
    request_id: str | None = field(default_factory=tracing.current)  # of the request that asks for it


def submit_together(
    resources: Resources, backlog: Backlog, quotas: Quotas, submissions: Sequence[Submission]
) -> list[tuple[records.Job, bool] | Exception]:
    """Make jobs in one transaction, and ring once.

    Returns:
        For each as `submit` does; what it was refused with instead, where it was.
    """
    try:
        made = _submit_all(resources, backlog, quotas, submissions)
    except IntegrityError:  # another process was faster with one of the keys
        if len(submissions) > 1:
            return [answer for one in submissions for answer in submit_together(resources, backlog, quotas, [one])]
        made = _submit_all(resources, backlog, quotas, submissions)  # its job is found now
    new = [answer[0] for answer in made if not isinstance(answer, Exception) and answer[1]]
    if new:
        resources.ring(*{LANE_OF[job.kind] for job in new})
    if not all(isinstance(answer, Exception) for answer in made):
        # While a worker begins. Whoever asked is told only after that, also of a job that another process has just made.
        resources.database.flush()
    return made


def _submit_all(
    resources: Resources, backlog: Backlog, quotas: Quotas, submissions: Sequence[Submission]
) -> list[tuple[records.Job, bool] | Exception]:
    made: list[tuple[records.Job, bool] | Exception] = []
    unwritten: list[records.Job] = []

    def write() -> None:
        submit_jobs(session, unwritten)
        unwritten.clear()

    with ExitStack() as places, resources.database.transaction(durable="flushed") as session:
        now = resources.database.now(session)
        for one in submissions:
            if one.idempotency is not None or quotas.has(one.wish):
                write()  # they look at what came before
            try:
                with ExitStack() as place:
                    place.enter_context(backlog.place_for(one.wish.images))
                    before = _made_before(session, one.idempotency)
                    if before is None:
                        quotas.check(session, one.wish, now=now)
                        job = one.create(session, now)
                        job.request_id = one.request_id
                        unwritten.append(job)
                        quotas.note(session, one.wish, now=now)
                        made.append((job, True))
                    else:
                        made.append((before, False))
                    places.push(place.pop_all())  # kept until the commit, and given back where that fails
            except AppError as refusal:
                made.append(refusal)
                continue
            if one.webhook is not None and before is None:
                write()
                webhooks.request(session, job, one.webhook, now=now)
        write()
    return made


def submit(
    resources: Resources,
    idempotency: Idempotency | None,
    create: Callable[[Session], records.Job],
    wish: Wish,
    *,
    webhook: Webhook | None = None,
) -> tuple[records.Job, bool]:
    """Return the job and whether it is new; the same key with the same request finds the job it made before.

    Args:
        create: makes the job and its other rows inside the transaction; raises to refuse.
        wish: what it uses up.
        webhook: who is told when it has ended; None: nobody.

    Raises:
        KeyReused: the key came with another request before.
        QuotaExceeded: its account has not so much left.
        WebhooksDisabled, TargetRefused: nobody can be told so.
    """
    url = url_of(resources.settings, webhook)
    try:
        job, is_new = _submit(resources, idempotency, create, wish, url)
    except IntegrityError:
        if idempotency is None:
            raise
        # Another request with the key was faster: find its job.
        job, is_new = _submit(resources, idempotency, create, wish, url)
    if is_new:
        resources.ring(LANE_OF[job.kind])
    return job, is_new


def _submit(
    resources: Resources,
    idempotency: Idempotency | None,
    create: Callable[[Session], records.Job],
    wish: Wish,
    webhook: str | None,
) -> tuple[records.Job, bool]:
    with resources.database.transaction() as session:
        before = _made_before(session, idempotency)
        if before is not None:
            return before, False
        now, quotas = resources.database.now(session), Quotas(resources)
        quotas.check(session, wish, now=now)
        job = create(session)
        job.request_id = tracing.current()
        if webhook is not None:
            webhooks.request(session, job, webhook, now=now)
        quotas.note(session, wish, now=now)
        return job, True


def _made_before(session: Session, idempotency: Idempotency | None) -> records.Job | None:
    """The job that this key with this request has made; None where it is new."""
    if idempotency is None:
        return None
    before = session.scalar(select(records.Job).where(records.Job.idempotency_key == idempotency.key))
    if before is not None and before.idempotency_hash != idempotency.digest:
        raise KeyReused(
            f"this Idempotency-Key came with another request before, which made {before.id}",
            parameter="Idempotency-Key",
            remedy="use a new key for a new request",
        )
    return before


def accept_upload(resources: Resources, blob: str, submit: Callable[[], tuple[records.Job, bool]]) -> Response:
    """Return the 202 of a job that takes over an upload, which is deleted where no new job does.

    Args:
        resources: with the upload.
        blob: its key.
        submit: makes the job, or finds the one that was made before; raises to refuse.
    """
    is_new = False
    try:
        job, is_new = submit()
    finally:
        if not is_new:  # refused, or a repetition of a request that brought the same bytes before
            resources.blobs.delete(blob)
    return accepted(Job.of(job))


def accepted(job: Job) -> Response:
    """Return the 202 that says where the job is."""
    return Response(
        job.model_dump_json(), 202, media_type="application/json", headers={"Location": f"/v1/jobs/{job.id}"}
    )
