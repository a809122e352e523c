"""Following one request: its response, the lines it logs, the job it makes."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from app.tracing import NameRequest
from store.database import Database
from store.errors import DatabaseUnavailable
from store.records import Job
from tests.app.conftest import Service

NAMED = {"X-Request-Id": "mine-7"}


class Lines(logging.Handler):
    """The lines that a handler would write, with their request's id."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(NameRequest())
        self.setFormatter(logging.Formatter("[%(request_id)s] %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def log() -> Iterator[Lines]:
    """What the API logs."""
    lines, logger = Lines(), logging.getLogger("app")
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images"])
def test_what_a_request_logs_carries_its_id(
    service: Service, log: Lines, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("the database does not answer")

    monkeypatch.setattr(Database, "snapshot", away)
    response = service.http.get(path, headers=NAMED)

    assert response.headers["x-request-id"] == response.json()["request_id"] == "mine-7"
    assert log.lines == [f"[mine-7] GET {path}: the database does not answer"]


def test_an_id_that_could_forge_a_line_is_replaced(service: Service) -> None:
    for forged in ("a b", "x" * 65, "a;b", "[x]"):
        assert service.http.get("/healthz", headers={"X-Request-Id": forged}).headers["x-request-id"].startswith("req_")


def test_a_job_keeps_the_id_of_the_request_that_made_it(service: Service) -> None:
    model_id, dataset_id = service.add_model(), service.add_dataset()
    made = {
        "generation-1": ("/v1/generations", {"model": model_id}),
        "training-1": ("/v1/trainings", {"dataset": dataset_id}),
        "export-1": (f"/v1/models/{model_id}/exports", {"format": "onnx"}),
    }
    for request_id, (path, body) in made.items():
        job = service.http.post(path, json=body, headers={"X-Request-Id": request_id}).json()
        assert job["request_id"] == request_id
        with service.resources.database.snapshot() as session:
            assert session.get_one(Job, job["id"]).request_id == request_id


def test_generations_that_share_a_transaction_keep_their_own_ids(service: Service) -> None:
    model_id = service.add_model()

    def generate(number: int) -> tuple[str, str]:
        headers = {"X-Request-Id": f"one-of-many-{number}"}
        answer = service.http.post("/v1/generations", json={"model": model_id}, headers=headers)
        return headers["X-Request-Id"], answer.json()["request_id"]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for given, kept in pool.map(generate, range(64)):
            assert given == kept
