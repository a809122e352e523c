"""How much waits: unfinished jobs by lane and state, and images still to be made."""

from __future__ import annotations

from store import jobs
from store.database import Database
from store.depth import images_waiting, jobs_waiting
from store.queue import Lane
from store.records import JobKind, JobStatus
from tests.store.desk import NOW, brought_to, claimed, submit, write


def test_where_nothing_waits_every_lane_is_at_zero(database: Database) -> None:
    with database.snapshot() as session:
        assert jobs_waiting(session) == {
            (lane, status): 0 for lane in Lane for status in (JobStatus.QUEUED, JobStatus.RUNNING)
        }
        assert images_waiting(session) == 0


def test_unfinished_jobs_count_for_their_lane_and_ended_ones_no_more(database: Database) -> None:
    claimed(database, JobKind.TRAIN)
    for kind in (JobKind.SAMPLE, JobKind.SAMPLE, JobKind.TRAIN, JobKind.EVALUATE, JobKind.IMPORT):
        submit(database, kind)
    with database.snapshot() as session:
        found = jobs_waiting(session)
    assert {key: count for key, count in found.items() if count} == {
        (Lane.SAMPLE, JobStatus.QUEUED): 2,
        (Lane.TRAIN, JobStatus.QUEUED): 2,
        (Lane.TRAIN, JobStatus.RUNNING): 1,
        (Lane.IO, JobStatus.QUEUED): 1,
    }


def test_images_wait_that_no_commit_has_stored_yet(database: Database) -> None:
    for status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED):
        brought_to(database, status, total=1000)
    one = claimed(database, total=8)
    write(database, lambda session: jobs.advance(session, one, 3))
    submit(database, total=20, now=NOW)
    submit(database, JobKind.EVALUATE, total=4000)
    with database.snapshot() as session:
        assert images_waiting(session) == 5 + 20
