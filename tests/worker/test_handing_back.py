"""A worker that is told to end hands back what it is doing, at once and without an attempt, and another finishes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from store.queue import LANE_OF
from store.records import JobKind, JobStatus
from tests.worker.conftest import Desk, zip_of_squares
from tests.worker.test_exporting import export_job
from worker.exporting import export_model
from worker.importing import import_dataset
from worker.running import Finish, Run, Station, run_queued
from worker.training import train_model


def _import(desk: Desk) -> str:
    return desk.import_job(zip_of_squares(40))


def _train(desk: Desk) -> str:
    desk.dataset()
    return desk.train_job(images=32)


def _export(desk: Desk) -> str:
    desk.model()
    return export_job(desk)


@pytest.mark.parametrize(
    ("kind", "submit", "work"),
    [
        (JobKind.IMPORT, _import, import_dataset),
        (JobKind.TRAIN, _train, train_model),
        (JobKind.EXPORT, _export, export_model),
    ],
)
def test_what_is_under_way_at_sigterm_goes_back_into_the_line_and_another_worker_ends_it(
    kind: JobKind,
    submit: Callable[[Desk], str],
    work: Callable[[Run], Finish],
    station: Station,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, lane = Run.should_stop, LANE_OF[kind]

    def told(run: Run) -> bool:
        station.draining.set()  # as SIGTERM does it
        return original(run)

    job_id = submit(desk)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "should_stop", told)
        run_queued(station, lane, work)
    job = desk.job(job_id)
    assert (job.status, job.owner, job.lease_until, job.attempts, job.fence) == (JobStatus.QUEUED, None, None, 0, 1)
    assert desk.resources.queue.waiting(lane) == 1  # another one is woken
    scratch = desk.resources.settings.scratch_dir
    assert list(scratch.iterdir()) == []

    run_queued(replace(station, owner="worker-2@there", draining=type(station.draining)()), lane, work)
    job = desk.job(job_id)
    assert (job.status, job.attempts, job.fence) == (JobStatus.SUCCEEDED, 1, 2)
