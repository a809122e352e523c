from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from models.errors import NoUsableImages, RankLost
from store import jobs
from store.errors import LeaseLost
from store.queue import Lane
from store.records import JobKind, JobStatus
from tests.worker.conftest import Desk
from worker.running import Finish, Run, Station, run_queued


def finish_with(result: Mapping[str, Any]) -> Finish:
    def finish(_session: Session) -> Mapping[str, Any]:
        return result

    return finish


def test_a_queued_job_is_claimed_worked_on_and_ends_with_its_result(station: Station, desk: Desk) -> None:
    job_id = desk.import_job(b"")
    run_queued(station, Lane.IO, lambda run: finish_with({"answer": 42}))
    job = desk.job(job_id)
    assert (job.status, job.result, job.owner) == (JobStatus.SUCCEEDED, {"answer": 42}, None)
    assert desk.events(job_id)[0] == "status"
    assert desk.events(job_id)[-1] == "done"


def test_all_queued_jobs_of_the_lane_are_run_in_order_by_one_bell(station: Station, desk: Desk) -> None:
    seen: list[str] = []

    def work(run: Run) -> Finish:
        seen.append(run.claim.job_id)
        return finish_with({})

    desk.dataset()
    desk.model()
    sample = desk.sample_job(1)
    with station.resources.database.transaction() as session:
        now = station.resources.database.now(session)
        expected = [
            jobs.submit(session, JobKind.TRAIN, {}, now=now + timedelta(seconds=n), model_id=f"mdl_{n}").id
            for n in range(3)
        ]
    run_queued(station, Lane.TRAIN, work)
    assert seen == expected
    assert desk.job(sample).status is JobStatus.QUEUED


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (NoUsableImages("nothing"), "no_usable_images", False),
        (RankLost(1, "cuda:1", "died (signal 9)"), "rank_lost", True),
        (MemoryError("too much"), "out_of_memory", True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "out_of_memory", True),
        (ZeroDivisionError("oh"), "internal", True),
    ],
)
def test_work_that_raises_ends_in_a_failed_row_that_says_why(
    station: Station, desk: Desk, error: Exception, code: str, *, retryable: bool
) -> None:
    def work(run: Run) -> Finish:
        raise error

    job_id = desk.import_job(b"")
    ended: list[str] = []
    run_queued(station, Lane.IO, work, lambda run: ended.append(run.claim.job_id))
    job = desk.job(job_id)
    assert (job.status, job.error_code, job.error_retryable) == (JobStatus.FAILED, code, retryable)
    assert str(error) in (job.error_message or "")
    assert ended == [job_id]


def test_a_cancellation_reaches_the_work_and_the_job_ends_canceled(station: Station, desk: Desk) -> None:
    def work(run: Run) -> Finish:
        with run.resources.database.transaction() as session:
            jobs.request_cancel(session, run.claim.job_id, now=run.resources.database.now(session))
        waiting = threading.Event()
        while not run.should_stop():
            waiting.wait(0.01)
        run.raise_if_stopped()
        raise AssertionError("should have stopped")

    job_id = desk.import_job(b"")
    run_queued(station, Lane.IO, work)
    assert desk.job(job_id).status is JobStatus.CANCELED


def test_a_draining_worker_hands_its_job_back_without_an_attempt_and_takes_no_other(
    station: Station, desk: Desk
) -> None:
    def work(run: Run) -> Finish:
        station.draining.set()
        assert run.should_stop()
        run.raise_if_stopped()
        raise AssertionError("should have stopped")

    job_id = desk.import_job(b"")
    run_queued(station, Lane.IO, work)
    job = desk.job(job_id)
    assert (job.status, job.attempts, job.owner) == (JobStatus.QUEUED, 0, None)
    assert station.resources.queue.waiting(Lane.IO) == 1


def test_the_late_work_of_a_worker_that_lost_its_lease_is_dropped(station: Station, desk: Desk) -> None:
    def work(run: Run) -> Finish:
        with run.resources.database.transaction() as session:
            jobs.recover(session, now=run.resources.database.now(session) + timedelta(minutes=5), max_attempts=3)
        desk.claim(JobKind.IMPORT, owner="worker-2@there")
        return finish_with({"by": "worker-1"})

    job_id = desk.import_job(b"")
    run_queued(station, Lane.IO, work)
    job = desk.job(job_id)
    assert (job.status, job.owner, job.result) == (JobStatus.RUNNING, "worker-2@there", None)


def test_progress_is_written_at_most_once_a_second(station: Station, desk: Desk) -> None:
    def work(run: Run) -> Finish:
        for done in range(1, 50):
            run.report(done=done, total=100, rate=5.0, eta_s=10.0)
        return finish_with({})

    job_id = desk.import_job(b"")
    run_queued(station, Lane.IO, work)
    assert desk.events(job_id) == ["status", "progress", "progress", "done"]  # the last comes with the end


def test_a_heartbeat_notices_that_another_worker_took_the_job(station: Station, desk: Desk) -> None:
    desk.import_job(b"")
    claim = desk.claim(JobKind.IMPORT)
    run = Run(station, claim)
    station.heartbeat.hold(claim)
    with station.resources.database.transaction() as session:
        jobs.release(session, claim)
    waiting = threading.Event()
    while not run.should_stop():
        waiting.wait(0.01)
    with pytest.raises(LeaseLost):
        run.raise_if_stopped()
