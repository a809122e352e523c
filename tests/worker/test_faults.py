"""Faults of the surroundings: jobs go back into the line, cost no attempt, and end as if nothing had been once it heals."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.errors import BadCheckpoint, DiskFull, NewerFormat, OutOfSpace
from store.blobs import LocalBlobs, Settle
from store.database import Database
from store.errors import BlobsUnavailable, DatabaseUnavailable, StorageFull
from store.failing_blobs import FailingBlobs
from store.queue import Lane
from store.records import Dataset, Image, Job, JobKind, JobStatus, Model
from store.resources import Resources
from tests.worker.conftest import Desk, zip_of_squares
from worker.errors import Beyond, ChildFailed, fault
from worker.heartbeat import Heartbeat
from worker.importing import import_dataset
from worker.pauses import Pauses
from worker.running import Finish, Run, Station, run_queued
from worker.sampler import SliceSampler
from worker.training import train_model


def system(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def caused(error: Exception, number: int) -> Exception:
    error.__cause__ = system(number)
    return error


SURROUNDINGS = {
    "storage full": (StorageFull("full"), "storage_full"),
    "blobs away": (BlobsUnavailable("away"), "unavailable"),
    "full while a checkpoint is written": (DiskFull("full"), "storage_full"),
    "full while pictures are prepared": (OutOfSpace("full"), "storage_full"),
    "full in a child": (ChildFailed("DiskFull", "full"), "storage_full"),
    "full scratch": (system(errno.ENOSPC), "storage_full"),
    "read-only scratch": (system(errno.EROFS), "unavailable"),
    "a share that went away": (caused(BadCheckpoint("unreadable"), errno.ESTALE), "unavailable"),
    "too many open files": (system(errno.EMFILE), "unavailable"),
    "of a later release": (NewerFormat("format 2"), "newer_format"),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_job_whose_surroundings_fail_goes_back_into_the_line_and_ends_well_when_they_are_mended(
    station: Station, desk: Desk, name: str
) -> None:
    error, _ = SURROUNDINGS[name]
    left, attempts = iter(range(7)), list[int]()  # more often than a job may lose its worker

    def work(run: Run) -> Finish:
        attempts.append(run.claim.attempt)
        for _ in left:
            raise error
        return lambda _session: {}

    job_id = desk.import_job(b"")
    run_queued(station, Lane.IO, work)

    job = desk.job(job_id)
    assert (job.status, attempts) == (JobStatus.SUCCEEDED, [1] * 8)
    assert desk.events(job_id)[1:3] == ["note", "status"]
    assert station.heartbeat.held() == []


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_job_that_only_gets_no_further_for_that_fails_when_the_patience_is_at_an_end(
    station: Station, desk: Desk, name: str
) -> None:
    """Given a disk that is too small for one job, I expect that job to end, so that the worker is not busy with it for ever."""
    error, code = SURROUNDINGS[name]
    job_id = desk.import_job(b"")

    def work(run: Run) -> Finish:
        with run.resources.database.transaction() as session:
            job = session.get_one(Job, job_id)
            if job.put_back_at is not None:
                job.put_back_at -= timedelta(hours=23)
        raise error

    run_queued(station, Lane.IO, work)

    job = desk.job(job_id)
    assert (job.status, job.error_code, job.error_retryable) == (JobStatus.FAILED, code, True)


def test_the_others_go_first_when_a_job_was_put_back(station: Station, desk: Desk) -> None:
    first, second = desk.import_job(b""), list[str]()
    order: list[str] = []

    def work(run: Run) -> Finish:
        order.append(run.claim.job_id)
        if len(order) == 1:
            with run.resources.database.transaction() as session:
                row = session.get_one(Job, first)
                second.append(_copy(session, row))
            raise StorageFull("full")
        return lambda _session: {}

    run_queued(station, Lane.IO, work)

    assert order == [first, *second, first]


def _copy(session: Session, row: Job) -> str:
    columns = {column.name: getattr(row, column.name) for column in Job.__table__.columns}
    columns |= {"id": "job_second", "status": JobStatus.QUEUED, "owner": None, "dataset_id": "ds_other"}
    session.add(Job(**columns))
    return "job_second"


def test_progress_that_is_kept_begins_the_patience_anew(station: Station, desk: Desk) -> None:
    from store import jobs

    def work(run: Run) -> Finish:
        with run.resources.database.transaction() as session:
            jobs.advance(session, run.claim, run.claim.cursor + 1)
        if run.claim.cursor < 3:
            raise StorageFull("full")
        return lambda _session: {}

    job_id = desk.import_job(b"")
    run_queued(replace(station, resources=_with(station.resources, keep_trying_s=3600)), Lane.IO, work)
    job = desk.job(job_id)
    assert (job.status, job.put_back_at) == (JobStatus.SUCCEEDED, None)


def test_what_the_work_itself_did_wrong_is_no_fault_of_its_surroundings() -> None:
    for error in (ValueError("x"), BadCheckpoint("damaged"), FileNotFoundError(2, "gone"), PermissionError(13, "no")):
        assert fault(error) is None
    assert isinstance(fault(NewerFormat("x")), Beyond)


def test_a_job_is_put_back_once_the_database_is_back_and_its_lease_is_held_meanwhile(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, database = desk.import_job(b""), station.resources.database
    transaction, refusals = Database.transaction, iter(range(4))

    @contextmanager
    def away(self: Database) -> Iterator[Session]:
        for _ in refusals:
            assert self is not database or threading.current_thread().name == "heartbeat" or station.heartbeat.held()
            raise DatabaseUnavailable("it restarts")
        with transaction(self) as session:
            yield session

    def work(run: Run) -> Finish:
        if run.claim.fence == 1:
            monkeypatch.setattr(Database, "transaction", away)
            raise BlobsUnavailable("away as well")
        return lambda _session: {}

    run_queued(station, Lane.IO, work)

    assert (desk.job(job_id).status, desk.job(job_id).attempts) == (JobStatus.SUCCEEDED, 1)


def test_a_worker_that_must_end_while_the_database_is_away_does_so(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = desk.import_job(b"")

    @contextmanager
    def away(_: Database) -> Iterator[Session]:
        station.draining.set()
        raise DatabaseUnavailable("it is away for good")
        yield

    def work(run: Run) -> Finish:
        monkeypatch.setattr(Database, "transaction", away)
        raise BlobsUnavailable("away as well")

    transaction = Database.transaction
    run_queued(station, Lane.IO, work)
    monkeypatch.setattr(Database, "transaction", transaction)

    assert desk.job(job_id).status is JobStatus.RUNNING  # its lease runs out


def test_pauses_grow_to_a_bound_and_begin_anew_when_something_went_well() -> None:
    pauses, waited = Pauses(1.0, 5.0), list[float]()

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            return False

    for _ in range(4):
        pauses.take(Clock())
    pauses.reset()
    pauses.take(Clock())

    assert waited == [1.0, 2.0, 4.0, 5.0, 1.0]


def _with(resources: Resources, *, blobs: Any = None, **settings: Any) -> Resources:
    return replace(
        resources,
        settings=resources.settings.model_copy(update=settings),
        blobs=blobs if blobs is not None else resources.blobs,
    )


# Samplers


def images(resources: Resources, job_id: str) -> Mapping[int, bytes]:
    with resources.database.snapshot() as session:
        rows = session.scalars(select(Image).where(Image.job_id == job_id))
        return {row.position: resources.blobs.get(row.blob) for row in rows}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_sampler_whose_blobs_fail_half_way_through_batches_makes_every_picture_once(
    station: Station, desk: Desk, number: int
) -> None:
    desk.model()
    SliceSampler(station).serve()
    undisturbed = desk.sample_job(20, seed=5)
    SliceSampler(station).serve()
    blobs = FailingBlobs(station.resources.blobs)
    job_ids = [desk.sample_job(20, seed=5), desk.sample_job(3, seed=7)]
    blobs.fail(number, after=11, times=9)

    SliceSampler(replace(station, resources=_with(station.resources, blobs=blobs))).serve()

    assert blobs.failures_left == 0
    assert [desk.job(job_id).status for job_id in job_ids] == [JobStatus.SUCCEEDED] * 2
    assert images(station.resources, job_ids[0]) == images(station.resources, undisturbed)
    assert station.heartbeat.held() == []


def test_a_picture_is_committed_only_once_its_disk_has_it(station: Station, desk: Desk, tmp_path: Path) -> None:
    settled: list[Mapping[int, bytes]] = []

    class FullWhenFlushed(LocalBlobs):
        """Whose disk turns out to be full the first time that it is waited for."""

        def begin_many(self, blobs: Mapping[str, bytes]) -> Settle:
            settle = super().begin_many(blobs)

            def fail_once() -> None:
                settle()
                settled.append(images(resources, job_id))
                if len(settled) == 1:
                    raise StorageFull("full")

            return fail_once

    resources = _with(station.resources, blobs=FullWhenFlushed(tmp_path / "blobs"))
    own = Desk(resources, desk._prepared_dir, desk._checkpoint_dir)
    own.model()
    job_id = own.sample_job(1)

    SliceSampler(replace(station, resources=resources)).serve()

    assert settled == [{}, {}]
    assert own.job(job_id).status is JobStatus.SUCCEEDED
    assert list(images(resources, job_id)) == [0]


def test_a_sampler_whose_blobs_disk_vanishes_waits_for_it(station: Station, desk: Desk, small_disk: Path) -> None:
    """Given weights on a disk that is not mounted, I expect the job to wait, not to fail because its model was deleted."""
    resources = _with(station.resources, blobs=LocalBlobs(small_disk))
    own = Desk(resources, desk._prepared_dir, desk._checkpoint_dir)
    own.model()
    kept = {key: resources.blobs.get(key) for key in resources.blobs.keys("models")}
    subprocess.run(["umount", "-l", small_disk], check=True)
    job_id = own.sample_job(2)

    class Mount(Pauses):
        """Mounts the disk during the third pause."""

        taken = 0

        def take(self, until: threading.Event) -> bool:
            self.taken += 1
            assert own.job(job_id).status is JobStatus.QUEUED
            if self.taken == 3:
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "darkroom-test", small_disk], check=True)
                LocalBlobs(small_disk).put_many(kept)
            return until.wait(0.01)

    SliceSampler(replace(station, resources=resources, pauses=Mount())).serve()

    assert own.job(job_id).status is JobStatus.SUCCEEDED
    assert sorted(images(resources, job_id)) == [0, 1]


# Imports and trainings


def fill(disk: Path) -> Callable[[], None]:
    """Fills a disk to the last byte; returns what frees it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        _write_for_ever(file)
    return ballast.unlink


def _write_for_ever(file: IO[bytes]) -> None:
    while True:
        file.write(bytes(4096))


def freeing(free: Callable[[], None], after: int) -> Pauses:
    class Freeing(Pauses):
        taken = 0

        def take(self, until: threading.Event) -> bool:
            self.taken += 1
            if self.taken == after:
                free()
            return until.wait(0.01)

    return Freeing()


@pytest.mark.parametrize("which", ["blobs", "scratch"])
def test_an_import_onto_a_full_disk_goes_back_into_the_line_and_succeeds_when_there_is_room(
    station: Station, desk: Desk, small_disk: Path, which: str
) -> None:
    disk = small_disk / "data"
    resources = (
        _with(station.resources, blobs=LocalBlobs(disk))
        if which == "blobs"
        else _with(station.resources, data_dir=disk)
    )
    own = Desk(resources, desk._prepared_dir, desk._checkpoint_dir)
    job_id = own.import_job(zip_of_squares())
    resources.settings.scratch_dir.mkdir(parents=True, exist_ok=True)

    station = replace(station, resources=resources, pauses=freeing(fill(small_disk), after=4))
    run_queued(station, Lane.IO, import_dataset)

    assert own.job(job_id).status is JobStatus.SUCCEEDED
    assert resources.blobs.exists("datasets/ds_new/manifest.json")


def test_a_training_goes_on_while_the_blobs_disk_is_full_and_publishes_what_it_learnt_when_there_is_room(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.publishing.AGAIN_S", 0.0)
    desk.dataset()
    blobs = FailingBlobs(station.resources.blobs)
    blobs.fail(errno.ENOSPC, after=2, times=9)  # the first checkpoint is half stored
    job_id = desk.train_job(images=400)

    run_queued(replace(station, resources=_with(station.resources, blobs=blobs)), Lane.TRAIN, train_model)

    job = desk.job(job_id)
    assert (job.status, job.attempts, blobs.failures_left) == (JobStatus.SUCCEEDED, 1, 0)
    with station.resources.database.snapshot() as session:
        model = session.get_one(Model, "mdl_new")
    assert model.images_seen == 400
    assert station.resources.blobs.exists(f"{model.checkpoint}/generator.safetensors")


def test_a_training_whose_database_has_a_full_disk_is_put_back_once_there_is_room_for_that(
    station: Station, desk: Desk, small_disk: Path
) -> None:
    database = Database(f"sqlite:///{small_disk}/darkroom.db")
    database.migrate()
    resources = replace(station.resources, database=database)
    own = Desk(resources, desk._prepared_dir, desk._checkpoint_dir)
    own.dataset()
    job_id = own.train_job(images=160)

    class Freeing(Pauses):
        taken = 0

        def take(self, until: threading.Event) -> bool:
            self.taken += 1
            if self.taken == 3:
                (small_disk / "ballast").unlink()
            return until.wait(0.01)

    def work(run: Run) -> Finish:
        if run.claim.fence == 1:
            fill(small_disk)
            for number in itertools.count():  # until the log of writes is full as well
                with run.resources.database.transaction() as session:
                    session.add(Dataset(id=f"ds_{number}", name="x", classes=[{"name": "y" * 50_000, "count": 1}]))
        return train_model(run)

    with Heartbeat(resources) as heartbeat:
        pauses = Freeing()
        run_queued(replace(station, resources=resources, heartbeat=heartbeat, pauses=pauses), Lane.TRAIN, work)

    assert pauses.taken > 3
    assert (own.job(job_id).status, own.job(job_id).attempts) == (JobStatus.SUCCEEDED, 1)
    database.close()


def test_jobs_of_a_later_release_are_left_for_its_workers(station: Station, desk: Desk) -> None:
    desk.model()
    needs_more = [desk.sample_job(1, needs=2), desk.import_job(b"")]
    with station.resources.database.transaction() as session:
        session.get_one(Job, needs_more[1]).needs = 2

    SliceSampler(station).serve()
    run_queued(station, Lane.IO, import_dataset)

    assert [desk.job(job_id).status for job_id in needs_more] == [JobStatus.QUEUED] * 2
    assert JobKind.SAMPLE in Lane.SAMPLE.kinds


def test_a_defect_in_the_sampler_leaves_no_job_held(
    station: Station, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.model()
    job_id = desk.sample_job(1)
    sampler = SliceSampler(station)

    def defect(_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(sampler, "_collect", defect)
    with pytest.raises(ZeroDivisionError):
        sampler.serve()

    assert desk.job(job_id).status is JobStatus.QUEUED
    assert station.heartbeat.held() == []
