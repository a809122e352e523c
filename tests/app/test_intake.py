"""Generations that come together: one transaction, one bell, and each its own refusal."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Session

from app import submissions as module
from app.auth import EVERYBODY
from app.backlog import Backlog
from app.errors import InvalidParameter, KeyReused, QueueFull, QuotaExceeded
from app.intake import FIRST_IMAGES, MADE, Asked, Made, Seen, look_together
from app.quotas import Quotas, Wish
from app.submissions import Idempotency, Submission, submit_together
from store import jobs, records
from store.database import Database
from store.errors import BlobNotFound, DatabaseUnavailable, JobNotFound
from store.events import Heard, MemoryBus, Notice
from store.memory_blobs import MemoryBlobs
from store.queue import Lane, MemoryQueue
from store.records import JobKind, JobStatus
from store.resources import Resources
from store.settings import Settings

LIMIT = 10


@pytest.fixture
def resources(database: Database, tmp_path: Path) -> Resources:
    settings = Settings(_env_file=None, data_dir=tmp_path, max_queued_images=LIMIT)
    return Resources(settings, database, MemoryBlobs(), MemoryBus(), MemoryQueue())


@pytest.fixture
def backlog(resources: Resources) -> Backlog:
    return Backlog(resources)


def generation(name: str, *, key: str | None = None, images: int = 1) -> Submission:
    def create(session: Session, now: datetime) -> records.Job:
        return jobs.new(
            JobKind.SAMPLE, {"name": name}, now=now, model_id="m", checkpoint="c", total=images,
            idempotency=idempotency.columns if idempotency is not None else None, job_id=f"job_{name}",
        )  # fmt: skip

    idempotency = Idempotency.of(EVERYBODY, "/v1/generations", key, name.partition("/")[0].encode()) if key else None
    return Submission(idempotency, create, Wish(EVERYBODY, JobKind.SAMPLE, images=images))


def refused() -> Submission:
    def create(session: Session, now: datetime) -> records.Job:
        raise InvalidParameter("n: no", parameter="/n")

    return Submission(None, create, Wish(EVERYBODY, JobKind.SAMPLE, images=1))


def count(resources: Resources) -> int:
    with resources.database.snapshot() as session:
        return session.execute(select(func.count()).select_from(records.Job)).scalar_one()


def test_what_comes_together_is_committed_at_once_and_rung_for_once(resources: Resources, backlog: Backlog) -> None:
    committed: list[object] = []
    event.listen(resources.database._engine, "commit", committed.append)
    with resources.bus.watch() as watch:
        made = submit_together(resources, backlog, Quotas(resources), [generation(name) for name in "abc"])

        resources.tell(Notice("job_z", "progress", {}))
        assert watch.next(5) == {"job_z": Heard(False)}  # of a, b and c nobody knows yet
    assert resources.bus.history("job_b") == []  # and who comes to know one begins with its row
    assert [(answer[0].id, answer[1]) for answer in made if not isinstance(answer, Exception)] == [
        ("job_a", True),
        ("job_b", True),
        ("job_c", True),
    ]
    assert len(committed) == 1
    assert resources.queue.waiting(Lane.SAMPLE) == 1


def test_the_bell_rings_before_the_disk_has_it_and_nobody_is_answered_before_that(
    resources: Resources, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[int] = []

    def fail(database: Database) -> None:
        rung.append(resources.queue.waiting(Lane.SAMPLE))
        raise DatabaseUnavailable("the disk is gone")

    monkeypatch.setattr(Database, "flush", fail)
    with pytest.raises(DatabaseUnavailable):
        submit_together(resources, backlog, Quotas(resources), [generation("a", key="k")])
    with pytest.raises(DatabaseUnavailable):  # as little of what another process may have made just now
        submit_together(resources, backlog, Quotas(resources), [generation("a", key="k")])

    assert rung == [1, 1]


def test_who_is_refused_is_refused_alone(resources: Resources, backlog: Backlog) -> None:
    made = submit_together(
        resources, backlog, Quotas(resources), [generation("a"), refused(), generation("b", images=LIMIT)]
    )

    assert [type(answer) for answer in made] == [tuple, InvalidParameter, QueueFull]
    assert count(resources) == 1
    made = submit_together(
        resources, backlog, Quotas(resources), [generation("c", images=LIMIT - 1)]
    )  # nothing was kept for them
    assert not isinstance(made[0], Exception)


def test_one_key_twice_in_a_group_makes_one_job(resources: Resources, backlog: Backlog) -> None:
    first, again, other = submit_together(
        resources,
        backlog,
        Quotas(resources),
        [generation("a/1", key="k"), generation("a/2", key="k"), generation("b", key="k")],
    )

    assert isinstance(first, tuple)
    assert isinstance(again, tuple)
    assert (again[0].id, first[1], again[1]) == (first[0].id, True, False)
    assert isinstance(other, KeyReused)
    assert count(resources) == 1


def test_a_group_is_counted_job_by_job(resources: Resources, backlog: Backlog) -> None:
    caller = replace(EVERYBODY, limits={"queued_jobs": 2})
    group = [replace(one, wish=Wish(caller, JobKind.SAMPLE, images=1)) for one in map(generation, "abc")]

    made = submit_together(resources, backlog, Quotas(resources), group)

    assert [type(answer) for answer in made] == [tuple, tuple, QuotaExceeded]
    assert count(resources) == 2


def test_who_is_to_be_told_of_one_of_a_group_is_written_with_it(resources: Resources, backlog: Backlog) -> None:
    group = [generation("a"), replace(generation("b"), webhook="https://example.org/told"), generation("c")]

    submit_together(resources, backlog, Quotas(resources), group)

    with resources.database.snapshot() as session:
        assert session.scalars(select(records.Webhook.job_id)).all() == ["job_b"]
    assert count(resources) == 3


def test_what_is_answered_of_a_new_job_is_what_its_row_says(resources: Resources, backlog: Backlog) -> None:
    [answer] = submit_together(resources, backlog, Quotas(resources), [generation("a", key="k", images=3)])

    assert isinstance(answer, tuple)
    with resources.database.snapshot() as session:
        row = session.get_one(records.Job, "job_a")
        names = records.Job.__table__.columns.keys()
        assert {name: getattr(answer[0], name) for name in names} == {name: getattr(row, name) for name in names}


def test_a_key_that_another_process_was_faster_with_costs_the_others_nothing(
    resources: Resources, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a job with the key that is committed between our look and our commit, I expect it to be found."""
    original, looks = module._made_before, iter(range(9))

    def look(session: Session, idempotency: Idempotency | None) -> records.Job | None:
        return None if next(looks) < 2 else original(session, idempotency)  # the group's own two come too early

    submit_together(resources, backlog, Quotas(resources), [generation("a/1", key="k")])
    monkeypatch.setattr(module, "_made_before", look)

    late, fresh = submit_together(resources, backlog, Quotas(resources), [generation("a/2", key="k"), generation("b")])

    assert isinstance(late, tuple)
    assert isinstance(fresh, tuple)
    assert (late[0].id, late[1], fresh[1]) == ("job_a/1", False, True)


def test_a_commit_that_fails_gives_the_places_back(
    resources: Resources, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(module, "submit_jobs", fail)
        with pytest.raises(DatabaseUnavailable):
            submit_together(resources, backlog, Quotas(resources), [generation("a", images=LIMIT)])

    [made] = submit_together(resources, backlog, Quotas(resources), [generation("a", images=LIMIT)])
    assert not isinstance(made, Exception)


def test_those_who_look_together_see_each_their_own(resources: Resources, backlog: Backlog) -> None:
    submit_together(resources, backlog, Quotas(resources), [generation("a"), generation("b")])

    b, gone, a = look_together(resources, [Asked("job_b"), Asked("job_x"), Asked("job_a", content=True)])

    assert isinstance(a, Seen)
    assert isinstance(b, Seen)
    assert (a.job.id, b.job.id, a.has_ended) == ("job_a", "job_b", False)
    assert isinstance(gone, JobNotFound)


def test_a_picture_that_is_made_comes_with_its_bytes_to_who_asks_for_them(
    resources: Resources, backlog: Backlog
) -> None:
    submit_together(resources, backlog, Quotas(resources), [generation(name) for name in "abc"])
    resources.blobs.put("images/a.png", b"a PNG")
    with resources.database.transaction() as session:
        for name in "abc":
            job = session.get_one(records.Job, f"job_{name}")
            job.status = JobStatus.SUCCEEDED
            if name != "c":
                session.add(
                    records.Image(
                        id=f"img_{name}", job_id=job.id, position=0, model_id="m", checkpoint="c", seed=1, width=64,
                        height=64, blob=f"images/{name}.png", size_bytes=5, sha256="5e", created_at=job.created_at,
                    )
                )  # fmt: skip

    with_bytes = [Asked(f"job_{name}", content=True) for name in "abc"]
    a, b, c, row = look_together(resources, [*with_bytes, Asked("job_a")])

    assert a == Made("job_a", "img_a", "5e", b"a PNG")
    assert isinstance(b, BlobNotFound)  # its row is there, its file is gone
    assert isinstance(c, BlobNotFound)  # it was deleted
    assert isinstance(row, Seen)
    assert (row.has_ended, [image.id for image in row.images]) == (True, ["img_a"])


def test_a_look_reads_no_more_of_the_tables_than_was_asked_for(sqlite_url: str) -> None:
    """Given a SQLite without statistics, I expect its plan for many jobs to find each by its id."""
    database = Database(sqlite_url)
    names = [f"job_{number}" for number in range(100)]
    for statement in (MADE, FIRST_IMAGES):
        binds = {"literal_binds": True}
        asked = statement.params(wanted=names).compile(database._engine, compile_kwargs=binds)
        with database.snapshot() as session:
            plan = [row.detail for row in session.execute(text(f"EXPLAIN QUERY PLAN {asked}"))]
        assert plan
        assert all(re.search(r"\((job_)?id=\?", step) for step in plan), plan
    database.close()
