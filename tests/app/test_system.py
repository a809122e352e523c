"""The system as a whole, as workers report it and rows say it."""

from __future__ import annotations

import shutil

import pytest

from store.errors import RedisUnavailable
from store.records import JobKind
from store.reports import WorkerReport
from store.settings import Settings
from tests.app.conftest import Service, assert_problem
from tests.app.reporting import sampler


def test_an_idle_system_without_workers(service: Service) -> None:
    system = service.http.get("/v1/system").json()
    assert system["queue"] == {lane: {"queued": 0, "running": 0} for lane in ("sample", "train", "io")}
    assert (system["workers"], system["devices"], system["images_per_s"], system["images_waiting"]) == ([], [], 0, 0)
    free = shutil.disk_usage(service.resources.settings.data_dir).free
    assert system["free_bytes"] == pytest.approx(free, rel=0.2)
    assert system["disk_bytes"] == shutil.disk_usage(service.resources.settings.data_dir).total
    assert system["low_on_disk"] is False


def test_little_disk_left_is_said(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "free_bytes", lambda _: 2**30 - 1)
    assert service.http.get("/v1/system").json()["low_on_disk"] is True


def test_what_waits_and_what_every_worker_counts(service: Service) -> None:
    model_id = service.add_model()
    for n in (3, 5):
        service.http.post("/v1/generations", json={"model": model_id, "n": n})
    service.worker.claim(JobKind.SAMPLE)
    reports = service.resources.reports
    for report in (sampler("sample-cuda0-aa@x"), sampler("sample-cuda1-bb@x", device="cuda:1"), trainer()):
        reports.publish(report)

    system = service.http.get("/v1/system").json()

    assert system["queue"]["sample"] == {"queued": 1, "running": 1}
    assert (system["images_waiting"], system["max_queued_images"]) == (8, 100_000)
    assert system["devices"] == ["cuda:0@x", "cuda:1@x"]
    assert (system["images_per_s"], system["cache_bytes"]) == (100, 2000)
    first = system["workers"][0]
    assert (first["name"], first["lane"], first["started_at"]) == (
        "sample-cuda0-aa@x",
        "sample",
        "2026-01-05T12:00:00Z",
    )
    assert first["stages"]["render"] == {"count": 10, "mean_s": 0.05, "total_s": 0.5}
    assert first["batch_images"] == {"bounds": [1, 8], "counts": [2, 8, 0], "count": 10, "mean": 5.8}
    assert [worker["lane"] for worker in system["workers"]] == ["sample", "sample", "train"]


def trainer() -> WorkerReport:
    return sampler("train-cuda0-cc@x", lane="train").model_copy(
        update={"images_per_s": 0, "cache_bytes": 0, "stages": {}}
    )


def test_where_redis_is_away_it_says_so(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> list[WorkerReport]:
        raise RedisUnavailable("Redis does not answer")

    monkeypatch.setattr(service.resources.reports, "current", away)
    assert_problem(service.http.get("/v1/system"), 503, "redis_unavailable")
