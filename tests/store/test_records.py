"""Rows: what goes in comes out, on both databases alike."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, StatementError

from store.database import Database
from store.identifiers import Prefix, new_id
from store.records import Dataset, DatasetStatus, Image, Job, JobKind, JobStatus, Model, ModelStatus

NOW = datetime(2026, 5, 4, 3, 2, 1, 999999, UTC)


def image(position: int = 0, image_id: str = "img_1", job_id: str = "job_1") -> Image:
    return Image(
        id=image_id, job_id=job_id, position=position, model_id="mdl_1", checkpoint="models/mdl_1/1", seed=2**62,
        width=32, height=32, blob="images/job_1/0.png", size_bytes=2**40, sha256="0" * 64,
    )  # fmt: skip


def job() -> Job:
    return Job(id="job_1", kind=JobKind.SAMPLE, request={"seed": 2**53 + 1, "label": None, "name": "Ä 🎞"})


def test_what_was_written_is_read_back_with_its_types(database: Database) -> None:
    classes = [{"name": "seven", "count": 3}, {"name": "八", "count": 0}]
    with database.transaction() as session:
        session.add(Dataset(id="ds_1", name="x", classes=classes, size_bytes=2**40, status=DatasetStatus.READY))
        metrics = {"losses": {"d": 0.1}}
        session.add(
            Model(
                id="mdl_1",
                name="x",
                kind="gan",
                resolution=32,
                channels=1,
                classes=["a"],
                options={},
                seed=-5,
                metrics=metrics,
            )
        )
        session.add(job())
        session.flush()
        session.add(image())

    with database.snapshot() as session:
        dataset, model = session.get_one(Dataset, "ds_1"), session.get_one(Model, "mdl_1")
        row, picture = session.get_one(Job, "job_1"), session.get_one(Image, "img_1")
    assert (dataset.status, dataset.classes, dataset.size_bytes) == (DatasetStatus.READY, classes, 2**40)
    assert (model.status, model.classes, model.seed) == (ModelStatus.TRAINING, ["a"], -5)
    assert model.metrics == {"losses": {"d": 0.1}}
    assert (row.kind, row.status, row.cancel_requested) == (JobKind.SAMPLE, JobStatus.QUEUED, False)
    assert row.request == {"seed": 2**53 + 1, "label": None, "name": "Ä 🎞"}
    assert (row.fence, row.attempts, row.cursor, row.result) == (0, 0, 0, None)
    assert (picture.seed, picture.size_bytes, picture.label) == (2**62, 2**40, None)


def test_states_are_kept_as_their_plain_words(database: Database) -> None:
    with database.transaction() as session:
        session.add(job())

    with database.snapshot() as session:
        assert session.execute(text("SELECT kind, status FROM jobs")).one() == ("sample", "queued")


def test_an_absent_result_is_null_and_not_the_json_null(database: Database) -> None:
    with database.transaction() as session:
        session.add(job())

    with database.snapshot() as session:
        assert session.scalars(select(Job.id).where(Job.result.is_(None))).all() == ["job_1"]


def test_a_moment_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="has no time zone"), database.transaction() as session:
        session.add(Dataset(id="ds_1", name="x", created_at=datetime(2026, 1, 1)))  # noqa: DTZ001


def test_moments_are_kept_to_the_microsecond_and_sort_as_time(database: Database) -> None:
    moments = [NOW, NOW.replace(microsecond=0), NOW.replace(year=2025), NOW.replace(microsecond=10)]
    with database.transaction() as session:
        session.add_all(Dataset(id=f"ds_{k}", name="x", created_at=moment) for k, moment in enumerate(moments))

    with database.snapshot() as session:
        assert session.scalars(select(Dataset.created_at).order_by(Dataset.created_at)).all() == sorted(moments)


def test_a_place_in_a_job_holds_one_image(database: Database) -> None:
    with database.transaction() as session:
        session.add(job())
        session.flush()
        session.add(image())

    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add(image(0, "img_2"))


def test_an_image_belongs_to_a_job(database: Database) -> None:
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add(image(job_id="job_of_nobody"))


def test_an_idempotency_key_is_used_once_and_none_is_used_often(database: Database) -> None:
    def keyed(job_id: str, key: str | None) -> Job:
        return Job(id=job_id, kind=JobKind.SAMPLE, request={}, idempotency_key=key)

    with database.transaction() as session:
        session.add_all([keyed("job_1", "k"), keyed("job_2", None), keyed("job_3", None)])

    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add(keyed("job_4", "k"))


@pytest.mark.parametrize("prefix", ["ds", "mdl", "job", "img", "key"])
def test_ids_say_what_they_are_and_sort_by_when_they_were_made(prefix: Prefix) -> None:
    ids = [new_id(prefix) for _ in range(1000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    assert all(made.startswith(f"{prefix}_") and len(made) == len(prefix) + 33 for made in ids)
