from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text

from store.errors import DatabaseUnavailable
from store.queue import Lane, MemoryQueue
from store.records import Dataset, DatasetStatus, Job, JobKind, JobStatus
from store.resources import Resources
from store.settings import Settings
from tests.worker.conftest import Desk
from worker.heartbeat import Heartbeat
from worker.reconcile import Reconciler, reconcile, tidy


def test_a_job_with_an_expired_lease_goes_back_into_the_line_and_its_bell_rings(desk: Desk) -> None:
    job_id = desk.import_job(b"")
    desk.claim(JobKind.IMPORT, lease_s=-1.0)
    reconcile(desk.resources)
    assert desk.job(job_id).status is JobStatus.QUEUED
    assert desk.resources.queue.waiting(Lane.IO) == 1
    assert desk.events(job_id) == ["status"]


def test_a_job_whose_lease_is_good_is_left_alone(desk: Desk) -> None:
    job_id = desk.import_job(b"")
    desk.claim(JobKind.IMPORT)
    reconcile(desk.resources)
    assert desk.job(job_id).status is JobStatus.RUNNING


def test_the_jobs_of_a_worker_known_to_be_dead_are_taken_at_once(desk: Desk) -> None:
    job_id = desk.import_job(b"")
    desk.claim(JobKind.IMPORT, owner="dead@here")
    reconcile(desk.resources, owner="dead@here")
    assert desk.job(job_id).status is JobStatus.QUEUED


def test_a_job_that_keeps_losing_its_worker_fails_with_the_reason(desk: Desk) -> None:
    job_id = desk.import_job(b"")
    for _ in range(desk.resources.settings.max_attempts):
        assert desk.job(job_id).status is JobStatus.QUEUED
        desk.claim(JobKind.IMPORT, lease_s=-1.0)
        reconcile(desk.resources)
    job = desk.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "worker_lost")
    assert desk.events(job_id)[-1] == "done"


def test_what_missed_its_deadline_is_canceled_whether_it_waits_or_its_worker_is_gone(desk: Desk) -> None:
    desk.model()
    past = datetime(2026, 1, 1, tzinfo=UTC)
    claimed = desk.sample_job(1, deadline_at=datetime.now(UTC) + timedelta(hours=1))
    desk.claim(JobKind.SAMPLE, lease_s=-1.0)
    with desk.resources.database.transaction() as session:
        session.get_one(Job, claimed).deadline_at = past
    queued = desk.sample_job(1, deadline_at=past)
    reconcile(desk.resources)
    for job_id in (claimed, queued):
        job = desk.job(job_id)
        assert (job.status, job.error_code) == (JobStatus.CANCELED, "deadline")
        assert desk.events(job_id) == ["done"]


def test_after_an_absence_of_the_database_leases_count_as_run_out_only_when_they_could_be_renewed(
    desk: Desk, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a lease that ran out while the database was away, when it is back, I expect its holder to be faster."""
    settings = resources.settings.model_copy(update={"heartbeat_s": 0.2, "lease_s": 60.0, "reconcile_s": 0.4})
    own = Resources(settings, resources.database, resources.blobs, resources.bus, resources.queue)
    job_id = desk.import_job(b"")
    claim = desk.claim(JobKind.IMPORT, lease_s=-1.0)
    rounds: list[str] = []
    tried = threading.Event()

    def reconciled(_: Resources) -> None:
        rounds.append("away" if not rounds else "back")
        if rounds == ["away"]:
            raise DatabaseUnavailable("it restarts")
        reconcile(own)
        tried.set()

    monkeypatch.setattr("worker.reconcile.reconcile", reconciled)
    reconciler = Reconciler(own)
    reconciler.start()
    with Heartbeat(own) as heartbeat:
        heartbeat.hold(claim)
        assert tried.wait(10)
    reconciler.stop()
    assert desk.job(job_id).owner == claim.owner


def test_what_a_later_release_put_into_the_table_is_left_alone(desk: Desk) -> None:
    job_id = desk.import_job(b"")
    desk.claim(JobKind.IMPORT, lease_s=-1.0)
    with desk.resources.database.transaction() as session:
        session.execute(
            text(
                "INSERT INTO jobs (id, kind, status, request, created_at, priority, turn_at, fence, attempts, "
                "cancel_requested, cursor, done, unit, lease_until, deadline_at) VALUES ('job_later', 'distill', 'running', "
                "'{}', '2026-01-01', 'batch', '2026-01-01', 1, 1, 0, 0, 0, 'images', '2026-01-01', '2026-01-01')"
            )
        )
    reconcile(desk.resources)
    assert desk.job(job_id).status is JobStatus.QUEUED


def test_forgotten_bells_are_rung_by_the_thread(desk: Desk, resources: Resources) -> None:
    class HeardQueue(MemoryQueue):
        heard = threading.Event()

        def ring(self, lane: Lane) -> None:
            super().ring(lane)
            self.heard.set()

    queue = HeardQueue()
    desk.import_job(b"")
    reconciler = Reconciler(Resources(resources.settings, resources.database, resources.blobs, resources.bus, queue))
    reconciler.start()
    assert queue.heard.wait(10)
    reconciler.stop()
    assert queue.waiting(Lane.IO) == 1


def test_what_is_older_than_the_settings_keep_it_goes_and_little_disk_is_warned_of(
    desk: Desk, resources: Resources, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with resources.database.transaction() as session:
        session.add(
            Dataset(id="ds_1", name="d", status=DatasetStatus.FAILED, created_at=datetime(2026, 1, 1, tzinfo=UTC))
        )
    monkeypatch.setattr(Settings, "free_bytes", lambda _: 5 * 2**20)
    caplog.set_level(logging.INFO)

    assert not tidy(resources)

    with resources.database.snapshot() as session:
        assert session.get(Dataset, "ds_1") is None
    assert "1 failed data sets" in caplog.text
    assert "only 5 MiB are left" in caplog.text


def test_the_next_round_comes_when_the_next_lease_runs_out_and_not_an_interval_later(desk: Desk) -> None:
    """Given rounds every 10 s, when a lease has 3 s left, I expect a round right after it, and else none sooner."""
    assert reconcile(desk.resources) == desk.resources.settings.reconcile_s == 10.0
    desk.import_job(b"")
    desk.claim(JobKind.IMPORT, lease_s=3.0)
    assert 2.0 < reconcile(desk.resources) <= 4.0
    with desk.resources.database.transaction() as session:
        for job in session.scalars(select(Job)):
            job.lease_until = datetime.now(UTC) + timedelta(seconds=30)
    assert reconcile(desk.resources) == 10.0


def test_the_row_of_a_poisonous_job_says_how_its_worker_died(desk: Desk) -> None:
    job_id = desk.import_job(b"")
    for _ in range(desk.resources.settings.max_attempts):
        desk.claim(JobKind.IMPORT, owner="dead@here")
        reconcile(desk.resources, owner="dead@here", how="signal SIGKILL")
    job = desk.job(job_id)
    assert (job.status, job.error_code, job.error_retryable) == (JobStatus.FAILED, "worker_lost", True)
    assert "3 times" in (job.error_message or "")
    assert "SIGKILL (what the kernel sends where memory is exhausted)" in (job.error_message or "")
