from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.catalog import parse_options
from models.data import PreparedImages
from models.evaluation import MEASURES
from models.trainer import TrainingConfig, train
from store import jobs
from store.queue import Lane
from store.records import JobKind, JobStatus, Model
from store.resources import Resources
from store.strips import strips_key
from tests.pictures import prepared_shapes
from tests.worker.conftest import SMALL, Desk
from tests.worker.test_training import changed, stop_once_when
from worker.evaluating import evaluate_model
from worker.running import Run, Station, run_claimed, run_queued
from worker.training import train_model


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty discs and squares: enough to be measured by."""
    return prepared_shapes(tmp_path_factory.mktemp("shapes"), 80, channels=1)


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TrainingConfig("gan-dcgan", 32, parse_options("gan-dcgan", SMALL), budget_images=32)
    return train(PreparedImages.open(shapes), config, tmp_path_factory.mktemp("run")).checkpoint


@pytest.fixture
def desk(resources: Resources, shapes: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr("models.evaluation.extractor.LESSON_IMAGES", 256)
    desk = Desk(resources, shapes, trained)
    desk.dataset()
    desk.model()
    return desk


def evaluate_job(desk: Desk, *, model: str = "mdl_squares", **request: object) -> str:
    with desk.resources.database.transaction() as session:
        job = jobs.submit(
            session,
            JobKind.EVALUATE,
            {"n": 12, "seed": 0, "against": None, **request},
            now=desk.resources.database.now(session),
            dataset_id="ds_squares",
            model_id=model,
            checkpoint=session.get_one(Model, model).checkpoint,
            total=100,
            unit="percent",
        )
        return job.id


def row_of(desk: Desk, model: str) -> Model:
    with desk.resources.database.snapshot() as session:
        return session.get_one(Model, model)


def model_of(desk: Desk) -> Model:
    return row_of(desk, "mdl_squares")


def test_a_model_is_measured_and_its_row_says_how_good_it_is(station: Station, desk: Desk) -> None:
    with desk.resources.database.transaction() as session:
        session.get_one(Model, "mdl_squares").metrics = {"losses": {"G": 1.0}}
    job_id = evaluate_job(desk)
    run_queued(station, Lane.TRAIN, evaluate_model)
    job, metrics = desk.job(job_id), model_of(desk).metrics
    assert job.status is JobStatus.SUCCEEDED, job.error_message
    found = metrics["evaluation"]
    assert job.result == {"model": "mdl_squares", "evaluation": found}
    assert metrics["losses"] == {"G": 1.0}
    assert (found["job"], found["dataset"], found["images_seen"], found["n"]) == (job_id, "ds_squares", 32, 12)
    assert set(found["scores"]) == set(MEASURES) - {"classifier_accuracy_score", "fid", "inception_score"}, (
        "of which twelve pictures are too few"
    )
    assert (found["seed"], found["extractor_seed"]) == (0, 0)
    assert desk.resources.blobs.get(strips_key("mdl_squares", job_id)).startswith(b"\x89PNG")
    assert {"title", "better", "value", "floor", "spread"} == set(found["scores"]["kid"])
    assert "progress" in desk.events(job_id)
    assert job.done == 100


def test_the_extractor_is_kept_beside_the_data_set_and_learns_once(station: Station, desk: Desk) -> None:
    """Given two evaluations, I expect one lesson, one hash, and equal numbers."""
    first, second = evaluate_job(desk), evaluate_job(desk)
    run_queued(station, Lane.TRAIN, evaluate_model)
    kept = [key for key in desk.resources.blobs.keys("datasets/ds_squares") if "extractor" in key]
    assert kept == ["datasets/ds_squares/extractor-32.json", "datasets/ds_squares/extractor-32.safetensors"]
    one, two = ((desk.job(job_id).result or {})["evaluation"] for job_id in (first, second))
    assert one["extractor_sha256"] == two["extractor_sha256"]
    assert one["scores"] == two["scores"]


def test_another_data_set_can_be_compared_with(station: Station, desk: Desk, tmp_path: Path) -> None:
    others = prepared_shapes(tmp_path, 60, channels=1, classes=4)
    for path in others.iterdir():
        desk.resources.blobs.put_file(f"datasets/ds_others/{path.name}", path)
    job_id = evaluate_job(desk, against="ds_others")
    run_queued(station, Lane.TRAIN, evaluate_model)
    job = desk.job(job_id)
    assert job.status is JobStatus.SUCCEEDED, job.error_message
    assert (job.result or {})["evaluation"]["memorisation"]["held_out_unseen"]


def test_numbers_of_older_weights_do_not_replace_those_of_newer_ones(station: Station, desk: Desk) -> None:
    with desk.resources.database.transaction() as session:
        session.get_one(Model, "mdl_squares").metrics = {"evaluation": {"images_seen": 33}}
    job_id = evaluate_job(desk)
    run_queued(station, Lane.TRAIN, evaluate_model)
    assert desk.job(job_id).status is JobStatus.SUCCEEDED
    assert model_of(desk).metrics == {"evaluation": {"images_seen": 33}}


@pytest.mark.parametrize("moment", [0, 1, 5])
def test_a_canceled_evaluation_ends_without_a_trace(
    moment: int, station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[[Run], bool] = Run.should_stop
    asked = iter(range(1000))

    def cancel_in_time(run: Run) -> bool:
        if next(asked) == moment:
            with run.resources.database.transaction() as session:
                jobs.request_cancel(session, run.claim.job_id, now=run.resources.database.now(session))
            run.station.heartbeat._beat(renew=False)
        return original(run)

    monkeypatch.setattr(Run, "should_stop", cancel_in_time)
    job_id = evaluate_job(desk)
    run_queued(station, Lane.TRAIN, evaluate_model)
    assert desk.job(job_id).status is JobStatus.CANCELED
    assert "evaluation" not in model_of(desk).metrics


def test_an_evaluation_at_sigterm_goes_back_into_the_line(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[[Run], bool] = Run.should_stop

    def told(run: Run) -> bool:
        station.draining.set()
        return original(run)

    monkeypatch.setattr(Run, "should_stop", told)
    job_id = evaluate_job(desk)
    run_queued(station, Lane.TRAIN, evaluate_model)
    job = desk.job(job_id)
    assert (job.status, job.owner, job.attempts) == (JobStatus.QUEUED, None, 0)
    assert desk.resources.queue.waiting(Lane.TRAIN) == 1


def test_a_worker_that_lost_its_lease_writes_nothing(station: Station, desk: Desk) -> None:
    job_id = evaluate_job(desk)
    claim = desk.claim(JobKind.EVALUATE)
    with desk.resources.database.transaction() as session:
        jobs.recover(session, now=desk.resources.database.now(session), max_attempts=3, owner=claim.owner)
    desk.claim(JobKind.EVALUATE, owner="worker-2@there")
    assert not run_claimed(Run(station, claim), evaluate_model)
    assert desk.job(job_id).owner == "worker-2@there"
    assert "evaluation" not in model_of(desk).metrics


def test_too_few_images_fail_the_job_with_a_reason(station: Station, desk: Desk, prepared_dir: Path) -> None:
    desk.resources.blobs.delete("datasets/ds_squares")
    for path in prepared_dir.iterdir():
        desk.resources.blobs.put_file(f"datasets/ds_squares/{path.name}", path)
    job_id = evaluate_job(desk)
    run_queued(station, Lane.TRAIN, evaluate_model)
    job = desk.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "too_few_images")
    assert "at least 50" in (job.error_message or "")


def test_the_trainer_s_lane_does_both(station: Station, desk: Desk) -> None:
    """Given a training and an evaluation in the line, I expect the lane's one task to end both well."""
    from store.queue import celery_app
    from worker.tasks import register

    train_id, evaluate_id = desk.train_job(images=8), evaluate_job(desk)
    app = celery_app("redis://nobody.invalid:1/0")
    register(app, Lane.TRAIN, station)
    app.tasks[Lane.TRAIN.queue_name]()
    assert desk.job(train_id).status is JobStatus.SUCCEEDED
    assert desk.job(evaluate_id).status is JobStatus.SUCCEEDED


def test_weights_that_wait_to_be_measured_are_kept(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an evaluation asked for in mid-training, when newer weights come, I expect it to measure those it was asked for."""
    train_id = desk.train_job(images=160)
    waiting: list[str] = []

    def ask(run: Run) -> None:
        waiting.append(evaluate_job(desk, model="mdl_new"))

    monkeypatch.setattr(
        Run, "should_stop", stop_once_when(lambda run: row_of(desk, "mdl_new").checkpoint is not None, ask)
    )
    run_queued(
        changed(station, checkpoint_interval_s=0.001),
        Lane.TRAIN,
        lambda run: {"train": train_model, "evaluate": evaluate_model}[run.claim.kind](run),
    )
    assert desk.job(train_id).status is JobStatus.SUCCEEDED
    job = desk.job(waiting[0])
    assert job.status is JobStatus.SUCCEEDED, job.error_message
    assert (job.result or {})["evaluation"]["images_seen"] < row_of(desk, "mdl_new").images_seen
