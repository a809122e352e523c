"""Alive, and ready."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from app import health
from store.blobs import LocalBlobs
from store.database import Database
from store.errors import BlobsUnavailable, RedisUnavailable
from store.events import MemoryBus
from tests.app.conftest import Service, assert_problem, running


def test_a_service_with_all_its_resources_is_ready(service: Service) -> None:
    assert service.http.get("/healthz").json() == {"status": "ok"}
    ready = service.http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["checks"].keys() == {"database", "redis", "blobs"}


def test_those_that_are_away_are_named(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_redis(_: Any) -> None:
        raise RedisUnavailable("Redis does not answer")

    def no_blobs(_: Any) -> None:
        raise BlobsUnavailable("the disk is read-only")

    monkeypatch.setattr(MemoryBus, "ping", no_redis)
    monkeypatch.setattr(LocalBlobs, "ping", no_blobs)

    response = service.http.get("/readyz")

    problem = assert_problem(response, 503, "not_ready")
    assert problem["away"] == ["redis", "blobs"]
    assert problem["checks"]["database"]["ok"] is True
    assert "the disk is read-only" in problem["detail"]
    assert service.http.get("/healthz").status_code == 200


def test_one_that_hangs_counts_as_away(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_S", 0.05)
    end = threading.Event()
    monkeypatch.setattr(Database, "ping", lambda _: end.wait(10))
    try:
        assert assert_problem(service.http.get("/readyz"), 503, "not_ready")["away"] == ["database"]
    finally:
        end.set()


def test_a_database_that_is_not_migrated_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "migrate", lambda _: None)
    with running(tmp_path, auth="off") as service:
        problem = assert_problem(service.http.get("/readyz"), 503, "not_ready")
        assert "migrate" in problem["checks"]["database"]["detail"]
        assert_problem(service.http.get("/v1/jobs"), 503, "database_unavailable")
