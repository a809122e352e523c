"""The whole service as a user runs it, while its workers are killed."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.cli import credential
from app.client import Client, Event
from tests.running import family, running
from tests.worker.conftest import zip_of_squares

OPTIONS = {"base_channels": 8, "latent_dim": 16, "batch_size": 16}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def service(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    settings = {"CHECKPOINT_INTERVAL_S": "0.5", "TORCH_THREADS": "1", "MAX_BATCH": "16"}
    if request.param == "postgresql":
        settings["DATABASE_URL"] = request.getfixturevalue("postgres_url")
    data_dir = tmp_path / "data"
    with (
        running(data_dir, **settings) as (process, url),
        Client(url, api_key=credential.kept(data_dir, url)) as client,
    ):
        yield process, client


def kill(process: subprocess.Popen[str], lane: str) -> None:
    """SIGKILL for the worker of the lane: no handler runs, nothing is flushed."""
    for one in family(process):
        words = one.cmdline()
        if "worker.main" in words and words[words.index("--lane") + 1] == lane:
            os.kill(one.pid, signal.SIGKILL)
            psutil.wait_procs([one])


def until(events: Iterator[Event], type: str) -> Event:  # noqa: A002  # the field's own name
    return next(event for event in events if event.type == type)


def ended(client: Client, job_id: str) -> dict[str, object]:
    for _ in client.events(job_id):
        pass
    return client.job(job_id)


@pytest.mark.slow
@pytest.mark.e2e
def test_work_goes_on_by_itself_after_workers_are_killed(service: tuple[subprocess.Popen[str], Client]) -> None:
    process, client = service
    job = client.upload(io.BytesIO(zip_of_squares(64)), name="squares", resolution=32)
    assert ended(client, job["id"])["status"] == "succeeded"

    # Given a training that has stored a checkpoint, when its worker is killed, I expect it to go on from there.
    job = client.train(job["dataset"], kind="gan-dcgan", budget={"images": 6000}, options=OPTIONS, seed=1)
    for _ in range(2):
        seen = client.model(job["model"])["images_seen"]
        events = client.events(job["id"])
        while client.model(job["model"])["images_seen"] <= seen:
            until(events, "metrics")
        kill(process, "train")
    training = ended(client, job["id"])
    assert training["status"] == "succeeded"
    assert client.model(job["model"])["images_seen"] >= 6000

    # Given a job half made, when its worker is killed, I expect every image to arrive exactly once.
    job = client.generate(job["model"], n=600, seed=10)
    for _ in range(2):
        until(client.events(job["id"]), "image")
        kill(process, "sample")
    assert ended(client, job["id"])["status"] == "succeeded"
    images = client.images(job["id"])
    assert [image["position"] for image in images] == list(range(600))
    assert [image["seed"] for image in images] == list(range(10, 610))

    # And I expect the bytes of a run that nobody disturbed.
    again = client.generate(job["model"], n=3, seed=400)
    assert ended(client, again["id"])["status"] == "succeeded"
    undisturbed = [image["sha256"] for image in client.images(again["id"])]
    assert [image["sha256"] for image in images[390:393]] == undisturbed
    assert hashlib.sha256(client.content(images[0]["id"])).hexdigest() == images[0]["sha256"]
