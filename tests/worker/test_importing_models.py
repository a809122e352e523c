"""An uploaded export becomes a model that can generate; one that is none fails its job and leaves nothing."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch

from models.generator import CARD, WEIGHTS
from store import jobs
from store.queue import Lane
from store.records import JobKind, JobStatus, Model, ModelStatus
from tests.worker.conftest import Desk
from worker.importing import discard_upload
from worker.importing_models import import_model
from worker.running import Station, run_queued

BLOB = "uploads/mdl_new.zip"


def run(station: Station, desk: Desk, upload: bytes) -> str:
    desk.resources.blobs.put(BLOB, upload)
    with desk.resources.database.transaction() as session:
        request = {"source": {"blob": BLOB}, "name": "shoes"}
        now = desk.resources.database.now(session)
        job = jobs.submit(
            session,
            JobKind.IMPORT_MODEL,
            request,
            now=now,
            model_id="mdl_new",
            total=1,
            unit="files",
            account="shop",
        )
    run_queued(station, Lane.IO, import_model, discard_upload)
    return job.id


def test_an_uploaded_export_becomes_a_model(station: Station, desk: Desk, checkpoint_dir: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in (CARD, WEIGHTS):
            archive.write(checkpoint_dir / name, name)
    job = desk.job(run(station, desk, file.getvalue()))
    assert (job.status, job.result) == (JobStatus.SUCCEEDED, {"model": "mdl_new"}), job.error_message
    with desk.resources.database.snapshot() as session:
        model = session.get_one(Model, "mdl_new")
        assert (model.name, model.status, model.account) == ("shoes", ModelStatus.READY, "shop")
        assert model.checkpoint is not None
        stored = {
            key.rpartition("/")[2]: desk.resources.blobs.get(key) for key in desk.resources.blobs.keys(model.checkpoint)
        }
    assert stored == {name: (checkpoint_dir / name).read_bytes() for name in (CARD, WEIGHTS)}
    assert not desk.resources.blobs.exists(BLOB)


def test_a_pickle_fails_the_job_with_the_way_to_convert_it_and_leaves_nothing(station: Station, desk: Desk) -> None:
    file = io.BytesIO()
    torch.save({"main.0.weight": torch.zeros(1)}, file)
    job = desk.job(run(station, desk, file.getvalue()))
    assert (job.status, job.error_code) == (JobStatus.FAILED, "foreign_weights")
    assert "import-dcgan" in (job.error_message or "")
    assert not desk.resources.blobs.exists(BLOB)
    assert desk.resources.blobs.keys("models") == []
