from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from models import trainer
from models.generator import Generator
from store import curves, jobs
from store.errors import LeaseLost
from store.queue import Lane
from store.records import Job, JobKind, JobStatus, Model, ModelStatus
from tests.worker.conftest import Desk
from worker import training
from worker.running import Run, Station, run_queued
from worker.training import train_model


def model_of(desk: Desk) -> Model:
    with desk.resources.database.snapshot() as session:
        return session.get_one(Model, "mdl_new")


def weights(desk: Desk) -> bytes:
    checkpoint = model_of(desk).checkpoint
    assert checkpoint is not None
    return desk.resources.blobs.get(f"{checkpoint}/training.safetensors")


def stop_once_when(condition: Callable[[Run], bool], then: Callable[[Run], None]) -> Callable[[Run], bool]:
    """A should_stop that does `then` the first time that `condition` holds."""
    original = Run.should_stop
    done: list[bool] = []

    def should_stop(run: Run) -> bool:
        if not done and condition(run):
            done.append(True)
            then(run)
        return original(run)

    return should_stop


def has_checkpoint(desk: Desk) -> Callable[[Run], bool]:
    return lambda run: model_of(desk).checkpoint is not None


def test_a_training_ends_with_a_model_that_can_generate(station: Station, desk: Desk) -> None:
    desk.dataset()
    job_id = desk.train_job(images=64)
    run_queued(station, Lane.TRAIN, train_model)
    job, model = desk.job(job_id), model_of(desk)
    assert job.status is JobStatus.SUCCEEDED
    assert (model.status, model.images_seen, model.classes) == (ModelStatus.READY, 64, ["dark", "light"])
    assert set(model.metrics["losses"]) == {"D_real", "D_fake", "G"}
    assert model.checkpoint is not None
    assert model.preview is not None
    generator = Generator.load(desk.resources.blobs.fetch(model.checkpoint, desk.resources.settings.scratch_dir))
    assert generator.images_seen == 64
    assert {"metrics", "preview", "progress", "done"} <= set(desk.events(job_id))
    with desk.resources.database.snapshot() as session:
        points = curves.read_points(session, model.id, most=100)
    assert points[-1].images_seen == 64
    assert set(points[-1].losses) == {"D_real", "D_fake", "G"}


def test_of_the_previews_only_the_newest_two_are_kept(station: Station, desk: Desk) -> None:
    settings = station.resources.settings.model_copy(update={"preview_interval_s": 0.01})
    often = Station(station.owner, dataclasses.replace(station.resources, settings=settings), station.heartbeat)
    desk.dataset()
    job_id = desk.train_job(images=200)
    run_queued(often, Lane.TRAIN, train_model)
    assert desk.events(job_id).count("preview") > 2
    kept = desk.resources.blobs.keys("models/mdl_new/previews")
    assert len(kept) == 2
    assert kept[-1] == model_of(desk).preview


def test_old_checkpoints_are_dropped_unless_a_queued_sample_is_pinned_to_them(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.dataset()
    job_id = desk.train_job(images=800)
    pinned: list[str] = []

    def pin(run: Run) -> None:
        pinned.append(desk.sample_job(1, model="mdl_new"))

    monkeypatch.setattr(Run, "should_stop", stop_once_when(has_checkpoint(desk), pin))
    run_queued(station, Lane.TRAIN, train_model)
    assert desk.job(job_id).status is JobStatus.SUCCEEDED
    prefixes = {key.rpartition("/")[0] for key in desk.resources.blobs.keys("models/mdl_new")}
    newest, kept = model_of(desk).checkpoint, desk.job(pinned[0]).checkpoint
    assert newest != kept
    assert prefixes == {newest, kept, "models/mdl_new/previews"}


def test_a_killed_training_goes_on_from_its_last_checkpoint_to_the_same_weights(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Ends the work as abruptly as a test can from within."""

    def kill(run: Run) -> None:
        raise Killed

    desk.dataset()
    job_id = desk.train_job(images=800)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "should_stop", stop_once_when(has_checkpoint(desk), kill))
        with pytest.raises(Killed):
            run_queued(station, Lane.TRAIN, train_model)
    assert desk.job(job_id).status is JobStatus.RUNNING
    with desk.resources.database.transaction() as session:
        jobs.recover(session, now=desk.resources.database.now(session), max_attempts=3, owner="worker-1@here")
    began: list[int] = []
    original = trainer.train

    def watched(*args: object, **kwargs: object) -> object:
        began.append(model_of(desk).images_seen)
        return original(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(training, "train", watched)
    run_queued(station, Lane.TRAIN, train_model)
    job = desk.job(job_id)
    assert (job.status, job.fence) == (JobStatus.SUCCEEDED, 2)
    assert began[0] > 0
    resumed = weights(desk)
    with desk.resources.database.snapshot() as session:
        seen = [point.images_seen for point in curves.read_points(session, "mdl_new", most=5000)]
    assert seen == sorted(set(seen))  # what happened twice is told once

    with desk.resources.database.transaction() as session:
        session.delete(session.get_one(Model, "mdl_new"))
    desk.resources.blobs.delete("models/mdl_new")
    desk.train_job(images=800)
    run_queued(station, Lane.TRAIN, train_model)
    assert weights(desk) == resumed


def test_a_canceled_training_keeps_what_it_has_learnt(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel(run: Run) -> None:
        with run.resources.database.transaction() as session:
            jobs.request_cancel(session, run.claim.job_id, now=run.resources.database.now(session))

    desk.dataset()
    job_id = desk.train_job(images=10_000_000)
    monkeypatch.setattr(Run, "should_stop", stop_once_when(has_checkpoint(desk), cancel))
    run_queued(station, Lane.TRAIN, train_model)
    model = model_of(desk)
    assert desk.job(job_id).status is JobStatus.CANCELED
    assert model.status is ModelStatus.READY
    assert 0 < model.images_seen < 10_000_000


def test_a_drained_training_writes_a_checkpoint_and_goes_back_into_the_line(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.dataset()
    job_id = desk.train_job(images=10_000_000)
    steps = iter(range(100))
    monkeypatch.setattr(
        Run, "should_stop", stop_once_when(lambda run: next(steps) == 5, lambda run: station.draining.set())
    )
    run_queued(station, Lane.TRAIN, train_model)
    job = desk.job(job_id)
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
    assert model_of(desk).images_seen == job.cursor > 0


def test_a_worker_that_lost_its_lease_does_not_move_the_model(station: Station, desk: Desk) -> None:
    desk.dataset()
    desk.train_job(images=64)
    claim = desk.claim(JobKind.TRAIN)
    with desk.resources.database.transaction() as session:
        jobs.recover(session, now=desk.resources.database.now(session), max_attempts=3, owner=claim.owner)
    desk.claim(JobKind.TRAIN, owner="worker-2@there")
    with pytest.raises(LeaseLost):
        train_model(Run(station, claim))
    assert model_of(desk).checkpoint is None


def test_a_deleted_data_set_fails_the_training_with_a_reason(station: Station, desk: Desk) -> None:
    job_id = desk.train_job()
    run_queued(station, Lane.TRAIN, train_model)
    job = desk.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "data_missing")
    assert model_of(desk).status is ModelStatus.FAILED
    with desk.resources.database.snapshot() as session:
        assert session.get_one(Job, job_id).error_retryable is False
