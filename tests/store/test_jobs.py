"""Jobs: every step of the table and no other, one owner at a time, and nothing written by a worker that is late."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from store import jobs
from store.database import Database
from store.errors import InvalidTransition, JobNotFound, LeaseLost
from store.jobs import TRANSITIONS, Claim
from store.queue import LANE_OF, Lane
from store.records import Dataset, DatasetStatus, Job, JobKind, JobStatus, Model, ModelStatus

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LEASE_S = 30.0
DOCUMENT = Path(__file__).parents[2] / "docs" / "jobs.md"


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def submit(database: Database, kind: JobKind = JobKind.SAMPLE, **columns: Any) -> str:
    with database.transaction() as session:
        return jobs.submit(session, kind, {"seed": 1}, **{"now": NOW, "total": 8, **columns}).id


def claim(database: Database, *kinds: JobKind, owner: str = "w1", now: datetime = NOW, limit: int = 1) -> list[Claim]:
    with database.transaction() as session:
        return jobs.claim(session, kinds or list(JobKind), owner=owner, now=now, lease_s=LEASE_S, limit=limit)


def claimed(database: Database, kind: JobKind = JobKind.SAMPLE, **columns: Any) -> Claim:
    submit(database, kind, **columns)
    [one] = claim(database, kind)
    return one


def recover(database: Database, *, now: datetime = NOW, max_attempts: int = 3, owner: str | None = None) -> list[str]:
    with database.transaction() as session:
        return [job.id for job in jobs.recover(session, now=now, max_attempts=max_attempts, owner=owner)]


def look(database: Database, job_id: str) -> Job:
    with database.snapshot() as session:
        return session.get_one(Job, job_id)


def write(database: Database, change: Callable[[Session], object]) -> None:
    with database.transaction() as session:
        change(session)


# Each step as its caller takes it.
STEPS: dict[str, Callable[[Session, Claim], object]] = {
    "claim": lambda session, claim: jobs.take(session.get_one(Job, claim.job_id), owner="w2", now=NOW, lease_s=LEASE_S),
    "cancel": lambda session, claim: jobs.request_cancel(session, claim.job_id, now=NOW),
    "succeed": lambda session, claim: jobs.succeed(session, claim, now=NOW, result={"images": 8}),
    "fail": lambda session, claim: jobs.fail(session, claim, now=NOW, code="x", message="y", retryable=False),
    "stop": lambda session, claim: jobs.stop(session, claim, now=NOW),
    "release": lambda session, claim: jobs.release(session, claim),
}


def brought_to(database: Database, status: JobStatus, kind: JobKind = JobKind.SAMPLE, **columns: Any) -> Claim:
    """A job in that state, by a legal way, and the claim on it."""
    one = claimed(database, kind, **columns)
    way = {"queued": "release", "running": None, "succeeded": "succeed", "failed": "fail", "canceled": "stop"}[status]
    if way is not None:
        write(database, lambda session: STEPS[way](session, one))
    assert look(database, one.job_id).status is status
    return one


# The table


@pytest.mark.parametrize("step", TRANSITIONS)
def test_every_step_of_the_table_leads_where_it_says(step: str, database: Database) -> None:
    before, after = TRANSITIONS[step]
    one = brought_to(database, before)

    write(database, lambda session: STEPS[step](session, one))

    job = look(database, one.job_id)
    assert job.status is after
    assert (job.finished_at is not None) == (after in jobs.ENDED)
    assert (job.owner is not None) == (job.lease_until is not None) == (after is JobStatus.RUNNING)


FORBIDDEN = [
    (step, status)
    for step, (before, _) in TRANSITIONS.items()
    for status in JobStatus
    if status is not before and (step, status) not in {("cancel", JobStatus.RUNNING), ("cancel", JobStatus.CANCELED)}
]


@pytest.mark.parametrize(("step", "status"), FORBIDDEN)
def test_every_other_step_is_refused_and_changes_nothing(step: str, status: JobStatus, database: Database) -> None:
    one = brought_to(database, status)
    before = columns_of(look(database, one.job_id))

    with pytest.raises((InvalidTransition, LeaseLost)):
        write(database, lambda session: STEPS[step](session, one))

    assert columns_of(look(database, one.job_id)) == before


def columns_of(job: Job) -> dict[str, object]:
    return {column.name: getattr(job, column.name) for column in Job.__table__.columns}


def test_nothing_leaves_a_final_state() -> None:
    assert not {before for before, _ in TRANSITIONS.values()} & jobs.ENDED


def test_the_document_lists_exactly_these_steps_and_explains_each() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)

    assert {step: (before, after) for step, before, after, _ in rows} == {
        step: (before.value, after.value) for step, (before, after) in TRANSITIONS.items()
    }
    assert len(rows) == len(TRANSITIONS)
    assert all(len(why) > 20 for *_, why in rows)


def test_the_document_gives_each_state_one_line() -> None:
    states = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", DOCUMENT.read_text(), re.MULTILINE)

    assert states == [status.value for status in JobStatus]


def test_the_document_s_diagram_draws_every_step() -> None:
    [diagram] = re.findall(r"```\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)

    assert set(re.findall(r"[a-z]+", diagram)) == {*TRANSITIONS, *(status.value for status in JobStatus), "submit"}


# Claiming


def test_a_claim_says_all_that_the_worker_needs(database: Database) -> None:
    job_id = submit(database, JobKind.TRAIN, dataset_id="ds_1", model_id="mdl_1", checkpoint="models/x")

    [one] = claim(database)

    assert one == Claim(job_id, JobKind.TRAIN, "w1", 1, 1, {"seed": 1}, 0, "ds_1", "mdl_1", "models/x")
    job = look(database, job_id)
    assert (job.owner, job.fence, job.attempts, job.lease_until, job.started_at) == ("w1", 1, 1, later(30), NOW)


def test_the_line_goes_by_priority_then_by_turn(database: Database) -> None:
    second = submit(database, now=later(1))
    third = submit(database, now=later(2))
    first = submit(database, now=later(3), priority=1)

    assert [one.job_id for one in claim(database, limit=2)] == [first, second]
    assert [one.job_id for one in claim(database, limit=2)] == [third]
    assert claim(database) == []


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


# Cancellation


def test_a_running_job_is_asked_and_goes_on_until_it_looks(database: Database) -> None:
    one = claimed(database)

    write(database, lambda session: jobs.request_cancel(session, one.job_id, now=NOW))

    job = look(database, one.job_id)
    assert (job.status, job.cancel_requested, job.owner) == (JobStatus.RUNNING, True, "w1")
    write(database, lambda session: jobs.stop(session, one, now=later(1), result={"images": 3}))
    job = look(database, one.job_id)
    assert (job.status, job.finished_at, job.result) == (JobStatus.CANCELED, later(1), {"images": 3})


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELED])
def test_asking_twice_is_as_good_as_once(status: JobStatus, database: Database) -> None:
    one = brought_to(database, status)
    write(database, lambda session: jobs.request_cancel(session, one.job_id, now=later(1)))
    before = columns_of(look(database, one.job_id))

    write(database, lambda session: jobs.request_cancel(session, one.job_id, now=later(2)))

    assert columns_of(look(database, one.job_id)) == before


def test_nothing_in_the_line_is_canceled(database: Database) -> None:
    """Given a job whose cancellation was asked for, when its worker hands it back or dies, I expect it to end there."""
    handed_back, lost = claimed(database), claimed(database)
    for one in (handed_back, lost):
        write(database, lambda session, one=one: jobs.request_cancel(session, one.job_id, now=NOW))  # type: ignore[misc]  # bound early

    write(database, lambda session: jobs.release(session, handed_back, now=later(1)))
    recover(database, now=later(31))

    for one in (handed_back, lost):
        job = look(database, one.job_id)
        assert (job.status, job.result, job.owner) == (JobStatus.CANCELED, {"images": 0}, None)
    assert claim(database) == []


def test_work_that_is_done_before_it_sees_the_flag_succeeds(database: Database) -> None:
    one = claimed(database)
    write(database, lambda session: jobs.request_cancel(session, one.job_id, now=NOW))

    write(database, lambda session: jobs.succeed(session, one, now=NOW, result={}))

    assert look(database, one.job_id).status is JobStatus.SUCCEEDED


def test_canceling_what_does_not_exist_says_so(database: Database) -> None:
    with pytest.raises(JobNotFound, match="job_x"):
        write(database, lambda session: jobs.request_cancel(session, "job_x", now=NOW))


# Ends, and what people see


def test_several_steps_in_one_transaction_see_each_other(database: Database) -> None:
    one = claimed(database)

    def all_at_once(session: Session) -> None:
        jobs.report(session, one, done=3, total=9, rate=1.5, eta_s=4)
        jobs.advance(session, one, 5)
        jobs.hold(session, one).turn_at = later(9)
        jobs.succeed(session, one, now=later(10), result={"images": 9})

    write(database, all_at_once)

    job = look(database, one.job_id)
    assert (job.cursor, job.done, job.total, job.turn_at) == (5, 9, 9, later(9))
    assert (job.status, job.finished_at, job.rate, job.eta_s) == (JobStatus.SUCCEEDED, later(10), None, 0)


def test_a_report_without_a_total_keeps_the_one_there_is(database: Database) -> None:
    one = claimed(database)

    write(database, lambda session: jobs.report(session, one, done=2))

    assert (look(database, one.job_id).done, look(database, one.job_id).total) == (2, 8)


@pytest.mark.parametrize("step", ["fail", "stop", "release"])
def test_a_job_that_no_longer_runs_promises_no_end(step: str, database: Database) -> None:
    one = claimed(database)
    write(database, lambda session: jobs.report(session, one, done=3, rate=2, eta_s=4))

    write(database, lambda session: STEPS[step](session, one))

    assert (look(database, one.job_id).rate, look(database, one.job_id).eta_s) == (None, None)


def test_a_second_try_that_succeeds_shows_no_old_error(database: Database) -> None:
    one = claimed(database)
    write(database, lambda session: setattr(session.get_one(Job, one.job_id), "error_message", "old"))

    write(database, lambda session: jobs.succeed(session, one, now=NOW, result={}))

    assert look(database, one.job_id).error_message is None


def test_an_error_message_of_any_length_and_content_is_kept(database: Database) -> None:
    one, message = claimed(database), "bad file a\0b\udcff: " + "long " * 1000

    write(
        database,
        lambda session: jobs.fail(session, one, now=NOW, code="bad_file", message=message, retryable=False),
    )

    kept = look(database, one.job_id).error_message
    assert kept is not None
    assert kept.startswith("bad file a\\x00b\\udcff: long long")
    assert len(kept) == 2000


ENDS: list[tuple[str, DatasetStatus | None]] = [
    ("cancel", DatasetStatus.FAILED),
    ("fail", DatasetStatus.FAILED),
    ("stop", DatasetStatus.FAILED),
    ("release", DatasetStatus.IMPORTING),
]


@pytest.mark.parametrize(("step", "expected"), ENDS)
def test_a_data_set_is_settled_when_its_import_ends(step: str, expected: DatasetStatus, database: Database) -> None:
    write(database, lambda session: session.add(Dataset(id="ds_1", name="x")))
    one = brought_to(database, TRANSITIONS[step][0], JobKind.IMPORT, dataset_id="ds_1")

    write(database, lambda session: STEPS[step](session, one))

    with database.snapshot() as session:
        assert session.get_one(Dataset, "ds_1").status is expected


@pytest.mark.parametrize("step", TRANSITIONS)
@pytest.mark.parametrize("checkpoint", [None, "models/mdl_1/000000000064-1"])
def test_a_model_is_settled_when_its_training_ends(step: str, checkpoint: str | None, database: Database) -> None:
    def add(session: Session) -> None:
        model = Model(id="mdl_1", name="x", kind="gan", resolution=32, channels=1, options={}, seed=0, metrics={})
        model.checkpoint = checkpoint
        session.add(model)

    write(database, add)
    one = brought_to(database, TRANSITIONS[step][0], JobKind.TRAIN, model_id="mdl_1")

    write(database, lambda session: STEPS[step](session, one))

    ended = ModelStatus.FAILED if checkpoint is None else ModelStatus.READY
    expected = ended if TRANSITIONS[step][1] in jobs.ENDED else ModelStatus.TRAINING
    with database.snapshot() as session:
        assert session.get_one(Model, "mdl_1").status is expected


def test_a_lost_worker_settles_what_its_poison_job_was_making(database: Database) -> None:
    write(database, lambda session: session.add(Dataset(id="ds_1", name="x")))
    claimed(database, JobKind.IMPORT, dataset_id="ds_1")

    recover(database, now=later(31), max_attempts=1)

    with database.snapshot() as session:
        assert session.get_one(Dataset, "ds_1").status is DatasetStatus.FAILED


def test_a_job_whose_data_set_is_gone_ends_all_the_same(database: Database) -> None:
    one = claimed(database, JobKind.IMPORT, dataset_id="ds_gone")

    write(database, lambda session: STEPS["fail"](session, one))

    assert look(database, one.job_id).status is JobStatus.FAILED


def test_lanes_wait_only_for_what_is_queued(database: Database) -> None:
    claimed(database, JobKind.TRAIN)
    submit(database, JobKind.SAMPLE)
    submit(database, JobKind.SAMPLE)
    submit(database, JobKind.IMPORT)

    with database.snapshot() as session:
        assert jobs.lanes_waiting(session) == {Lane.SAMPLE, Lane.IO}


def test_every_kind_has_a_lane_and_every_lane_a_kind() -> None:
    assert set(LANE_OF) == set(JobKind)
    assert all(lane.kinds for lane in Lane)
