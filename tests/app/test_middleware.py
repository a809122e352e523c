"""What every request meets before its route."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.middleware import MAX_BODY_BYTES
from tests.app.conftest import Service, assert_problem, running


def test_every_response_has_a_request_id(service: Service) -> None:
    first, second = service.http.get("/healthz"), service.http.get("/nope")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert service.http.get("/healthz", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert service.http.get("/healthz", headers={"X-Request-Id": "a b"}).headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", ""])
def test_a_host_that_is_not_ours_is_refused(service: Service, host: str) -> None:
    problem = assert_problem(service.http.get("/v1/jobs", headers={"Host": host}), 400, "unknown_host", "Host")
    assert "DARKROOM_ALLOWED_HOSTS" in problem["remedy"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"])
def test_a_host_of_ours_is_served(service: Service, host: str) -> None:
    assert service.http.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_host_may_be_a_pattern(tmp_path: Path) -> None:
    with running(tmp_path, allowed_hosts="*.example.org") as service:
        for host, status in (("a.example.org", 200), ("example.org", 400), ("aexample.org", 400)):
            assert service.http.get("/healthz", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9999", "http://127.0.0.1"])
def test_another_sites_page_may_not_write(service: Service, origin: str) -> None:
    for method, path in (("POST", "/v1/datasets"), ("POST", "/v1/jobs/x/cancel"), ("DELETE", "/v1/models/x")):
        response = service.http.request(method, path, headers={"Origin": origin})
        assert_problem(response, 403, "cross_site_write", "Origin")
    assert service.http.get("/v1/jobs", headers={"Origin": origin}).status_code == 200


def test_our_own_page_may_write(service: Service) -> None:
    response = service.http.delete("/v1/models/mdl_nope", headers={"Origin": service.url})
    assert response.status_code == 404


def test_a_large_body_is_refused_where_none_is_expected(service: Service) -> None:
    response = service.http.post("/v1/trainings", json={"dataset": "d" * MAX_BODY_BYTES})
    assert_problem(response, 413, "too_large")


def test_a_large_body_without_a_length_is_refused_as_it_comes(service: Service) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    response = service.http.post("/v1/trainings", content=pieces(), headers={"Content-Type": "application/json"})
    assert_problem(response, 413, "too_large")


def test_large_json_for_an_import_is_refused(service: Service) -> None:
    response = service.http.post("/v1/datasets", json={"path": "p" * (2 * MAX_BODY_BYTES)})
    assert_problem(response, 413, "too_large")
