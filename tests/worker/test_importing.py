from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from models.manifest import Manifest
from store import jobs
from store.queue import Lane
from store.records import Dataset, DatasetStatus, JobKind, JobStatus
from store.resources import Resources
from tests.worker.conftest import Desk, zip_of_squares
from worker.importing import discard_upload, import_dataset
from worker.running import Station, run_queued


def dataset_of(desk: Desk) -> Dataset:
    with desk.resources.database.snapshot() as session:
        return session.get_one(Dataset, "ds_new")


def run(station: Station) -> None:
    run_queued(station, Lane.IO, import_dataset, discard_upload)


def test_an_upload_becomes_a_data_set_and_is_deleted(station: Station, desk: Desk, tmp_path: Path) -> None:
    job_id = desk.import_job(zip_of_squares(10))
    run(station)
    job, dataset = desk.job(job_id), dataset_of(desk)
    assert (job.status, job.result) == (JobStatus.SUCCEEDED, {"dataset": "ds_new", "images": 10, "refused": 0})
    assert (dataset.status, dataset.image_count, dataset.resolution, dataset.channels) == (
        DatasetStatus.READY,
        10,
        32,
        1,
    )
    assert dataset.classes == [{"name": "dark", "count": 5}, {"name": "light", "count": 5}]
    assert desk.resources.blobs.size("datasets/ds_new/images.u8") == 10 * 32 * 32
    assert not desk.resources.blobs.exists("uploads/ds_new.zip")
    assert list(desk.resources.settings.scratch_dir.iterdir()) == []


def test_a_damaged_file_is_named_in_the_manifest_and_the_others_are_used(station: Station, desk: Desk) -> None:
    upload = io.BytesIO(zip_of_squares(4))
    with zipfile.ZipFile(upload, "a") as archive:
        archive.writestr("light/broken.png", b"\x89PNG\r\n\x1a\n and no more")
    desk.import_job(upload.getvalue())
    run(station)
    assert (dataset_of(desk).image_count, dataset_of(desk).refused_count) == (4, 1)
    folder = desk.resources.blobs.fetch("datasets/ds_new", desk.resources.settings.scratch_dir)
    assert [refused.path for refused in Manifest.read(folder).refused] == ["light/broken.png"]


def test_duplicates_are_dropped_as_the_request_says(station: Station, desk: Desk) -> None:
    upload = io.BytesIO(zip_of_squares(4))
    with zipfile.ZipFile(upload, "a") as archive:
        (first, *_) = archive.namelist()
        archive.writestr("light/copy.png", archive.read(first))
    desk.import_job(upload.getvalue(), duplicates="drop-exact")
    run(station)
    assert dataset_of(desk).refused_count >= 1
    folder = desk.resources.blobs.fetch("datasets/ds_new", desk.resources.settings.scratch_dir)
    assert any(refused.reason.startswith("the same file as") for refused in Manifest.read(folder).refused)


def test_an_archive_without_pictures_fails_the_data_set_with_a_reason(station: Station, desk: Desk) -> None:
    upload = io.BytesIO()
    with zipfile.ZipFile(upload, "w") as archive:
        archive.writestr("readme.txt", "no pictures here")
    job_id = desk.import_job(upload.getvalue())
    run(station)
    job = desk.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "no_usable_images")
    assert dataset_of(desk).status is DatasetStatus.FAILED
    assert not desk.resources.blobs.exists("uploads/ds_new.zip")


def _submit_path(resources: Resources, path: Path) -> str:
    with resources.database.transaction() as session:
        session.add(Dataset(id="ds_new", name="new"))
        request = {"source": {"path": str(path)}, "name": "new", "resolution": 32, "channels": None}
        return jobs.submit(
            session, JobKind.IMPORT, request, now=resources.database.now(session), dataset_id="ds_new"
        ).id


@pytest.mark.parametrize("inside", [True, False])
def test_a_path_is_read_only_inside_this_workers_import_root(
    station: Station, desk: Desk, tmp_path: Path, *, inside: bool
) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root, elsewhere):
        folder.mkdir()
        with zipfile.ZipFile(io.BytesIO(zip_of_squares(4))) as archive:
            archive.extractall(folder / "squares")
    (root / "link").symlink_to(elsewhere / "squares")
    settings = station.resources.settings.model_copy(update={"import_root": root.resolve()})
    resources = Resources(
        settings, desk.resources.database, desk.resources.blobs, desk.resources.bus, desk.resources.queue
    )
    job_id = _submit_path(resources, root / ("squares" if inside else "link"))
    run(Station(station.owner, resources, station.heartbeat))
    job = desk.job(job_id)
    assert job.status is (JobStatus.SUCCEEDED if inside else JobStatus.FAILED)
    assert inside or "DARKROOM_IMPORT_ROOT" in (job.error_message or "")
