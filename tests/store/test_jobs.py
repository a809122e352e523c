"""Jobs: every step of the table and no other, cancellation, and what the end of a job settles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from store import jobs
from store.database import Database
from store.errors import InvalidTransition, JobNotFound, LeaseLost
from store.jobs import TRANSITIONS
from store.queue import LANE_OF, Lane
from store.records import Dataset, DatasetStatus, Job, JobKind, JobStatus, Model, ModelStatus
from tests.store.desk import (
    NOW,
    STEPS,
    brought_to,
    claim,
    claimed,
    columns_of,
    later,
    look,
    recover,
    submit,
    write,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "jobs.md"


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
