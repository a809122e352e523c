"""The whole service as a user runs it, while its Redis and its disk fail: every process goes on by itself."""

from __future__ import annotations

import io
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.cli import credential
from app.client import Client
from store.events import connect
from tests.e2e.test_killed_workers import OPTIONS, ended
from tests.running import family, running
from tests.services import NotInstalled, Server, absent, redis_of_ones_own
from tests.worker.conftest import zip_of_squares

SILENT_S = 7.0  # longer than a worker waits for its broker


@pytest.fixture
def own_redis() -> Iterator[Server]:
    try:
        with redis_of_ones_own() as server:
            yield server
    except NotInstalled as error:
        absent(str(error))


def silence(server: Server) -> None:
    server.pause()
    threading.Event().wait(SILENT_S)
    server.resume()


def restart_empty(server: Server) -> None:
    with connect(server.url) as client:
        client.flushall()
    server.stop()
    server.start()


def take_no_writes(server: Server) -> None:
    with connect(server.url) as client:
        client.config_set("maxmemory", 1)
        threading.Event().wait(3.0)
        client.config_set("maxmemory", 0)


def workers(process: subprocess.Popen[str]) -> set[psutil.Process]:
    return {one for one in family(process) if "worker.main" in one.cmdline()}


@pytest.mark.e2e
@pytest.mark.slow
def test_every_worker_goes_on_by_itself_after_each_trouble_with_redis(own_redis: Server, tmp_path: Path) -> None:
    settings = {"REDIS_URL": own_redis.url, "TORCH_THREADS": "1", "CHECKPOINT_INTERVAL_S": "0.5", "RECONCILE_S": "2"}
    data_dir = tmp_path / "data"
    with (
        running(data_dir, **settings) as (process, url),
        Client(url, api_key=credential.kept(data_dir, url)) as client,
    ):
        job = client.upload(io.BytesIO(zip_of_squares(64)), name="squares", resolution=32)
        assert ended(client, job["id"])["status"] == "succeeded"
        job = client.train(job["dataset"], kind="gan-dcgan", budget={"images": 64}, options=OPTIONS, seed=1)
        assert ended(client, job["id"])["status"] == "succeeded"
        before, model = workers(process), job["model"]

        troubles: list[Callable[[Server], None]] = [silence, restart_empty, take_no_writes]
        for trouble in troubles:
            during = client.generate(model, n=40, seed=1)
            trouble(own_redis)
            after = client.generate(model, n=1, seed=2)
            for one in (during, after):
                assert ended(client, one["id"])["status"] == "succeeded", trouble.__name__
            # Celery ends an idle worker whose broker refuses a command, and the launcher starts it again.
            assert workers(process) == before or trouble is take_no_writes, trouble.__name__
        job = client.train(client.model(model)["dataset"], kind="gan-dcgan", budget={"images": 64}, options=OPTIONS)
        assert ended(client, job["id"])["status"] == "succeeded"
