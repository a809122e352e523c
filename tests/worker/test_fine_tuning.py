"""Train jobs that begin with another model, need it no longer than they must, and end before they copy."""

from __future__ import annotations

import pytest

from models.evaluation import LiveMeasure
from models.generator import Generator
from store import kept
from store.queue import Lane
from store.records import Job, JobStatus, Model
from tests.worker.conftest import Desk
from tests.worker.test_training import changed, has_checkpoint, model_of, stop_once_when
from worker import publishing, training
from worker.running import Run, Station, run_queued
from worker.training import train_model


def test_a_job_begins_with_the_pinned_weights_and_lets_go_of_them(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given the other model deleted once the job has a checkpoint, when its worker stops and another goes on, I expect it to
    end well all the same."""
    desk.dataset()
    source = desk.model()
    job_id = desk.train_job(images=64, init_from=source)
    began = desk.job(job_id).checkpoint
    assert began == f"models/{source}/000000000032-1"

    def lose_source(run: Run) -> None:
        assert desk.job(job_id).checkpoint is None
        desk.resources.blobs.delete(f"models/{source}")
        station.draining.set()

    monkeypatch.setattr(Run, "should_stop", stop_once_when(has_checkpoint(desk), lose_source))
    run_queued(station, Lane.TRAIN, train_model)
    assert desk.job(job_id).status is JobStatus.QUEUED
    assert model_of(desk).checkpoint is not None
    station.draining.clear()
    run_queued(station, Lane.TRAIN, train_model)
    job, model = desk.job(job_id), model_of(desk)
    assert job.status is JobStatus.SUCCEEDED, job.error_message
    assert model.images_seen == 64
    assert "It began as a gan-dcgan that had seen 32 images: its discriminator too" in model.metrics["notes"][0]


def test_without_the_other_model_a_job_says_what_is_missing(station: Station, desk: Desk) -> None:
    desk.dataset()
    source = desk.model()
    job_id = desk.train_job(images=64, init_from=source)
    with desk.resources.database.transaction() as session:
        session.get_one(Job, job_id).checkpoint = None
    run_queued(station, Lane.TRAIN, train_model)
    job = desk.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "no_checkpoint")
    assert "no model to begin with" in (job.error_message or "")


def test_a_source_that_learns_on_keeps_what_another_training_will_begin_with(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a training pinned to a checkpoint of one that goes on, I expect that checkpoint to stay with all its networks."""
    monkeypatch.setattr(publishing, "KEPT_CHECKPOINTS", 2)
    desk.dataset()
    desk.train_job(images=160)
    pinned: list[str] = []

    def pin(run: Run) -> None:
        blob = model_of(desk).checkpoint
        assert blob is not None
        pinned.append(blob)
        with desk.resources.database.transaction() as session:
            own = session.get_one(Job, run.claim.job_id)
            session.add(
                Model(id="mdl_fine", name="fine", kind="gan-dcgan", resolution=32, channels=1, options={}, seed=0)
            )
            session.add(Job(id="job_fine", kind=own.kind, request={}, model_id="mdl_fine", checkpoint=blob))

    monkeypatch.setattr(Run, "should_stop", stop_once_when(has_checkpoint(desk), pin))
    run_once = station.draining
    original = training.train_model

    def first_only(run: Run) -> object:
        finish = original(run)
        run_once.set()
        return finish

    run_queued(changed(station, checkpoint_interval_s=0.001), Lane.TRAIN, first_only)  # type: ignore[arg-type] # as it is
    keys = desk.resources.blobs.keys("models/mdl_new")
    assert model_of(desk).checkpoint != pinned[0]
    assert {f"{pinned[0]}/training.safetensors", f"{pinned[0]}/training.json"} <= set(keys)


def test_a_job_ends_as_the_last_checkpoint_that_copied_nothing(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(generator: Generator) -> dict[str, float]:
        return {"fd_domain": 1.0, "copies": 0.4 if generator.images_seen >= 32 else 0.01}

    monkeypatch.setattr("models.appraisal.Appraisals.due", lambda self, *, ending=False: True)
    monkeypatch.setattr(training, "live_measure", lambda *args, **kwargs: LiveMeasure(measure))
    desk.dataset()
    job_id = desk.train_job(images=800, init_from=desk.model())
    run_queued(changed(station, checkpoint_interval_s=0.0001), Lane.TRAIN, train_model)
    job, model = desk.job(job_id), model_of(desk)
    assert job.status is JobStatus.SUCCEEDED, job.error_message
    assert job.result is not None
    assert (job.result["went_back"], job.result["images_seen"], model.images_seen) == (True, 24, 24)
    assert [trouble["name"] for trouble in job.result["troubles"]] == ["memorising"]
    assert "It ended as it was after 24 images" in model.metrics["notes"][-1]
    assert model.metrics["scores"] == {"images_seen": 24, "fd_domain": 1.0, "copies": 0.01}
    with desk.resources.database.snapshot() as session:
        rows = kept.read_checkpoints(session, model.id)
        assert kept.read_previews(session, model.id)[-1].images_seen == 24
    assert rows[-1].images_seen == 24
    assert rows[-1].blob == model.checkpoint
    assert rows[-1].scores == {"fd_domain": 1.0, "copies": 0.01}
