"""The API while its resources fail for real: clear errors, nothing acknowledged is lost, and it heals without a restart."""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import events
from store.blobs import LocalBlobs
from store.events import RedisBus, connect
from store.outage import Outage
from store.queue import CeleryQueue, Lane
from store.records import JobKind
from tests.app.conftest import Service, assert_problem, at_the_same_time, eventually, running, zip_of
from tests.app.test_events import following
from tests.services import NotInstalled, Server, absent, postgres_of_ones_own, redis_of_ones_own

LONGEST_S = 2.0
ZIP = zip_of(**{"cat.png": b"not looked at here" * 10_000})


def upload(service: Service) -> httpx.Response:
    return service.http.post("/v1/datasets", files={"file": ("pets.zip", ZIP)})


def generate(service: Service, model: str) -> httpx.Response:
    return service.http.post("/v1/generations", json={"model": model})


def assert_away(response: httpx.Response, code: str) -> dict[str, Any]:
    problem = assert_problem(response, 503, code)
    assert int(response.headers["retry-after"]) > 0
    return problem


# Redis


@contextmanager
def with_redis(directory: Path) -> Iterator[tuple[Service, Server]]:
    """A service whose bus and queue are a Redis of this test's own."""
    try:
        with redis_of_ones_own() as server:
            outage = Outage()
            queue = CeleryQueue(server.url, outage)
            with running(directory, bus=RedisBus(server.url, outage), queue=queue) as service:
                yield service, server
    except NotInstalled as error:
        absent(str(error))


def refuse(server: Server) -> Callable[[], None]:
    server.stop()
    return server.start


def fall_silent(server: Server) -> Callable[[], None]:
    server.pause()
    return server.resume


def run_out_of_memory(server: Server) -> Callable[[], None]:
    def limit(to: int) -> None:
        with connect(server.url) as client:
            client.config_set("maxmemory", to)

    limit(1)
    return lambda: limit(0)


@pytest.mark.parametrize("spoil", [refuse, fall_silent, run_out_of_memory])
def test_without_redis_jobs_are_accepted_at_once_and_their_bell_rings_when_it_is_back(
    spoil: Callable[[Server], Callable[[], None]], tmp_path: Path
) -> None:
    with with_redis(tmp_path) as (service, server):
        model = service.add_model()
        mend = spoil(server)

        accepted = []
        for _ in range(3):
            began = time.monotonic()
            response = generate(service, model)
            assert response.status_code == 202
            assert time.monotonic() - began < LONGEST_S
            accepted.append(response.json()["id"])
        assert {job["id"] for job in service.http.get("/v1/jobs").json()["data"]} == set(accepted)
        if spoil is not run_out_of_memory:
            assert assert_away(service.http.get("/readyz"), "not_ready")["away"] == ["redis"]

        mend()
        eventually(lambda: service.http.get("/readyz").status_code == 200)
        service.resources.ring(Lane.SAMPLE)
        assert service.resources.queue.waiting(Lane.SAMPLE) == 1


def test_streams_and_waits_survive_a_redis_that_restarts_without_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "REREAD_S", 0.1)
    monkeypatch.setattr("app.jobs.REREAD_S", 0.1)
    with with_redis(tmp_path) as (service, server):
        job = generate(service, service.add_model()).json()
        with following(service, job["id"]) as told:
            assert next(told)[0] == "snapshot"
            server.stop()
            claim = service.worker.claim(JobKind.SAMPLE)
            assert next(told)[1]["status"] == "running"  # from its row
            server.start()
            with connect(server.url) as client:
                client.flushall()
            eventually(lambda: service.http.get("/readyz").status_code == 200)
            waited: list[Any] = []
            with at_the_same_time(
                lambda: waited.append(service.http.get(f"/v1/jobs/{job['id']}", params={"wait": 9}).json())
            ):
                service.worker.succeed(claim, {})
            assert [name for name, _, _ in told][-1] == "done"
            assert waited[0]["status"] == "succeeded"


# The database


def test_a_postgres_that_restarts_costs_clear_errors_and_nothing_acknowledged(tmp_path: Path) -> None:
    try:
        with postgres_of_ones_own() as server, running(tmp_path, database_url=server.url) as service:
            model = service.add_model()
            before = generate(service, model).json()["id"]
            server.stop()

            for response in (generate(service, model), service.http.get("/v1/jobs"), upload(service)):
                assert_away(response, "database_unavailable")
            assert assert_away(service.http.get("/readyz"), "not_ready")["away"] == ["database"]
            assert service.http.get("/healthz").status_code == 200
            assert not [name for name in service.blob_files() if name.startswith(("uploads", ".incoming"))]

            server.start()
            after = generate(service, model).json()["id"]
            assert {job["id"] for job in service.http.get("/v1/jobs").json()["data"]} == {before, after}
            assert service.http.get("/readyz").status_code == 200
    except NotInstalled as error:
        absent(str(error))


def fill(disk: Path) -> Path:
    """Fills a disk to the last byte; returns the file to delete."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return ballast


def test_a_full_disk_of_the_database_is_507_and_what_was_accepted_stays(tmp_path: Path, small_disk: Path) -> None:
    with running(tmp_path, database_url=f"sqlite:///{small_disk}/darkroom.db") as service:
        model = service.add_model()
        accepted = []
        ballast = fill(small_disk)
        while (response := generate(service, model)).status_code == 202:  # what the log of writes has room for
            accepted.append(response.json()["id"])

        assert_problem(response, 507, "storage_full")
        assert service.http.get(f"/v1/models/{model}").status_code == 200
        ballast.unlink()
        accepted.append(generate(service, model).json()["id"])
        assert {job["id"] for job in service.http.get("/v1/jobs?limit=100").json()["data"]} == set(accepted)


# Blobs


@contextmanager
def with_blobs_on(disk: Path, directory: Path) -> Iterator[Service]:
    """A service whose blobs have a disk of their own, which may vanish."""
    with running(directory, blobs_dir=disk) as service:
        yield service


def test_a_full_disk_of_blobs_is_507_for_uploads_leaves_no_half_file_and_can_be_read(
    tmp_path: Path, small_disk: Path
) -> None:
    with with_blobs_on(small_disk, tmp_path) as service:
        model = service.add_model()
        generate(service, model)
        service.worker.sample()
        [image] = service.http.get("/v1/images").json()["data"]
        files = service.blob_files()
        ballast = fill(small_disk)

        assert_problem(upload(service), 507, "storage_full")
        assert service.blob_files() == sorted([*files, "ballast"])
        assert service.http.get("/v1/datasets").json()["data"] == []
        assert assert_away(service.http.get("/readyz"), "not_ready")["away"] == ["blobs"]
        assert service.http.get(image["url"]).status_code == 200

        ballast.unlink()
        assert upload(service).status_code == 202
        assert service.http.get("/readyz").status_code == 200


def test_read_only_blobs_are_503_for_uploads_and_can_be_read(tmp_path: Path, small_disk: Path) -> None:
    with with_blobs_on(small_disk, tmp_path) as service:
        generate(service, service.add_model())
        service.worker.sample()
        [image] = service.http.get("/v1/images").json()["data"]
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)

        assert_away(upload(service), "blobs_unavailable")
        assert assert_away(service.http.get("/readyz"), "not_ready")["away"] == ["blobs"]
        assert service.http.get(image["url"]).status_code == 200

        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        assert upload(service).status_code == 202


def test_pictures_on_a_disk_that_is_not_mounted_are_away_not_gone(tmp_path: Path, small_disk: Path) -> None:
    with with_blobs_on(small_disk, tmp_path) as service:
        generate(service, service.add_model())
        service.worker.sample()
        [image] = service.http.get("/v1/images").json()["data"]
        kept = {key: service.resources.blobs.get(key) for key in service.resources.blobs.keys("images")}
        subprocess.run(["umount", "-l", small_disk], check=True)

        assert_away(service.http.get(image["url"]), "blobs_unavailable")
        assert_away(upload(service), "blobs_unavailable")
        assert list(small_disk.iterdir()) == []

        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "darkroom-test", small_disk], check=True)
        LocalBlobs(small_disk).put_many(kept)
        assert service.http.get(image["url"]).content == kept[image_blob(kept)]


def image_blob(kept: dict[str, bytes]) -> str:
    [key] = kept
    return key
