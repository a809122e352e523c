"""Claims, leases, fences and attempts: one owner at a time, and nothing written by a worker that is late."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime

import pytest
from sqlalchemy.orm import Session

from store import jobs
from store.database import Database
from store.errors import LeaseLost
from store.jobs import Claim
from store.queue import Lane
from store.records import Job, JobKind, JobPriority, JobStatus
from tests.store.desk import (
    LEASE_S,
    NOW,
    STEPS,
    claim,
    claimed,
    columns_of,
    later,
    look,
    recover,
    submit,
    write,
)


def test_a_claim_says_all_that_the_worker_needs(database: Database) -> None:
    job_id = submit(database, JobKind.TRAIN, dataset_id="ds_1", model_id="mdl_1", checkpoint="models/x")

    [one] = claim(database)

    assert one == Claim(job_id, JobKind.TRAIN, "w1", 1, 1, {"seed": 1}, 0, "ds_1", "mdl_1", "models/x")
    job = look(database, job_id)
    assert (job.owner, job.fence, job.attempts, job.lease_until, job.started_at) == ("w1", 1, 1, later(30), NOW)


def test_the_line_goes_by_the_time_of_each_turn_and_a_batch_job_yields_for_a_while(database: Database) -> None:
    batch = submit(database, priority=JobPriority.BATCH)
    first = submit(database, now=later(1))
    second = submit(database, now=later(jobs.BATCH_YIELDS_S - 1))
    last = submit(database, now=later(jobs.BATCH_YIELDS_S + 1))

    assert [one.job_id for one in claim(database, limit=2)] == [first, second]
    assert [one.job_id for one in claim(database, limit=2)] == [batch, last]
    assert claim(database) == []


def test_a_claim_knows_how_long_its_job_has_waited(database: Database) -> None:
    submit(database)
    assert claim(database, now=later(2.5))[0].waited_s == 2.5


def test_a_job_whose_deadline_has_passed_is_never_claimed(database: Database) -> None:
    submit(database, deadline_at=later(5))
    in_time = submit(database, deadline_at=later(6))

    assert [one.job_id for one in claim(database, now=later(5), limit=2)] == [in_time]


def test_a_queued_job_whose_deadline_has_passed_is_canceled_and_says_why(database: Database) -> None:
    late, in_time, whenever = (
        submit(database, deadline_at=later(5)),
        submit(database, deadline_at=later(9)),
        submit(database),
    )

    assert [job.id for job in end_late(database, later(5))] == [late]

    job = look(database, late)
    assert (job.status, job.error_code, job.error_retryable) == (JobStatus.CANCELED, "deadline", True)
    assert "2026-03-01T12:00:05Z" in (job.error_message or "")
    assert (job.finished_at, job.result, job.attempts) == (later(5), {"images": 0}, 0)
    assert {look(database, job_id).status for job_id in (in_time, whenever)} == {JobStatus.QUEUED}
    assert end_late(database, later(5)) == []


def test_a_running_job_whose_deadline_has_passed_is_asked_to_stop_and_says_why_in_the_end(database: Database) -> None:
    one = claimed(database, deadline_at=later(5))

    assert [job.status for job in end_late(database, later(5))] == [JobStatus.RUNNING]

    write(database, lambda session: jobs.stop(session, one, now=later(6)))
    job = look(database, one.job_id)
    assert (job.status, job.error_code) == (JobStatus.CANCELED, "deadline")


def test_a_running_job_that_is_done_before_it_sees_that_it_is_late_succeeds_without_an_error(
    database: Database,
) -> None:
    one = claimed(database, deadline_at=later(5))
    end_late(database, later(5))

    write(database, lambda session: jobs.succeed(session, one, now=later(6), result={}))

    job = look(database, one.job_id)
    assert (job.status, job.error_code) == (JobStatus.SUCCEEDED, None)


def end_late(database: Database, now: datetime) -> list[Job]:
    with database.transaction() as session:
        return jobs.end_late(session, now=now)


def test_only_the_kinds_asked_for_are_claimed(database: Database) -> None:
    train = submit(database, JobKind.TRAIN)
    submit(database, JobKind.SAMPLE)

    assert [one.job_id for one in claim(database, *Lane.TRAIN.kinds, limit=5)] == [train]
    assert claim(database, *Lane.IO.kinds) == []


def test_a_claim_that_is_rolled_back_was_never_made(database: Database) -> None:
    job_id = submit(database)

    def give_up(session: Session) -> None:
        jobs.claim(session, list(JobKind), owner="w1", now=NOW, lease_s=LEASE_S)
        raise KeyError

    with pytest.raises(KeyError):
        write(database, give_up)

    assert look(database, job_id).status is JobStatus.QUEUED
    assert look(database, job_id).fence == 0


def test_threads_that_claim_at_once_never_get_the_same_job(database: Database) -> None:
    submitted = {submit(database) for _ in range(24)}
    won: list[str] = []
    start = threading.Barrier(6)

    def work(owner: str) -> None:
        start.wait()
        while got := claim(database, owner=owner, limit=2):
            won.extend(one.job_id for one in got)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(won) == sorted(submitted)


@pytest.mark.slow
def test_processes_that_claim_at_once_never_get_the_same_job(database: Database, database_url: str) -> None:
    submitted = {submit(database) for _ in range(24)}
    child = """
import sys
from store import jobs
from store.database import Database
from store.records import JobKind
database = Database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
while True:
    with database.transaction() as session:
        got = jobs.claim(session, list(JobKind), owner=sys.argv[2], now=database.now(session), lease_s=30)
    if not got:
        break
    print(got[0].job_id)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", child, database_url, f"w{k}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [job_id for process in processes for job_id in process.communicate(timeout=30)[0].split()]

    assert sorted(won) == sorted(submitted)


def test_a_worker_does_not_wait_for_another_s_claim(postgres_url: str) -> None:
    database = Database(postgres_url)
    first, second = submit(database), submit(database, now=later(1))

    with database.transaction() as session:
        [one] = jobs.claim(session, list(JobKind), owner="w1", now=NOW, lease_s=LEASE_S)
        [other] = claim(database, owner="w2")

    assert (one.job_id, other.job_id) == (first, second)
    database.close()


def test_a_claim_sees_the_row_as_it_is_not_as_the_session_remembers_it(postgres_url: str) -> None:
    """Given a session that read a queued job, which was then claimed and released, I expect a claim with fence 2."""
    database = Database(postgres_url)
    job_id = submit(database)

    with database.transaction() as session:
        remembered = session.get_one(Job, job_id)
        [other] = claim(database, owner="w2")
        write(database, lambda inner: jobs.release(inner, other))
        [one] = jobs.claim(session, list(JobKind), owner="w1", now=NOW, lease_s=LEASE_S)
        assert remembered.id == job_id

    assert (one.fence, look(database, job_id).fence) == (2, 2)
    database.close()


# Leases and fences

WRITES: dict[str, Callable[[Session, Claim], object]] = {
    "hold": jobs.hold,
    "report": lambda session, claim: jobs.report(session, claim, done=3),
    "advance": lambda session, claim: jobs.advance(session, claim, 4),
    **{step: STEPS[step] for step in ("succeed", "fail", "stop", "release")},
}


@pytest.mark.parametrize("name", WRITES)
def test_a_worker_whose_job_is_another_s_by_now_writes_nothing(name: str, database: Database) -> None:
    late = claimed(database)
    recover(database, now=later(31))
    [new] = claim(database, owner="w2", now=later(31))
    before = columns_of(look(database, late.job_id))

    with pytest.raises(LeaseLost, match=r"its fence was 1, is 2"):
        write(database, lambda session: WRITES[name](session, late))

    assert columns_of(look(database, late.job_id)) == before
    write(database, lambda session: WRITES[name](session, new))


@pytest.mark.parametrize("name", WRITES)
def test_a_worker_whose_job_went_back_into_the_line_writes_nothing(name: str, database: Database) -> None:
    late = claimed(database)
    recover(database, now=later(31))

    with pytest.raises(LeaseLost):
        write(database, lambda session: WRITES[name](session, late))

    assert look(database, late.job_id).status is JobStatus.QUEUED


def test_the_same_worker_with_an_old_claim_is_late_too(database: Database) -> None:
    old = claimed(database)
    recover(database, now=later(31))
    [new] = claim(database, now=later(31))

    with pytest.raises(LeaseLost):
        write(database, lambda session: jobs.advance(session, old, 4))

    assert new.owner == old.owner


def test_a_job_that_is_gone_is_a_lost_lease(database: Database) -> None:
    one = claimed(database)
    write(database, lambda session: session.delete(session.get_one(Job, one.job_id)))

    with pytest.raises(LeaseLost, match="gone"):
        write(database, lambda session: jobs.hold(session, one))


def test_a_lease_that_ran_out_but_was_not_taken_is_still_good(database: Database) -> None:
    one = claimed(database)

    write(database, lambda session: jobs.succeed(session, one, now=later(300), result={}))

    assert look(database, one.job_id).status is JobStatus.SUCCEEDED


def test_only_leases_that_ran_out_are_recovered(database: Database) -> None:
    one = claimed(database)

    assert recover(database, now=later(30)) == []
    assert recover(database, now=later(30.001)) == [one.job_id]
    job = look(database, one.job_id)
    assert (job.status, job.owner, job.lease_until, job.attempts) == (JobStatus.QUEUED, None, None, 1)


def test_a_renewed_lease_is_not_recovered(database: Database) -> None:
    one = claimed(database)

    with database.transaction() as session:
        assert jobs.renew(session, [one], now=later(20), lease_s=LEASE_S) == {one.job_id: False}

    assert recover(database, now=later(49)) == []
    assert recover(database, now=later(51)) == [one.job_id]


def test_renewing_tells_lost_ones_from_canceled_ones_and_is_the_same_as_looking(database: Database) -> None:
    lost, canceled, fine = claimed(database), claimed(database), claimed(database)
    write(database, lambda session: jobs.release(session, lost))
    write(database, lambda session: jobs.request_cancel(session, canceled.job_id, now=NOW))
    expected = {canceled.job_id: True, fine.job_id: False}

    with database.transaction() as session:
        assert jobs.cancel_flags(session, [lost, canceled, fine]) == expected
        assert jobs.renew(session, [lost, canceled, fine], now=NOW, lease_s=LEASE_S) == expected
    assert look(database, lost.job_id).lease_until is None


def test_a_dead_worker_s_jobs_are_taken_at_once_and_nobody_else_s(database: Database) -> None:
    mine = claimed(database)
    submit(database)
    [other] = claim(database, owner="w2")

    assert recover(database, owner="w1") == [mine.job_id]
    assert look(database, other.job_id).owner == "w2"


def test_a_dead_worker_s_job_is_taken_even_while_its_last_lock_is_being_undone(postgres_url: str) -> None:
    """Given a killed worker's transaction that the server has not undone yet, I expect recovery to wait for it."""
    database = Database(postgres_url)
    one = claimed(database)
    recovered: list[str] = []
    with database.transaction() as session:
        jobs.hold(session, one)
        rescue = threading.Thread(target=lambda: recovered.extend(recover(database, owner="w1")))
        rescue.start()
        rescue.join(0.2)
        assert rescue.is_alive()
        session.rollback()
    rescue.join(10)

    assert recovered == [one.job_id]
    database.close()


def test_holding_looks_at_the_row_as_it_is_not_as_the_session_remembers_it(postgres_url: str) -> None:
    database = Database(postgres_url)
    one = claimed(database)

    with database.transaction() as session:
        remembered = session.get_one(Job, one.job_id)
        write(database, lambda inner: jobs.release(inner, one))
        claim(database, owner="w2")
        with pytest.raises(LeaseLost):
            jobs.hold(session, one)
        assert remembered.owner == "w2"

    database.close()


# Attempts


def test_a_job_that_loses_its_worker_again_and_again_fails_with_advice(database: Database) -> None:
    job_id = submit(database)
    for _ in range(3):
        [one] = claim(database)
        recover(database, now=later(31), max_attempts=3)

    job = look(database, job_id)
    assert one.attempt == 3
    assert (job.status, job.error_code, job.error_retryable) == (JobStatus.FAILED, "worker_lost", True)
    assert job.error_message is not None
    assert "died 3 times" in job.error_message
    assert claim(database) == []


def test_progress_starts_the_attempts_anew(database: Database) -> None:
    job_id = submit(database)
    for attempt in range(6):
        [one] = claim(database)
        write(database, lambda session, one=one, cursor=attempt + 1: jobs.advance(session, one, cursor))  # type: ignore[misc]  # bound early
        assert recover(database, now=later(31), max_attempts=3) == [job_id]

    assert look(database, job_id).status is JobStatus.QUEUED
    assert claim(database)[0].cursor == 6


def test_going_over_old_ground_is_no_progress(database: Database) -> None:
    one = claimed(database)
    write(database, lambda session: jobs.advance(session, one, 4))
    recover(database, now=later(31))
    [again] = claim(database)

    write(database, lambda session: jobs.advance(session, again, 4))
    write(database, lambda session: jobs.advance(session, again, 3))

    job = look(database, one.job_id)
    assert (job.cursor, job.attempts) == (4, 2)


def test_handing_back_costs_no_attempt(database: Database) -> None:
    job_id = submit(database)
    for _ in range(5):
        [one] = claim(database)
        assert one.attempt == 1
        write(database, lambda session, one=one: jobs.release(session, one))  # type: ignore[misc]  # bound early

    assert look(database, job_id).attempts == 0
