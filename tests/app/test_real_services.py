"""The API with a real Redis and a real PostgreSQL behind it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from app import events
from store.events import RedisBus
from store.records import JobKind
from tests.app.conftest import assert_problem, at_the_same_time, running
from tests.app.test_events import following
from tests.services import NotInstalled, absent, running_redis


def test_events_come_through_a_real_redis(tmp_path: Path, redis_url: str) -> None:
    with running(tmp_path, bus=RedisBus(redis_url)) as service:
        job = service.http.post("/v1/generations", json={"model": service.add_model(), "n": 2}).json()
        with following(service, job["id"]) as told:
            assert next(told)[0] == "snapshot"
            claim = service.worker.claim(JobKind.SAMPLE)
            name, _, last = next(told)
            assert name == "status"
        service.worker.report(claim, 1, 2)
        service.worker.succeed(claim, {})
        with following(service, job["id"], last) as told:
            assert [name for name, _, _ in told] == ["snapshot", "progress", "done"]


def test_a_redis_that_is_killed_ends_no_stream_and_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "REREAD_S", 0.1)
    monkeypatch.setattr("app.jobs.REREAD_S", 0.1)
    try:
        server = running_redis()
        with server as (url, process), running(tmp_path, bus=RedisBus(url)) as service:
            job = service.http.post("/v1/generations", json={"model": service.add_model()}).json()
            with following(service, job["id"]) as told:
                assert next(told)[0] == "snapshot"
                process.kill()
                process.wait()
                claim = service.worker.claim(JobKind.SAMPLE)
                name, data, _ = next(told)
                assert (name, data["status"]) == ("snapshot", "running")
                waited: list[dict[str, Any]] = []
                with at_the_same_time(
                    lambda: waited.append(service.http.get(f"/v1/jobs/{job['id']}", params={"wait": 9}).json())
                ):
                    service.worker.succeed(claim, {})
                assert [name for name, _, _ in told][-1] == "done"
                assert waited[0]["status"] == "succeeded"
            assert assert_problem(service.http.get("/readyz"), 503, "not_ready")["away"] == ["redis"]
    except NotInstalled as error:
        absent(str(error))


def test_on_postgres_the_same_key_at_the_same_time_makes_one_job(tmp_path: Path, postgres_url: str) -> None:
    with running(tmp_path, database_url=postgres_url) as service:
        dataset_id = service.add_dataset()
        start, answers = threading.Barrier(4), list[dict[str, Any]]()

        def ask() -> None:
            start.wait(5)
            response = service.http.post(
                "/v1/trainings", json={"dataset": dataset_id}, headers={"Idempotency-Key": "same"}
            )
            assert response.status_code == 202, response.text
            answers.append(response.json())

        with at_the_same_time(ask), at_the_same_time(ask), at_the_same_time(ask):
            ask()

        assert len({answer["id"] for answer in answers}) == 1
        assert len(service.http.get("/v1/models").json()["data"]) == 1
        assert_problem(service.http.delete(f"/v1/datasets/{dataset_id}"), 409, "in_use", "dataset_id")


def test_on_postgres_a_dataset_is_either_deleted_or_trained_on(tmp_path: Path, postgres_url: str) -> None:
    with running(tmp_path, database_url=postgres_url) as service:
        for _ in range(5):
            dataset_id = service.add_dataset()
            start, statuses = threading.Barrier(2), dict[str, int]()

            def train(dataset_id: str, start: threading.Barrier, statuses: dict[str, int]) -> None:
                start.wait(5)
                statuses["train"] = service.http.post("/v1/trainings", json={"dataset": dataset_id}).status_code

            with at_the_same_time(lambda: train(dataset_id, start, statuses)):  # noqa: B023  # joined within the loop
                start.wait(5)
                statuses["delete"] = service.http.delete(f"/v1/datasets/{dataset_id}").status_code

            assert (statuses["train"], statuses["delete"]) in {(202, 409), (404, 204)}
