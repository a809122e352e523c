from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from models import distributed
from models.evaluation import LiveMeasure
from models.event_log import can_log
from models.gan.dcgan import DcganObjective
from models.generator import Generator
from models.objective import Batch
from models.trainer import Outcome
from store import curves, jobs, kept
from store.errors import LeaseLost
from store.queue import Lane
from store.records import Job, JobKind, JobStatus, Model, ModelStatus, TrainingCheckpoint
from tests.worker.conftest import Desk
from worker import publishing, training
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


def changed(station: Station, **settings: object) -> Station:
    resources = station.resources
    return dataclasses.replace(
        station, resources=dataclasses.replace(resources, settings=resources.settings.model_copy(update=settings))
    )


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_is_trained_on_all_devices_that_its_batch_can_be_shared_among(
    processes: int, station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given three devices and batches of 8, when a job is trained, I expect two of them to share the work, and to be told:
    in the quick run by who is asked to, in the slow one by two processes."""
    asked: list[list[str]] = []
    original = distributed.train_on

    def train_on(devices: list[str], *args: Any, **kwargs: Any) -> Outcome:
        asked.append(devices)
        return original(devices[:processes], *args, **kwargs)

    monkeypatch.setattr(training, "train_on", train_on)
    desk.dataset()
    job_id = desk.train_job(images=32)
    run_queued(dataclasses.replace(station, further=("cpu", "cpu")), Lane.TRAIN, train_model)
    assert desk.job(job_id).status is JobStatus.SUCCEEDED
    assert asked == [["cpu", "cpu"]]
    assert model_of(desk).images_seen == 32
    assert {"note", "metrics", "preview", "progress", "done"} <= set(desk.events(job_id))


def kept_checkpoints(desk: Desk) -> list[TrainingCheckpoint]:
    with desk.resources.database.snapshot() as session:
        return kept.read_checkpoints(session, "mdl_new")


def test_of_the_previews_a_few_are_kept_from_the_first_to_the_newest(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "KEPT_PREVIEWS", 4)
    desk.dataset()
    job_id = desk.train_job(images=120)
    run_queued(changed(station, preview_interval_s=0.001), Lane.TRAIN, train_model)
    assert desk.events(job_id).count("preview") > 4
    with desk.resources.database.snapshot() as session:
        rows = kept.read_previews(session, "mdl_new")
    assert len(rows) == 4
    assert rows[-1].images_seen == 120
    assert rows[-1].blob == model_of(desk).preview
    files = desk.resources.blobs.keys("models/mdl_new/previews")
    assert {row.blob for row in rows} <= set(files)
    assert len(files) <= 5


def test_old_checkpoints_are_dropped_unless_a_queued_sample_is_pinned_to_them(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "KEPT_CHECKPOINTS", 2)
    desk.dataset()
    job_id = desk.train_job(images=160)
    pinned: list[str] = []

    def pin(run: Run) -> None:
        pinned.append(desk.sample_job(1, model="mdl_new"))

    monkeypatch.setattr(Run, "should_stop", stop_once_when(has_checkpoint(desk), pin))
    run_queued(changed(station, checkpoint_interval_s=0.001), Lane.TRAIN, train_model)
    assert desk.job(job_id).status is JobStatus.SUCCEEDED
    keys = desk.resources.blobs.keys("models/mdl_new")
    rows, pinned_to = kept_checkpoints(desk), desk.job(pinned[0]).checkpoint
    assert len(rows) == 2
    assert rows[-1].blob == model_of(desk).checkpoint != pinned_to
    assert {key.rpartition("/")[0] for key in keys} == {
        *(row.blob for row in rows),
        pinned_to,
        "models/mdl_new/previews",
    }
    # Only the newest can be gone on with; the others are generators.
    assert [key for key in keys if key.endswith("training.safetensors")] == [f"{rows[-1].blob}/training.safetensors"]
    assert f"{rows[0].blob}/generator.safetensors" in keys


def _scored(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Trainings are measured, and find these scores, the last one again and again."""
    left = list(scores)

    def measure(generator: Generator) -> dict[str, float]:
        return {"fd_domain": left.pop(0) if len(left) > 1 else left[0]}

    monkeypatch.setattr(training, "live_measure", lambda *args, **kwargs: LiveMeasure(measure, "said once"))


OFTEN: dict[str, object] = {"evaluation_interval_s": 0.0, "evaluation_share": 0.5}


@pytest.mark.parametrize(
    ("scores", "request_more", "is_best"),
    [((5.0, 1.0, 4.0), {}, True), ((5.0, 3.9, 4.0), {}, False), ((5.0, 1.0, 4.0), {"promote_best": False}, False)],
)
def test_a_model_ends_as_its_best_checkpoint_where_that_is_clearly_better(
    scores: tuple[float, ...],
    request_more: dict[str, object],
    is_best: bool,
    station: Station,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _scored(monkeypatch, *scores)
    desk.dataset()
    job_id = desk.train_job(images=160)
    with desk.resources.database.transaction() as session:
        job = session.get_one(Job, job_id)
        job.request = {**job.request, **request_more}

    run_queued(changed(station, **OFTEN), Lane.TRAIN, train_model)

    job, model, rows = desk.job(job_id), model_of(desk), kept_checkpoints(desk)
    assert (job.status, rows[-1].images_seen) == (JobStatus.SUCCEEDED, 160)
    best = kept.best(rows)
    assert best is not None
    assert best.scores == {"fd_domain": scores[1]}
    assert model.checkpoint == (best if is_best else rows[-1]).blob
    assert model.promoted == (best.images_seen if is_best else None)
    assert job.result is not None
    assert (job.result["images_seen"], job.result["promoted"]) == (160, model.promoted)
    assert "note" in desk.events(job_id)
    with desk.resources.database.snapshot() as session:
        points = [point for point in curves.read_points(session, model.id, most=100) if point.scores]
    assert {"fd_domain": scores[1]} in [point.scores for point in points]
    assert set(points[-1].gauges or {}) >= {"R_t", "lr_G"}


def test_a_promoted_checkpoint_stays_while_the_training_goes_on(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []

    def choose(run: Run) -> None:
        with run.resources.database.transaction() as session:
            model = session.get_one(Model, "mdl_new")
            row = kept.read_checkpoints(session, "mdl_new")[0]
            kept.promote(model, row, follow=False)
            chosen.append(row.blob)

    _scored(monkeypatch, 2.0, 1.0, 9.0)
    desk.dataset()
    desk.train_job(images=160)
    monkeypatch.setattr(Run, "should_stop", stop_once_when(has_checkpoint(desk), choose))
    run_queued(changed(station, **OFTEN), Lane.TRAIN, train_model)
    model, rows = model_of(desk), kept_checkpoints(desk)
    assert model.checkpoint == chosen[0] == rows[0].blob
    assert rows[-1].images_seen == 160


def test_a_rollback_forgets_what_it_undoes_and_is_told(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a model that collapses until it is penalised, I expect one line of curves, one of checkpoints, and a note."""

    def measure(generator: Generator) -> dict[str, float]:
        collapsed = generator.images_seen > 80 and generator.options.model_dump()["penalty"] == "none"
        return {"fd_domain": 1.0, "coverage": 0.1 if collapsed else 0.8, "coverage_floor": 0.9}

    monkeypatch.setattr(training, "live_measure", lambda *args, **kwargs: LiveMeasure(measure))
    desk.dataset()
    job_id = desk.train_job(images=160)
    with desk.resources.database.transaction() as session:
        job = session.get_one(Job, job_id)
        job.request = {**job.request, "on_trouble": "rollback"}
    run_queued(changed(station, **OFTEN), Lane.TRAIN, train_model)

    job, model, rows = desk.job(job_id), model_of(desk), kept_checkpoints(desk)
    assert job.status is JobStatus.SUCCEEDED, job.error_message
    assert job.result is not None
    (rollback,) = job.result["rollbacks"]
    assert rollback["options"] == {"penalty": "r1"}
    assert rollback["back_to"] <= 80 < rollback["seen_at"]
    assert "coverage_drop" not in {trouble["name"] for trouble in model.metrics["troubles"]}
    (note,) = model.metrics["notes"]
    assert "penalty = r1" in note
    assert all(row.scores["coverage"] == 0.8 for row in rows if row.scores)
    with desk.resources.database.snapshot() as session:
        points = curves.read_points(session, model.id, most=1000)
    assert all(point.scores["coverage"] == 0.8 for point in points if point.scores)
    assert points[-1].images_seen == 160


@pytest.mark.skipif(not can_log(), reason="tensorboard is not installed")
def test_event_files_lie_in_a_folder_called_like_the_model(station: Station, desk: Desk) -> None:
    desk.dataset()
    desk.train_job(images=16)
    run_queued(changed(station, tensorboard=True), Lane.TRAIN, train_model)
    assert list((desk.resources.settings.data_dir / "tensorboard" / "mdl_new").glob("events.out.tfevents.*"))


def test_patience_ends_a_training_early(station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    _scored(monkeypatch, 1.0)
    desk.dataset()
    job_id = desk.train_job(images=10_000_000)
    with desk.resources.database.transaction() as session:
        job = session.get_one(Job, job_id)
        job.request = {**job.request, "patience": 1}
    run_queued(changed(station, **OFTEN), Lane.TRAIN, train_model)
    job = desk.job(job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert job.result is not None
    assert job.result["gave_up"] is True


def test_a_killed_training_goes_on_from_its_last_checkpoint_to_the_same_weights(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Ends the work as abruptly as a test can from within."""

    def kill(run: Run) -> None:
        raise Killed

    station = changed(station, checkpoint_interval_s=0.01)
    desk.dataset()
    job_id = desk.train_job(images=240)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "should_stop", stop_once_when(has_checkpoint(desk), kill))
        with pytest.raises(Killed):
            run_queued(station, Lane.TRAIN, train_model)
    assert desk.job(job_id).status is JobStatus.RUNNING
    with desk.resources.database.transaction() as session:
        jobs.recover(session, now=desk.resources.database.now(session), max_attempts=3, owner="worker-1@here")
    began: list[int] = []
    original = distributed.train_on

    def watched(*args: object, **kwargs: object) -> object:
        began.append(model_of(desk).images_seen)
        return original(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(training, "train_on", watched)
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
    desk.train_job(images=240)
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


def test_a_worker_that_lost_its_lease_deletes_nothing_of_its_successor(station: Station, desk: Desk) -> None:
    """Paused between the commit of a checkpoint and the clearing away of older ones."""
    desk.train_job()
    claim = desk.claim(JobKind.TRAIN)
    older, newer, successors = (f"models/mdl_new/{place}/generator.json" for place in ("016-1", "032-1", "048-2"))
    desk.resources.blobs.put_many(dict.fromkeys((older, newer, successors), b"{}"))
    publishing.Publisher(Run(station, claim)).drop_all_but({"models/mdl_new/032-1"}, whole=())
    assert desk.resources.blobs.keys("models/mdl_new") == [newer, successors]


def test_a_deleted_data_set_fails_the_training_with_a_reason(station: Station, desk: Desk) -> None:
    job_id = desk.train_job()
    run_queued(station, Lane.TRAIN, train_model)
    job = desk.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "data_missing")
    assert model_of(desk).status is ModelStatus.FAILED
    with desk.resources.database.snapshot() as session:
        assert session.get_one(Job, job_id).error_retryable is False


def test_a_training_whose_loss_is_no_number_fails_with_what_to_do_and_its_model_is_the_last_good_checkpoint(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = DcganObjective.generator_losses

    def spoilt(self: DcganObjective, batch: Batch) -> dict[str, Tensor]:
        bad = model_of(desk).checkpoint is not None  # once there is a checkpoint
        return {name: loss * float("nan") if bad else loss for name, loss in original(self, batch).items()}

    monkeypatch.setattr(DcganObjective, "generator_losses", spoilt)
    desk.dataset()
    job_id = desk.train_job(images=10_000)
    run_queued(changed(station, checkpoint_interval_s=0.01), Lane.TRAIN, train_model)
    job, model = desk.job(job_id), model_of(desk)
    assert (job.status, job.error_code, job.error_retryable) == (JobStatus.FAILED, "training_diverged", False)
    assert "learning_rate" in (job.error_message or "")
    assert model.status is ModelStatus.READY
    assert model.checkpoint is not None
    generator = Generator.load(desk.resources.blobs.fetch(model.checkpoint, desk.resources.settings.scratch_dir))
    assert 0 < generator.images_seen == model.images_seen == job.cursor
    assert all(parameter.isfinite().all() for parameter in generator.network.parameters())


def test_auto_is_settled_when_the_training_begins_and_kept(station: Station, desk: Desk) -> None:
    """Given a wish for few pictures without labels, I expect a kind, complete options and the reasons in job and model."""
    desk.dataset()
    training = desk.train_job(images=16, kind="auto", conditional=False, batch_size=4)
    run_queued(station, Lane.TRAIN, train_model)
    job = desk.job(training)
    assert job.status is JobStatus.SUCCEEDED
    with desk.resources.database.snapshot() as session:
        model = session.get_one(Model, "mdl_new")
    assert job.request["kind"] == model.kind == "vae-gan"
    assert job.request["options"] == model.options
    assert (model.options["batch_size"], model.options["latent_dim"]) == (4, 8)
    assert "unlabelled pictures" in model.metrics["choice"][0]
