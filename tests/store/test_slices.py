"""Slices: who shares a batch, who waits, and that each image is stored exactly once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from store import jobs
from store.database import Database
from store.jobs import Claim
from store.records import Image, Job, JobKind, JobPriority, JobStatus
from store.slices import Outcome, Slice, claim_slices, commit_slices, submit_jobs
from tests.store.desk import columns_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LEASE_S = 30.0


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def submit(
    database: Database, n: int, *, model: str = "mdl_1", at_s: float = 0, batch: bool = False, **columns: Any
) -> str:
    with database.transaction() as session:
        return jobs.submit(
            session, JobKind.SAMPLE, {"n": n, "seed": 0, "label": None}, now=later(at_s), total=n,
            model_id=model.partition("@")[0], checkpoint=f"models/{model}",
            priority=JobPriority.BATCH if batch else JobPriority.INTERACTIVE, **columns,
        ).id  # fmt: skip


class Sampler:
    """A sampler without a device: it claims and commits, and its pictures are empty."""

    def __init__(self, database: Database, owner: str = "s1", max_images: int = 8) -> None:
        self.database, self.owner, self.max_images = database, owner, max_images
        self.held: dict[str, Claim] = {}

    def claim(self, at_s: float = 0, ahead: dict[str, int] | None = None) -> list[Slice]:
        with self.database.transaction() as session:
            slices = claim_slices(
                session, list(self.held.values()), owner=self.owner, now=later(at_s), lease_s=LEASE_S,
                max_images=self.max_images, ahead=ahead,
            )  # fmt: skip
        self.held.update({part.claim.job_id: part.claim for part in slices})
        return slices

    def commit(self, slices: Sequence[Slice], at_s: float = 0) -> list[Outcome]:
        with self.database.transaction() as session:
            went_on = commit_slices(
                session, [(part, pictures(part)) for part in slices], now=later(at_s), images_per_s=4
            )
        going = {outcome.job_id for outcome in went_on if not outcome.ended}
        for part in slices:
            if part.claim.job_id not in going:
                self.held.pop(part.claim.job_id, None)
        return went_on


def pictures(part: Slice) -> list[Image]:
    job_id = part.claim.job_id
    return [
        Image(
            id=f"img_{part.claim.owner}_{part.claim.fence}_{job_id[-8:]}_{k}"[-40:], job_id=job_id, position=k,
            model_id="mdl_1", checkpoint="x", seed=k, width=1, height=1, blob="x", size_bytes=1, sha256="x", created_at=NOW,
        )
        for k in range(part.start, part.start + part.count)
    ]  # fmt: skip


def plan(slices: Sequence[Slice]) -> list[tuple[str, int, int]]:
    return [(part.claim.job_id, part.start, part.count) for part in slices]


def look(database: Database, job_id: str) -> Job:
    with database.snapshot() as session:
        return session.get_one(Job, job_id)


def positions(database: Database, job_id: str) -> list[int]:
    with database.snapshot() as session:
        return list(session.scalars(select(Image.position).where(Image.job_id == job_id).order_by(Image.position)))


@pytest.fixture
def sampler(database: Database) -> Sampler:
    return Sampler(database)


def test_with_nothing_queued_there_is_nothing_to_do(sampler: Sampler) -> None:
    assert sampler.claim() == []
    assert sampler.commit([]) == []


def test_jobs_for_the_same_weights_share_a_batch_and_others_wait(database: Database, sampler: Sampler) -> None:
    first = submit(database, 2, model="mdl_1@a", at_s=0)
    other_model = submit(database, 1, model="mdl_2@a", at_s=1)
    other_weights = submit(database, 1, model="mdl_1@b", at_s=2)
    rider = submit(database, 3, model="mdl_1@a", at_s=3)

    batch = sampler.claim()

    assert plan(batch) == [(first, 0, 2), (rider, 0, 3)]
    assert all(outcome.ended for outcome in sampler.commit(batch))
    assert plan(sampler.claim()) == [(other_model, 0, 1)]
    assert plan(Sampler(database, "s2").claim()) == [(other_weights, 0, 1)]


def test_the_job_whose_turn_is_due_first_picks_the_weights(database: Database, sampler: Sampler) -> None:
    submit(database, 1, model="mdl_1@a", batch=True, at_s=0)
    urgent = submit(database, 1, model="mdl_2@a", at_s=5)

    assert plan(sampler.claim(6)) == [(urgent, 0, 1)]


def test_a_batch_job_fills_the_places_that_interactive_ones_leave(database: Database, sampler: Sampler) -> None:
    batch = submit(database, 100, batch=True, at_s=0)
    urgent = submit(database, 3, at_s=1)

    assert plan(sampler.claim(2)) == [(urgent, 0, 3), (batch, 0, 5)]


def test_interactive_jobs_without_end_do_not_starve_a_batch_job(database: Database, sampler: Sampler) -> None:
    """Given a full batch of new interactive jobs each second, I expect the batch job's slices all the same, at intervals."""
    batch = submit(database, 16, model="mdl_2@a", batch=True, at_s=0)
    served = {}
    for second in range(95):
        for _ in range(2):
            submit(database, 8, model="mdl_1@a", at_s=second)  # twice what one claim takes: the line never ends
        slices = sampler.claim(second)
        for outcome in sampler.commit(slices, at_s=second):
            served[outcome.job_id, outcome.done] = second

    # At twice the load everybody's turn comes at twice its time.
    assert [cursor for job_id, cursor in served if job_id == batch] == [8, 16]
    assert jobs.BATCH_YIELDS_S <= served[batch, 8] <= 2 * jobs.BATCH_YIELDS_S + 2


def test_batch_jobs_without_end_do_not_starve_an_interactive_one(database: Database, sampler: Sampler) -> None:
    """Given a long line of batch jobs, and large ones that return after each slice, I expect a newcomer soon."""
    for number in range(20):
        submit(database, 100, model=f"mdl_{number}@a", batch=True, at_s=number)
    for second in range(20, 25):
        sampler.commit(sampler.claim(second), at_s=second)
    urgent = submit(database, 1, model="mdl_new@a", at_s=25)
    at_s = 25.0
    while look(database, urgent).status is JobStatus.QUEUED:
        at_s += 0.5
        sampler.commit(sampler.claim(at_s), at_s=at_s)

    # Before it went only the batch jobs that were 15 s older and had not had a slice since: of the seconds 5 to 10.
    assert at_s - 25 == 0.5 * (6 + 1)


def test_a_late_job_gets_no_slice_and_a_running_one_no_further(database: Database, sampler: Sampler) -> None:
    big = submit(database, 100, deadline_at=later(10))
    sampler.commit(sampler.claim(1), at_s=2)
    submit(database, 1, at_s=3, deadline_at=later(9))
    other = submit(database, 1, at_s=4)

    assert plan(sampler.claim(8))[0][0] == big
    assert plan(sampler.claim(10)) == [(other, 0, 1)]


def test_the_head_of_a_long_line_is_found_by_its_index(sqlite_url: str) -> None:
    """Given thousands in the line, I expect no sort of all of them for each batch."""
    database = Database(sqlite_url)
    submit(database, 1)
    statements: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            statements.append((statement, parameters))

    with database.transaction() as session:
        event.listen(session.connection().engine, "before_cursor_execute", listen)
        claim_slices(session, [], owner="s1", now=NOW, lease_s=LEASE_S, max_images=8)
        jobs.end_late(session, now=NOW)
        event.remove(session.connection().engine, "before_cursor_execute", listen)
        plans = [
            " ".join(
                row[3] for row in session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            )
            for statement, parameters in statements
        ]

    first, riders, late = plans
    assert first == riders == "SEARCH jobs USING INDEX ix_jobs_claim (status=? AND kind=?)"
    assert "ix_jobs_late" in late
    database.close()


def test_many_jobs_are_written_by_one_call_of_sqlite(sqlite_url: str) -> None:
    """Given ten new jobs, I expect one call for all: for each call the driver lets go of the interpreter."""
    database = Database(sqlite_url)
    rows: list[int] = []  # of each statement

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO jobs"):
            rows.append(statement.count("(?"))

    with database.transaction() as session:
        event.listen(session.connection().engine, "before_cursor_execute", listen)
        submit_jobs(session, [jobs.new(JobKind.SAMPLE, {"seed": n}, now=NOW, total=1) for n in range(10)])
    assert rows == [10]
    with database.snapshot() as session:
        assert sorted(job.request["seed"] for job in session.scalars(select(Job))) == list(range(10))
    database.close()


def test_a_batch_holds_no_more_images_than_it_may(database: Database, sampler: Sampler) -> None:
    first, second, third = submit(database, 5, at_s=0), submit(database, 5, at_s=1), submit(database, 5, at_s=2)

    assert plan(sampler.claim()) == [(first, 0, 5), (second, 0, 3)]
    assert look(database, third).status is JobStatus.QUEUED


def test_a_big_job_goes_to_the_end_of_the_line_and_small_ones_overtake(database: Database, sampler: Sampler) -> None:
    big = submit(database, 20, model="mdl_1@a", at_s=0)
    batch = sampler.claim()
    assert plan(batch) == [(big, 0, 8)]
    small = submit(database, 1, model="mdl_2@a", at_s=1)

    assert sampler.commit(batch, at_s=2) == [Outcome(big, 8, 20, 4, 3, ended=False)]

    job = look(database, big)
    assert (job.status, job.cursor, job.done, job.rate, job.eta_s) == (JobStatus.RUNNING, 8, 8, 4, 3)
    batch = sampler.claim(3)
    assert plan(batch) == [(small, 0, 1)]
    sampler.commit(batch, at_s=4)
    batch = sampler.claim(5)
    assert plan(batch) == [(big, 8, 8)]
    sampler.commit(batch, at_s=6)
    batch = sampler.claim(7)
    assert plan(batch) == [(big, 16, 4)]
    assert sampler.commit(batch, at_s=8) == [Outcome(big, 20, 20, 4, 0, ended=True)]
    job = look(database, big)
    assert (job.status, job.result, job.done, job.eta_s) == (JobStatus.SUCCEEDED, {"images": 20}, 20, 0)
    assert positions(database, big) == list(range(20))
    assert look(database, big).fence == 1  # one claim for all its slices


def test_a_big_job_lets_riders_in_beside_it(database: Database, sampler: Sampler) -> None:
    big = submit(database, 100)
    sampler.commit(sampler.claim(), at_s=1)
    small = submit(database, 2, at_s=2)

    # It stood in the line again before the small one came, so it goes first and leaves no room.
    batch = sampler.claim(3)
    assert plan(batch) == [(big, 8, 8)]
    sampler.commit(batch, at_s=4)

    assert plan(sampler.claim(5)) == [(small, 0, 2), (big, 16, 6)]


def test_the_next_slice_begins_where_those_in_the_making_end(database: Database, sampler: Sampler) -> None:
    """Given a slice that is not committed yet, I expect the one after it, and both to be stored in their order."""
    big = submit(database, 20)
    first = sampler.claim()
    small = submit(database, 1, at_s=1)

    second = sampler.claim(2, ahead={big: 8})
    assert plan(second) == [(big, 8, 8)]
    third = sampler.claim(3, ahead={big: 16})
    assert plan(third) == [(small, 0, 1), (big, 16, 4)]  # to the end of the line, although nothing is committed

    assert sampler.commit(second) == []  # out of turn
    for batch in (first, second, third):
        sampler.commit(batch)
    assert positions(database, big) == list(range(20))


def test_a_job_that_a_batch_completes_looks_like_any_other_that_succeeded(database: Database, sampler: Sampler) -> None:
    made, other = submit(database, 2), submit(database, 2)
    [claim] = [part.claim for part in sampler.claim() if part.claim.job_id == other]
    with database.transaction() as session:
        jobs.advance(session, claim, 2)
        jobs.succeed(session, claim, now=later(5), result={"images": 2})
    part = Slice(next(one for one in sampler.held.values() if one.job_id == made), 0, 2, 2)

    sampler.commit([part], at_s=5)

    left, right = (columns_of(look(database, job_id)) for job_id in (made, other))
    assert {name for name in left if left[name] != right[name]} == {"id"}


def test_a_job_may_be_claimed_and_completed_at_once(database: Database, sampler: Sampler) -> None:
    job_id = submit(database, 1)
    with database.transaction() as session:
        [part] = claim_slices(session, [], owner="s1", now=NOW, lease_s=LEASE_S, max_images=2)
        commit_slices(session, [(part, pictures(part))], now=later(1), images_per_s=4)

    other = submit(database, 1)
    sampler.commit(sampler.claim(), at_s=1)
    its_own = {"id", "turn_at", "created_at"}
    assert {name: value for name, value in columns_of(look(database, job_id)).items() if name not in its_own} == {
        name: value for name, value in columns_of(look(database, other)).items() if name not in its_own
    }
    assert positions(database, job_id) == [0]


def test_a_dropped_slice_leaves_the_others_committed(database: Database, sampler: Sampler) -> None:
    lost, kept = submit(database, 2, at_s=0), submit(database, 2, at_s=1)
    batch = sampler.claim()
    with database.transaction() as session:
        jobs.release(session, batch[0].claim)
    other = Sampler(database, "s2")
    theirs = other.claim()

    assert [outcome.job_id for outcome in sampler.commit(batch)] == [kept]

    assert positions(database, lost) == []
    assert positions(database, kept) == [0, 1]
    assert [outcome.job_id for outcome in other.commit(theirs)] == [lost]
    assert positions(database, lost) == [0, 1]


def test_a_batch_that_is_committed_twice_is_stored_once(database: Database, sampler: Sampler) -> None:
    big, small = submit(database, 20, at_s=1), submit(database, 2, at_s=0)
    batch = sampler.claim()
    sampler.commit(batch)

    assert sampler.commit(batch) == []

    assert positions(database, small) == [0, 1]
    assert positions(database, big) == list(range(6))
    assert look(database, big).cursor == 6


def test_a_crash_goes_on_at_the_cursor_and_every_image_is_stored_once(database: Database, sampler: Sampler) -> None:
    """Given a sampler that dies with a batch half way, and comes back late with it, I expect no image twice."""
    job_id = submit(database, 12)
    sampler.commit(sampler.claim())
    late = sampler.claim()
    with database.transaction() as session:
        jobs.recover(session, now=later(31), max_attempts=3)
    other = Sampler(database, "s2")

    batch = other.claim(31)

    assert plan(batch) == plan(late) == [(job_id, 8, 4)]
    assert sampler.commit(late) == []
    assert [outcome.ended for outcome in other.commit(batch)] == [True]
    assert sampler.commit(late) == []
    assert positions(database, job_id) == list(range(12))


def test_a_job_held_by_another_sampler_is_not_touched(database: Database, sampler: Sampler) -> None:
    submit(database, 100)
    sampler.claim()
    other = Sampler(database, "s2")
    other.held = dict(sampler.held)  # even if it believes that it holds it

    assert other.claim() == []


def test_a_claim_from_before_a_loss_is_no_right_to_go_on(database: Database, sampler: Sampler) -> None:
    submit(database, 100)
    [part] = sampler.claim()
    with database.transaction() as session:
        jobs.release(session, part.claim)
        jobs.claim(session, [JobKind.SAMPLE], owner="s1", now=NOW, lease_s=LEASE_S)

    assert sampler.claim() == []


def test_a_job_whose_cancellation_was_asked_for_gets_no_further_slice(database: Database, sampler: Sampler) -> None:
    big = submit(database, 100)
    sampler.commit(sampler.claim(), at_s=1)
    other = submit(database, 1, at_s=2)
    with database.transaction() as session:
        jobs.request_cancel(session, big, now=NOW)

    assert plan(sampler.claim(3)) == [(other, 0, 1)]


def test_a_canceled_job_is_never_claimed(database: Database, sampler: Sampler) -> None:
    job_id = submit(database, 1)
    with database.transaction() as session:
        jobs.request_cancel(session, job_id, now=NOW)

    assert sampler.claim() == []


def test_other_kinds_of_job_are_none_of_a_sampler_s_business(database: Database, sampler: Sampler) -> None:
    with database.transaction() as session:
        jobs.submit(session, JobKind.TRAIN, {}, now=NOW, model_id="mdl_1", checkpoint=None)

    assert sampler.claim() == []


def test_two_samplers_at_once_take_different_weights_rather_than_nothing(postgres_url: str) -> None:
    """Given another sampler in the middle of claiming the first job, I expect the second's weights at once."""
    database = Database(postgres_url)
    first, second = submit(database, 1, model="mdl_1@a"), submit(database, 1, model="mdl_2@a", at_s=1)

    with database.transaction() as session:
        theirs = claim_slices(session, [], owner="s1", now=NOW, lease_s=LEASE_S, max_images=8)
        ours = Sampler(database, "s2").claim()

    assert plan(theirs) == [(first, 0, 1)]
    assert plan(ours) == [(second, 0, 1)]
    database.close()


def test_a_heartbeat_that_holds_our_rows_is_waited_for(postgres_url: str) -> None:
    """Given our own renewal in flight, I expect our job's next slice after it, not an empty batch."""
    database = Database(postgres_url)
    sampler = Sampler(database)
    big = submit(database, 100)
    sampler.commit(sampler.claim())
    got: list[Slice] = []
    with database.transaction() as session:
        jobs.renew(session, list(sampler.held.values()), now=NOW, lease_s=LEASE_S)
        claiming = threading.Thread(target=lambda: got.extend(sampler.claim()))
        claiming.start()
        claiming.join(0.2)
        assert claiming.is_alive()
    claiming.join(10)

    assert plan(got) == [(big, 8, 8)]
    database.close()


def test_samplers_in_many_threads_make_every_image_exactly_once(database: Database) -> None:
    wanted = {submit(database, n, model=f"mdl_{n % 2}@a", at_s=n): n for n in (1, 3, 7, 9, 12, 20)}
    failures: list[BaseException] = []

    def serve(owner: str) -> None:
        sampler = Sampler(database, owner, max_images=4)
        try:
            while batch := sampler.claim():
                sampler.commit(batch)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=serve, args=(f"s{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert {job_id: positions(database, job_id) for job_id in wanted} == {
        job_id: list(range(n)) for job_id, n in wanted.items()
    }
    assert {look(database, job_id).status for job_id in wanted} == {JobStatus.SUCCEEDED}


def test_what_was_under_way_when_a_worker_died_goes_alone_until_it_gets_further(
    database: Database, sampler: Sampler
) -> None:
    """Given three jobs in a batch whose worker dies, I expect each alone afterwards, so that what is poison takes nobody along,
    and company again for one that has got further."""
    first, second, large = submit(database, 2), submit(database, 2, at_s=1), submit(database, 20, at_s=2)
    assert len(Sampler(database, "dead").claim(3)) == 3
    with database.transaction() as session:
        jobs.recover(session, now=later(4), max_attempts=3, owner="dead")
    fresh = submit(database, 2, at_s=5)

    for at_s, expected in enumerate([(first, 0, 2), (second, 0, 2), (large, 0, 8)], start=6):
        alone = sampler.claim(at_s)
        assert plan(alone) == [expected]
        sampler.commit(alone, at_s)
    assert plan(sampler.claim(10)) == [(fresh, 0, 2), (large, 8, 6)]
