from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from models.generator import CARD, WEIGHTS
from store import jobs
from store.exports import export_key
from store.queue import Lane, celery_app
from store.records import Job, JobKind, JobStatus, Model
from tests.worker.conftest import Desk, zip_of_squares
from worker.exporting import export_model
from worker.running import Run, Station, run_claimed, run_queued
from worker.tasks import register
from worker.training import train_model


def export_job(desk: Desk, form: str = "native", *, model: str = "mdl_squares") -> str:
    with desk.resources.database.transaction() as session:
        job = jobs.submit(
            session,
            JobKind.EXPORT,
            {"format": form},
            now=desk.resources.database.now(session),
            model_id=model,
            checkpoint=session.get_one(Model, model).checkpoint,
            total=1,
            unit="files",
        )
        return job.id


def key_of(job: Job) -> str:
    return export_key("mdl_squares", job.id, job.fence)


def exported_before(desk: Desk) -> str:
    """The key of an export in the native form that has ended well."""
    export_job(desk)
    claim = desk.claim(JobKind.EXPORT)
    desk.resources.blobs.put(key := export_key("mdl_squares", claim.job_id, claim.fence), b"exported")
    with desk.resources.database.transaction() as session:
        jobs.succeed(session, claim, now=desk.resources.database.now(session), result={})
    return key


def test_a_model_becomes_a_zip_that_any_darkroom_loads(station: Station, desk: Desk, checkpoint_dir: Path) -> None:
    """Given two exports before and what a lost worker left, I expect the new zip, and of the others only what it replaces."""
    desk.model()
    desk.resources.blobs.put("models/mdl_squares/exports/job_lost-1.zip", b"of a worker that lost its lease")
    _, replaced = exported_before(desk), exported_before(desk)
    job_id = export_job(desk)
    run_queued(station, Lane.IO, export_model)
    job = desk.job(job_id)
    assert job.status is JobStatus.SUCCEEDED, job.error_message
    content = desk.resources.blobs.get(key_of(job))
    assert job.result == {
        "model": "mdl_squares",
        "format": "native",
        "images_seen": 32,
        "files": [CARD, WEIGHTS],
        "largest_difference": 0.0,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "url": "/v1/models/mdl_squares/exports/native",
    }
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == {
            name: (checkpoint_dir / name).read_bytes() for name in (CARD, WEIGHTS)
        }
    assert set(desk.resources.blobs.keys("models/mdl_squares/exports")) == {key_of(job), replaced}
    assert list(desk.resources.settings.scratch_dir.iterdir()) == []


def test_a_child_that_dies_without_a_word_fails_the_job(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.child.sys.executable", "/bin/false")
    desk.model()
    job_id = export_job(desk)
    run_queued(station, Lane.IO, export_model)
    job = desk.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "internal")
    assert "ended with 1" in (job.error_message or "")


@pytest.mark.slow
def test_a_canceled_export_ends_its_child_and_leaves_nothing(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[[Run], bool] = Run.should_stop

    def cancel_now(run: Run) -> bool:
        with run.resources.database.transaction() as session:
            jobs.request_cancel(session, run.claim.job_id, now=run.resources.database.now(session))
        run.station.heartbeat._beat(renew=False)
        return original(run)

    monkeypatch.setattr(Run, "should_stop", cancel_now)
    desk.model()
    job_id = export_job(desk)
    run_queued(station, Lane.IO, export_model)
    assert desk.job(job_id).status is JobStatus.CANCELED
    assert desk.resources.blobs.keys("models/mdl_squares/exports") == []
    assert list(desk.resources.settings.scratch_dir.iterdir()) == []


def test_a_worker_that_lost_its_lease_ends_no_job(station: Station, desk: Desk) -> None:
    desk.model()
    job_id = export_job(desk)
    claim = desk.claim(JobKind.EXPORT)
    with desk.resources.database.transaction() as session:
        jobs.recover(session, now=desk.resources.database.now(session), max_attempts=3, owner=claim.owner)
    desk.claim(JobKind.EXPORT, owner="worker-2@there")
    assert not run_claimed(Run(station, claim), export_model)
    assert desk.job(job_id).owner == "worker-2@there"


def test_a_training_that_goes_on_leaves_exports_alone(station: Station, desk: Desk) -> None:
    desk.dataset()
    training = desk.train_job(images=16)
    desk.resources.blobs.put("models/mdl_new/exports/job_before-1.zip", b"exported")
    run_queued(station, Lane.TRAIN, train_model)
    assert desk.job(training).status is JobStatus.SUCCEEDED
    assert desk.resources.blobs.exists("models/mdl_new/exports/job_before-1.zip")


@pytest.mark.slow
def test_the_io_lane_does_both_and_says_why_an_export_failed(station: Station, desk: Desk) -> None:
    """Given an import, and an export of damaged weights, in the line, I expect the lane's one task to end both: one well, the
    other for the reason that the child gave."""
    desk.model()
    with desk.resources.database.snapshot() as session:
        weights = f"{session.get_one(Model, 'mdl_squares').checkpoint}/{WEIGHTS}"
    desk.resources.blobs.put(weights, b"damaged")
    import_id, export_id = desk.import_job(zip_of_squares(4)), export_job(desk)
    app = celery_app("redis://nobody.invalid:1/0")
    register(app, Lane.IO, station)
    app.tasks[Lane.IO.queue_name]()
    assert desk.job(import_id).status is JobStatus.SUCCEEDED
    assert not desk.resources.blobs.exists("uploads/ds_new.zip")
    job = desk.job(export_id)
    assert (job.status, job.error_code, job.error_retryable) == (JobStatus.FAILED, "bad_checkpoint", False)
    assert "is torn" in (job.error_message or "")
    assert desk.resources.blobs.keys("models/mdl_squares/exports") == []


@pytest.mark.slow
def test_a_child_writes_other_forms_too(station: Station, desk: Desk) -> None:
    desk.model()
    job_id = export_job(desk, "onnx")
    run_queued(station, Lane.IO, export_model)
    job = desk.job(job_id)
    assert job.status is JobStatus.SUCCEEDED, job.error_message
    assert (job.result or {})["files"] == ["export.json", "generator.onnx"]
