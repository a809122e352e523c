"""Webhooks as rows: due when their job has ended, tried by one at a time, for a bounded time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from store import jobs, webhooks
from store.database import Database
from store.records import Job, JobKind, Webhook, WebhookStatus
from store.webhooks import CLAIM_S, PAUSES_S, Delivery

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
URL = "https://example.org/hook"


@pytest.fixture
def job_id(database: Database) -> str:
    """A queued job with a webhook."""
    with database.transaction() as session:
        job = jobs.submit(session, JobKind.EXPORT, {"format": "onnx"}, now=NOW, model_id="mdl_1", total=1, unit="files")
        webhooks.request(session, job, URL, now=NOW)
    return job.id


def end(database: Database, job_id: str) -> None:
    with database.transaction() as session:
        jobs.request_cancel(session, job_id, now=NOW)


def claim(database: Database, *, after_s: float = 0.0, limit: int = 9) -> list[Delivery]:
    now = NOW + timedelta(seconds=after_s)
    with database.transaction() as session:
        claimed = webhooks.claim(session, now=now, limit=limit)
    with database.snapshot() as session:
        assert not webhooks.is_any_due(session, now=now) or len(claimed) == limit
    return claimed


def row(database: Database) -> Webhook:
    with database.snapshot() as session:
        return session.query(Webhook).one()


def test_it_is_due_once_the_job_has_ended(database: Database, job_id: str) -> None:
    assert claim(database) == []

    end(database, job_id)
    with database.snapshot() as session:
        assert webhooks.is_any_due(session, now=NOW)
    [delivery] = claim(database)

    assert (delivery.url, delivery.job_id, delivery.attempt) == (URL, job_id, 1)
    body = json.loads(delivery.body)
    assert (body["type"], body["timestamp"]) == ("job.canceled", "2026-01-05T12:00:00Z")
    assert (body["data"]["id"], body["data"]["status"], body["data"]["request"]) == (
        job_id,
        "canceled",
        {"format": "onnx"},
    )


def test_who_claims_it_has_it_alone_until_the_claim_runs_out(database: Database, job_id: str) -> None:
    end(database, job_id)
    [first] = claim(database)
    assert claim(database, after_s=CLAIM_S - 1) == []

    [second] = claim(database, after_s=CLAIM_S + 1)  # as after the death of a worker

    assert (second.webhook_id, second.attempt, second.body) == (first.webhook_id, 2, first.body)
    with database.transaction() as session:
        assert webhooks.settle(session, first, now=NOW, error=None) is None  # the late one says nothing any more
        settled = webhooks.settle(session, second, now=NOW, error=None)
        assert settled is not None
    assert (row(database).status, row(database).ended_at) == (WebhookStatus.DELIVERED, NOW)
    assert claim(database, after_s=10 * CLAIM_S) == []


def test_attempts_that_fail_are_repeated_later_and_later_and_then_no_more(database: Database, job_id: str) -> None:
    end(database, job_id)
    at_s, waits = 0.0, []
    for attempt in range(1, len(PAUSES_S) + 2):
        [delivery] = claim(database, after_s=at_s)
        assert delivery.attempt == attempt
        now = NOW + timedelta(seconds=at_s)
        with database.transaction() as session:
            settled = webhooks.settle(session, delivery, now=now, error="the answer was 500")
            assert settled is not None
        waits.append((settled.next_at - now).total_seconds())
        at_s += waits[-1]

    for pause_s, wait_s in zip(PAUSES_S, waits[:-1], strict=True):
        assert pause_s <= wait_s <= 1.2 * pause_s
    assert (row(database).status, row(database).error) == (WebhookStatus.FAILED, "the answer was 500")
    assert claim(database, after_s=at_s + 1e6) == []


def test_a_receiver_that_is_gone_is_asked_no_more(database: Database, job_id: str) -> None:
    end(database, job_id)
    [delivery] = claim(database)
    with database.transaction() as session:
        webhooks.settle(session, delivery, now=NOW, error="the answer was 410", final=True)
    assert row(database).status is WebhookStatus.FAILED


def test_two_workers_do_not_take_the_same(database: Database) -> None:
    for _ in range(4):
        with database.transaction() as session:
            job = jobs.submit(session, JobKind.EXPORT, {}, now=NOW)
            webhooks.request(session, job, URL, now=NOW)
            jobs.request_cancel(session, job.id, now=NOW)
    taken = [delivery.webhook_id for _ in range(2) for delivery in claim(database, limit=2)]
    assert len(set(taken)) == 4


def test_it_goes_when_its_job_goes(database: Database, job_id: str) -> None:
    end(database, job_id)
    [delivery] = claim(database)
    with database.transaction() as session:
        session.delete(session.get_one(Job, job_id))
    with database.transaction() as session:
        assert webhooks.settle(session, delivery, now=NOW, error=None) is None
