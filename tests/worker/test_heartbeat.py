from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from store import jobs
from store.database import Database
from store.records import Job, JobKind
from store.resources import Resources
from tests.worker.conftest import Desk
from worker.heartbeat import Heartbeat


@pytest.fixture
def quick(resources: Resources) -> Resources:
    """The same resources with a heartbeat of half a second."""
    settings = resources.settings.model_copy(update={"heartbeat_s": 0.4, "lease_s": 60.0})
    return Resources(settings, resources.database, resources.blobs, resources.bus, resources.queue)


@pytest.fixture
def pause() -> threading.Event:
    return threading.Event()


def test_the_lease_of_a_held_claim_is_renewed_and_a_dropped_one_is_not(
    quick: Resources, desk: Desk, pause: threading.Event
) -> None:
    job_id = desk.import_job(b"")
    claim = desk.claim(JobKind.IMPORT, lease_s=5.0)
    short = desk.job(job_id).lease_until
    assert short is not None
    with Heartbeat(quick) as heartbeat:
        heartbeat.hold(claim)
        while desk.job(job_id).lease_until == short:
            pause.wait(0.02)
        renewed = desk.job(job_id).lease_until
        assert renewed is not None
        assert renewed > short + timedelta(seconds=30)
        heartbeat.drop(claim)
        assert heartbeat.held() == []


def test_a_database_that_is_away_for_a_while_does_not_end_the_heartbeat(
    quick: Resources, desk: Desk, pause: threading.Event, tmp_path: Path
) -> None:
    job_id = desk.import_job(b"")
    claim = desk.claim(JobKind.IMPORT, lease_s=5.0)
    away = Database(f"sqlite:///{tmp_path / 'nowhere' / 'else.db'}")
    broken = Resources(quick.settings, away, quick.blobs, quick.bus, quick.queue)
    heartbeat = Heartbeat(broken)
    with heartbeat:
        heartbeat.hold(claim)
        pause.wait(0.8)  # longer than one look, which must fail
        (tmp_path / "nowhere").mkdir()
        database = quick.database
        object.__setattr__(broken, "database", database)
        with database.transaction() as session:
            jobs.request_cancel(session, job_id, now=database.now(session))
        while not heartbeat.is_canceled(claim):
            pause.wait(0.02)


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_a_new_claim_on_the_same_job_is_not_taken_for_the_old_one(quick: Resources, desk: Desk) -> None:
    job_id = desk.import_job(b"")
    old = desk.claim(JobKind.IMPORT)
    with quick.database.transaction() as session:
        jobs.release(session, old)
    new = desk.claim(JobKind.IMPORT)
    with quick.database.snapshot() as session:
        assert jobs.cancel_flags(session, [old]) == {}
        assert jobs.cancel_flags(session, [new]) == {job_id: False}
        assert session.get_one(Job, job_id).fence == new.fence
