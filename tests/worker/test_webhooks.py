"""Webhooks from the row to a real receiver: at least once, signed, and nowhere that is not public."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from store import jobs, webhooks
from store.records import JobKind, Webhook, WebhookStatus
from store.resources import Resources
from store.signatures import key_of, secret_of
from tests.worker.receiving import Receiver, receiving
from worker.posting import Resolve, resolve
from worker.webhooks import Messenger

SECRET = f"whsec_{base64.b64encode(b'0123456789abcdef0123456789abcdef').decode()}"
KEY = key_of(secret_of(SECRET, "shop"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.webhooks.LOOK_S", 0.01)
    monkeypatch.setattr("worker.webhooks.LEAST_IDLE", 0)
    monkeypatch.setattr("store.webhooks.PAUSES_S", (0.01,) * 8)


@contextmanager
def delivering(resources: Resources, resolve: Resolve = resolve, **settings: Any) -> Iterator[None]:
    changed = resources.settings.model_copy(update={"webhook_secret": SECRET, **settings})
    messenger = Messenger(replace(resources, settings=changed), resolve=resolve)
    messenger.start()
    yield
    messenger.stop()


def ended_job(resources: Resources, url: str) -> str:
    with resources.database.transaction() as session:
        now = resources.database.now(session)
        job = jobs.submit(session, JobKind.EXPORT, {"format": "onnx"}, now=now, account="shop")
        webhooks.request(session, job, url, now=now)
        jobs.request_cancel(session, job.id, now=now)
    return job.id


def settled(resources: Resources, job_id: str) -> Webhook:
    """The job's webhook once no attempt is to come."""
    deadline = time.monotonic() + 10
    while True:
        with resources.database.snapshot() as session:
            row = session.query(Webhook).where(Webhook.job_id == job_id).one()
        if row.status is not WebhookStatus.PENDING:
            return row
        assert time.monotonic() < deadline, row.error
        threading.Event().wait(0.01)


def test_the_receiver_gets_the_job_and_can_tell_who_sent_it(resources: Resources, receiver: Receiver) -> None:
    job_id = ended_job(resources, receiver.url)
    with delivering(resources, webhook_allowed=["127.0.0.1"], webhook_ports=[receiver.port]):
        row = settled(resources, job_id)

    assert (row.status, row.attempts, row.error) == (WebhookStatus.DELIVERED, 1, None)
    [got] = receiver.received
    body = json.loads(got.body)
    assert (body["type"], body["data"]["id"]) == ("job.canceled", job_id)
    timestamp = got.headers["Webhook-Timestamp"]
    assert abs(int(timestamp) - datetime.now(UTC).timestamp()) < 60
    expected = hmac.new(KEY, f"{row.id}.{timestamp}.".encode() + got.body, hashlib.sha256).digest()
    assert got.headers["Webhook-Id"] == row.id
    assert got.headers["Webhook-Signature"] == f"v1,{base64.b64encode(expected).decode()}"
    assert got.headers["Content-Type"] == "application/json"


def test_a_receiver_that_fails_gets_it_again_under_the_same_id(resources: Resources, receiver: Receiver) -> None:
    receiver.answer = lambda number: (503 if number < 3 else 200, {})
    job_id = ended_job(resources, receiver.url)
    with delivering(resources, webhook_allowed=["127.0.0.1"], webhook_ports=[receiver.port]):
        row = settled(resources, job_id)

    assert (row.status, row.attempts) == (WebhookStatus.DELIVERED, 3)
    assert {got.headers["Webhook-Id"] for got in receiver.received} == {row.id}
    assert len({got.body for got in receiver.received}) == 1


@pytest.mark.parametrize(("status", "attempts"), [(410, 1), (302, 9), (404, 9)])
def test_what_no_receiver_takes_is_given_up(
    resources: Resources, receiver: Receiver, status: int, attempts: int
) -> None:
    receiver.answer = lambda _: (status, {"Location": receiver.url})
    job_id = ended_job(resources, receiver.url)
    with delivering(resources, webhook_allowed=["127.0.0.1"], webhook_ports=[receiver.port]):
        row = settled(resources, job_id)

    assert (row.status, row.attempts, row.error) == (WebhookStatus.FAILED, attempts, f"the answer was {status}")
    assert len(receiver.received) == attempts


def test_a_name_that_turns_private_after_its_first_answer_reaches_nothing(
    resources: Resources, receiver: Receiver
) -> None:
    """DNS rebinding: public when it is looked at first, private when it is connected to again."""
    asked = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["198.51.100.1" if len(asked) == 1 else "127.0.0.1"]

    job_id = ended_job(resources, f"http://rebinding.example:{receiver.port}/")
    # The first answer counts as public here, and nobody listens there: 198.51.100.0/24 is for documentation.
    with delivering(resources, rebinding, webhook_allowed=["198.51.100.0/24"], webhook_ports=[receiver.port]):
        row = settled(resources, job_id)

    assert len(asked) == row.attempts == 9
    assert row.error == "not sent: rebinding.example has an address that is not public"
    assert "127.0.0.1" not in row.error
    assert receiver.received == []


def test_one_that_hangs_holds_up_no_other(resources: Resources, receiver: Receiver) -> None:
    release = threading.Event()

    def answer(number: int) -> tuple[int, dict[str, str]]:
        if receiver.received[number - 1].path == "/slow":
            release.wait(10)
        return 200, {}

    receiver.answer = answer
    slow = ended_job(resources, f"http://127.0.0.1:{receiver.port}/slow")
    with delivering(resources, webhook_allowed=["127.0.0.1"], webhook_ports=[receiver.port]):
        assert settled(resources, ended_job(resources, receiver.url)).status is WebhookStatus.DELIVERED
        release.set()
        assert settled(resources, slow).status is WebhookStatus.DELIVERED


def test_what_was_under_way_at_a_stop_is_delivered_after_the_next_start(
    resources: Resources, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.webhooks.CLAIM_S", 0.2)
    release, began = threading.Event(), threading.Event()

    def answer(number: int) -> tuple[int, dict[str, str]]:
        began.set()
        if number == 1:
            release.wait(10)
        return 200, {}

    receiver.answer = answer
    job_id = ended_job(resources, receiver.url)
    with delivering(resources, webhook_allowed=["127.0.0.1"], webhook_ports=[receiver.port]):
        assert began.wait(10)  # and the messenger is stopped with the answer outstanding
    release.set()
    with delivering(resources, webhook_allowed=["127.0.0.1"], webhook_ports=[receiver.port]):
        row = settled(resources, job_id)

    assert (row.status, row.attempts) == (WebhookStatus.DELIVERED, 2)
    assert len({got.headers["Webhook-Id"] for got in receiver.received}) == 1


def test_the_io_worker_delivers(resources: Resources, receiver: Receiver, redis_url: str) -> None:
    """The process as it is started, with what it reads from its environment."""
    job_id = ended_job(resources, receiver.url)
    env = {
        **os.environ,
        "DARKROOM_DATA_DIR": str(resources.settings.data_dir),
        "DARKROOM_REDIS_URL": redis_url,
        "DARKROOM_WEBHOOK_SECRET": SECRET,
        "DARKROOM_WEBHOOK_ALLOWED": "127.0.0.1",
        "DARKROOM_WEBHOOK_PORTS": str(receiver.port),
    }
    command = [sys.executable, "-m", "worker.main", "--lane", "io", "--name", "io-0@here"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert receiver.heard.acquire(timeout=30)
            assert settled(resources, job_id).status is WebhookStatus.DELIVERED
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert SECRET not in log
