"""Retention: what is old goes where the settings say so, and nothing that something refers to."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from store import kept, retention
from store.database import Database
from store.exports import export_key
from store.identifiers import id_at, new_id
from store.memory_blobs import MemoryBlobs
from store.records import (
    Dataset,
    DatasetStatus,
    Image,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    Record,
    TrainingCheckpoint,
    Webhook,
)
from store.settings import Settings
from store.strips import strips_key

NOW = datetime.now(UTC)
OLD, YOUNG = NOW - timedelta(days=10), NOW - timedelta(days=2)


def settings(**days: float) -> Settings:
    return Settings(_env_file=None, **{"keep_failed_days": 0.0, **days})  # type: ignore[arg-type]


def dated(prefix: Any, at: datetime) -> str:
    """An id as if it had been made then."""
    return id_at(prefix, at) + new_id(prefix)[-20:]


def job(
    database: Database, at: datetime, kind: JobKind = JobKind.SAMPLE, status: str = "succeeded", **columns: Any
) -> str:
    ended = at if JobStatus(status) not in {JobStatus.QUEUED, JobStatus.RUNNING} else None
    row = Job(
        id=dated("job", at),
        kind=kind,
        status=JobStatus(status),
        request={},
        created_at=at,
        finished_at=ended,
        **columns,
    )
    return add(database, row)


def image(database: Database, blobs: MemoryBlobs, job_id: str, at: datetime) -> str:
    key = f"images/aa/{job_id}.png"
    blobs.put(key, b"png")
    made = {"seed": 0, "width": 8, "height": 8, "size_bytes": 3, "sha256": "", "model_id": "mdl_1", "checkpoint": "c"}
    return add(database, Image(id=dated("img", at), job_id=job_id, position=0, blob=key, created_at=at, **made))


def model(database: Database, name: str, **columns: Any) -> str:
    made = {"kind": "k", "resolution": 8, "channels": 1, "options": {}, "seed": 0, "metrics": {}, "created_at": OLD}
    return add(database, Model(id=name, name=name, **made, **columns))


def add(database: Database, row: Any) -> str:
    with database.transaction() as session:
        session.add(row)
        session.flush()
        return str(row.id)


def left(database: Database, record: type[Record]) -> set[str]:
    with database.snapshot() as session:
        return set(session.scalars(select(record.id)))  # type: ignore[attr-defined]


def test_nothing_goes_unless_a_setting_says_so(database: Database) -> None:
    blobs = MemoryBlobs()
    image(database, blobs, job(database, OLD), OLD)
    model(database, "mdl_1", status=ModelStatus.READY)
    assert retention.retire(database, blobs, settings()) == {}
    assert len(left(database, Image)) == len(left(database, Job)) == len(left(database, Model)) == 1


def test_old_images_go_with_their_blobs_but_not_those_of_unfinished_jobs(database: Database) -> None:
    blobs = MemoryBlobs()
    jobs = [job(database, OLD), job(database, YOUNG), job(database, OLD, status="running")]
    images = [image(database, blobs, job_id, at) for job_id, at in zip(jobs, (OLD, YOUNG, OLD), strict=True)]
    assert retention.retire(database, blobs, settings(keep_images_days=5)) == {"images": 1}
    assert left(database, Image) == set(images[1:])
    assert blobs.keys("images") == sorted(f"images/aa/{job_id}.png" for job_id in jobs[1:])
    assert left(database, Job) == set(jobs)


def test_more_than_a_batch_goes_in_several_passes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    blobs, limits = MemoryBlobs(), settings(keep_images_days=5)
    for _ in range(3):
        image(database, blobs, job(database, OLD), OLD)
    assert [retention.retire(database, blobs, limits)["images"] for _ in range(3)] == [2, 1, 0]


def test_old_jobs_go_once_nothing_belongs_to_them(database: Database) -> None:
    blobs = MemoryBlobs()
    model(database, "mdl_1", status=ModelStatus.READY)
    goes = [
        job(database, OLD, status="canceled"),
        job(database, OLD, JobKind.IMPORT, "failed"),
        job(database, OLD, JobKind.TRAIN, model_id="mdl_gone"),
        job(database, OLD, JobKind.EVALUATE, model_id="mdl_gone"),
    ]
    blobs.put(strips_key("mdl_gone", goes[-1]), b"png")
    with_image = job(database, OLD)
    image(database, blobs, with_image, YOUNG)
    waited_for = job(database, OLD)
    add(database, Webhook(id="wh_1", job_id=waited_for, url="https://example.org", next_at=OLD))
    stays = [
        with_image,
        waited_for,
        job(database, YOUNG),
        job(database, OLD, status="running"),
        job(database, OLD, status="queued"),
        job(database, OLD, JobKind.TRAIN, model_id="mdl_1"),
        job(database, OLD, JobKind.EXPORT, model_id="mdl_1"),
    ]
    assert retention.retire(database, blobs, settings(keep_jobs_days=5)) == {"jobs": len(goes)}
    assert left(database, Job) == set(stays)
    assert blobs.keys("models") == []


def test_old_exports_go_with_their_files(database: Database) -> None:
    blobs = MemoryBlobs()
    model(database, "mdl_1", status=ModelStatus.READY)
    old, young = (job(database, at, JobKind.EXPORT, model_id="mdl_1") for at in (OLD, YOUNG))
    for job_id in (old, young):
        blobs.put(export_key("mdl_1", job_id, 0), b"zip")
    assert retention.retire(database, blobs, settings(keep_exports_days=5)) == {"exports": 1}
    assert left(database, Job) == {young}
    assert blobs.keys("models") == [export_key("mdl_1", young, 0)]


def test_old_checkpoints_go_but_for_the_newest_the_best_the_current_and_the_needed(database: Database) -> None:
    blobs = MemoryBlobs()
    for name, status in (("mdl_1", ModelStatus.READY), ("mdl_2", ModelStatus.TRAINING)):
        model(database, name, status=status)
        with database.transaction() as session:
            row = session.get_one(Model, name)
            for seen, score in enumerate((5.0, 1.0, 4.0, 4.0, 4.0, 4.0), 1):
                prefix = f"models/{name}/{seen}-1"
                blobs.put(f"{prefix}/generator", b"g")
                kept.add_checkpoint(
                    session,
                    row,
                    images_seen=seen,
                    blob=prefix,
                    scores={"fd_domain": score},
                    now=YOUNG if seen == 5 else OLD,
                    most=9,
                )
            kept.promote(row, session.get_one(TrainingCheckpoint, (name, 3)), follow=False)
    job(database, YOUNG, JobKind.TRAIN, "queued", model_id="mdl_3", checkpoint="models/mdl_1/4-1")

    gone = retention.retire(database, blobs, settings(keep_checkpoints_days=5))

    assert gone == {"checkpoints": 1}
    with database.snapshot() as session:
        assert [row.images_seen for row in kept.read_checkpoints(session, "mdl_1")] == [2, 3, 4, 5, 6]
        assert len(kept.read_checkpoints(session, "mdl_2")) == 6
    assert blobs.keys("models/mdl_1/1-1") == []
    assert len(blobs.keys("models")) == 11
    assert retention.retire(database, blobs, settings(keep_checkpoints_days=5)) == {}


def test_what_failed_goes_after_a_month_unless_it_is_needed(database: Database) -> None:
    blobs, long_ago = MemoryBlobs(), NOW - timedelta(days=40)
    for name, status, at in (
        ("ds_old", DatasetStatus.FAILED, long_ago),
        ("ds_young", DatasetStatus.FAILED, OLD),
        ("ds_good", DatasetStatus.READY, long_ago),
    ):
        add(database, Dataset(id=name, name="d", status=status, created_at=at))
        blobs.put(f"datasets/{name}/pixels.bin", b"p")
    made = {
        "kind": "k",
        "resolution": 8,
        "channels": 1,
        "options": {},
        "seed": 0,
        "metrics": {},
        "created_at": long_ago,
    }
    for name, checkpoint in (("mdl_empty", None), ("mdl_some", "models/mdl_some/1-1"), ("mdl_used", None)):
        add(database, Model(id=name, name="m", status=ModelStatus.FAILED, checkpoint=checkpoint, **made))
        blobs.put(f"models/{name}/1-1/generator", b"g")
    job(database, YOUNG, JobKind.SAMPLE, "queued", model_id="mdl_used")

    assert retention.retire(database, blobs, Settings(_env_file=None)) == {
        "failed data sets": 1,
        "failed models": 1,
    }
    assert left(database, Dataset) == {"ds_young", "ds_good"}
    assert left(database, Model) == {"mdl_some", "mdl_used"}
    assert blobs.keys("datasets/ds_old") == blobs.keys("models/mdl_empty") == []
    assert len(blobs.keys("datasets")) == len(blobs.keys("models")) == 2


def test_a_blob_that_can_t_be_deleted_stops_nothing(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    from store.errors import BlobsUnavailable

    class ReadOnly(MemoryBlobs):
        def delete(self, prefix: str) -> None:
            raise BlobsUnavailable("read-only")

    blobs = ReadOnly()
    image(database, blobs, job(database, OLD), OLD)
    assert retention.retire(database, blobs, settings(keep_images_days=5)) == {"images": 1}
    assert left(database, Image) == set()
    assert "is left behind" in caplog.text


def test_two_hosts_that_look_at_the_same_time_do_no_harm(database: Database) -> None:
    blobs, limits = MemoryBlobs(), settings(keep_images_days=5, keep_jobs_days=5)
    for _ in range(20):
        image(database, blobs, job(database, OLD), OLD)
        job(database, OLD)
    start = threading.Barrier(2)

    def look() -> Counter[str]:
        start.wait(10)
        return sum((retention.retire(database, blobs, limits) for _ in range(2)), Counter())

    with ThreadPoolExecutor(2) as hosts:
        first, second = [host.result() for host in [hosts.submit(look) for _ in range(2)]]

    retention.retire(database, blobs, limits)
    assert left(database, Job) == left(database, Image) == set()
    assert first["jobs"] + second["jobs"] >= 20
