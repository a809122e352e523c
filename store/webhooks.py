"""Webhooks: the row that says who is to be told of a job's end, and how far that is.

The row is written with the job, so no step that ends a job needs to know of it: a webhook is due once its job has ended. A
claim is a time until which nobody else tries; who dies with one is followed by another after it. So each is delivered at
least once, and told apart by its id, which stays the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic_core import to_json
from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from store.documents import job_document
from store.identifiers import new_id
from store.records import Job, Webhook, WebhookStatus

CLAIM_S = 60.0  # longer than any attempt takes
# Pauses after the attempts that came to nothing, seconds: nine attempts within some nine hours.
PAUSES_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 18_000.0)


@dataclass(frozen=True)
class Delivery:
    """One attempt to tell of a job's end."""

    webhook_id: str
    job_id: str
    account: str  # whose job it is
    url: str
    attempt: int  # 1 for the first
    body: bytes


def request(session: Session, job: Job, url: str, *, now: datetime) -> Webhook:
    """Return the wish that `url` be told when the job has ended."""
    session.flush()  # the job's row comes first
    webhook = Webhook(id=new_id("whk"), job_id=job.id, url=url, created_at=now, next_at=now)
    session.add(webhook)
    return webhook


def is_any_due(session: Session, *, now: datetime) -> bool:
    """Whether somebody is to be told now; for looking without a lock."""
    return (
        session.execute(select(Webhook.id).join(Job, Job.id == Webhook.job_id).where(_due(now)).limit(1)).first()
        is not None
    )


def claim(session: Session, *, now: datetime, limit: int) -> list[Delivery]:
    """Return the next deliveries to attempt, at most `limit`; nobody else attempts them within CLAIM_S."""
    due = (
        select(Webhook, Job)
        .join(Job, Job.id == Webhook.job_id)
        .where(_due(now))
        .order_by(Webhook.next_at, Webhook.id)
        .limit(limit)
        .with_for_update(of=Webhook, skip_locked=True)
    )
    deliveries = []
    for webhook, job in session.execute(due):
        webhook.attempts += 1
        webhook.next_at = now + timedelta(seconds=CLAIM_S)
        deliveries.append(Delivery(webhook.id, job.id, job.account, webhook.url, webhook.attempts, body_of(job)))
    return deliveries


def settle(
    session: Session, delivery: Delivery, *, now: datetime, error: str | None, final: bool = False
) -> Webhook | None:
    """Write how an attempt went.

    Args:
        session: a writing transaction.
        delivery: the attempt.
        now: the database's time.
        error: why it came to nothing; None: it was taken.
        final: whether another attempt is useless.

    Returns:
        The row; None where another attempt has begun since, or it is gone with its job.
    """
    webhook = session.get(Webhook, delivery.webhook_id, with_for_update=True, populate_existing=True)
    if webhook is None or webhook.attempts != delivery.attempt or webhook.status is not WebhookStatus.PENDING:
        return None
    webhook.error = error[:500] if error is not None else None
    if error is None:
        webhook.status, webhook.ended_at = WebhookStatus.DELIVERED, now
    elif final or webhook.attempts > len(PAUSES_S):
        webhook.status, webhook.ended_at = WebhookStatus.FAILED, now
    else:
        pause_s = PAUSES_S[webhook.attempts - 1] * random.uniform(
            1.0, 1.2
        )  # those who failed together need not return so
        webhook.next_at = now + timedelta(seconds=pause_s)
    return webhook


def body_of(job: Job) -> bytes:
    """Return what is told of a job that has ended: JSON, the job as `GET /v1/jobs` lists it."""
    return to_json({"type": f"job.{job.status.value}", "timestamp": job.finished_at, "data": job_document(job)})


def _due(now: datetime) -> ColumnElement[bool]:
    return and_(Webhook.status == WebhookStatus.PENDING, Webhook.next_at <= now, Job.finished_at.is_not(None))
