"""A backup of the whole service while it trains and generates, restored elsewhere, where it goes on."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from sqlalchemy import select

from app.cli import credential
from app.client import Client
from store.backup import back_up
from store.blobs import LocalBlobs
from store.database import Database
from store.garbage import collect
from store.manifest import verify
from store.records import Image, Job, JobStatus
from store.restore import restore
from tests.e2e.test_killed_workers import OPTIONS, ended, until
from tests.running import running
from tests.worker.conftest import zip_of_squares

SETTINGS = {"CHECKPOINT_INTERVAL_S": "0.5", "TORCH_THREADS": "1", "MAX_BATCH": "16"}


@pytest.mark.e2e
@pytest.mark.slow  # tests/store/test_backup.py has the parts
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_backup_under_load_is_whole_and_the_service_goes_on_from_it(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    target, here, there = tmp_path / "backup", tmp_path / "here", tmp_path / "there"
    url = request.getfixturevalue("postgres_url") if kind == "postgresql" else f"sqlite:///{here / 'darkroom.db'}"
    settings = SETTINGS | ({"DATABASE_URL": url} if kind == "postgresql" else {})

    # Given a service that trains, and generates with what it has so far
    with running(here, **settings) as (_, address), Client(address, api_key=credential.kept(here, address)) as client:
        key = credential.kept(here, address)
        job = client.upload(io.BytesIO(zip_of_squares(64)), name="squares", resolution=32)
        assert ended(client, job["id"])["status"] == "succeeded"
        training = client.train(job["dataset"], kind="gan-dcgan", budget={"seconds": 20}, options=OPTIONS, seed=1)
        events = client.events(training["id"])
        while not client.model(training["model"])["images_seen"]:
            until(events, "metrics")
        generation = client.generate(training["model"], n=3000, seed=10)
        until(client.events(generation["id"]), "image")

        # When it is backed up
        database, blobs = Database(url), LocalBlobs(here / "blobs")
        made = back_up(database, blobs, target)
        database.close()

    # Then it is whole
    assert verify(target) == made
    assert made.missing == []

    # And restored it has every picture that its rows name, and no orphan
    there.mkdir()
    restored, copies = Database(f"sqlite:///{there / 'darkroom.db'}"), LocalBlobs(there / "blobs")
    restore(target, restored, copies)
    with restored.snapshot() as session:
        images = session.scalars(select(Image)).all()
        unfinished = set(session.scalars(select(Job.id).where(Job.status == JobStatus.QUEUED)))
    assert training["id"] in unfinished
    assert len(images) == made.tables["images"].rows > 0
    for image in images:
        assert hashlib.sha256(copies.get(image.blob)).hexdigest() == image.sha256
    found = collect(restored, copies, grace_s=-60, dry=True)
    assert (found.removed, found.missing) == ([], [])
    restored.close()

    # And a service that starts on it ends the training, from its last checkpoint, and the generation
    with running(there, **SETTINGS) as (_, address), Client(address, api_key=key) as client:
        seen = client.model(training["model"])["images_seen"]
        assert seen > 0
        assert ended(client, training["id"])["status"] == "succeeded"
        assert client.model(training["model"])["images_seen"] > seen
        assert ended(client, generation["id"])["status"] == "succeeded"
        assert len(client.images(generation["id"])) == 3000
