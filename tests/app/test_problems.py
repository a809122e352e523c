"""Errors in their one shape, also those that nobody foresaw."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from store.database import Database
from store.errors import DatabaseUnavailable, StorageFull
from tests.app.conftest import Service, assert_problem, zip_of


def test_an_unknown_route_is_not_found(service: Service) -> None:
    assert "/docs" in assert_problem(service.http.get("/v1/nope"), 404, "route_not_found")["remedy"]


def test_a_method_that_is_not_allowed_says_which_are(service: Service) -> None:
    response = service.http.put("/v1/jobs")
    assert "GET" in assert_problem(response, 405, "method_not_allowed")["remedy"]
    assert response.headers["allow"] == "GET"
    assert service.http.put("/v1/datasets").headers["allow"] == "GET, POST"
    assert service.http.post("/v1/models/m").headers["allow"] == "DELETE, GET"
    assert service.http.post("/v1/images/i/content").headers["allow"] == "GET, HEAD"


def test_a_body_that_is_no_json_is_malformed(service: Service) -> None:
    for route in ("/v1/trainings", "/v1/generations"):
        response = service.http.post(route, content=b"{", headers={"Content-Type": "application/json"})
        assert_problem(response, 400, "malformed_json")


@pytest.mark.parametrize("route", ["/v1/datasets", "/v1/trainings", "/v1/generations", "/v1/evaluations"])
def test_json_that_no_parser_should_follow_is_malformed(service: Service, route: str) -> None:
    for content in (
        b"[" * 100_000,
        b'{"n":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"n":%s}' % (b"9" * 5_000),
        b'{"\xff": 1}',
    ):
        response = service.http.post(route, content=content, headers={"Content-Type": "application/json"})
        assert_problem(response, 400, "malformed_json")


@pytest.mark.parametrize("route", ["/v1/trainings", "/v1/generations", "/v1/evaluations"])
def test_a_body_that_does_not_say_that_it_is_json_is_not_read(service: Service, route: str) -> None:
    for media_type in ("text/plain", "application/xml", "multipart/form-data", ""):
        response = service.http.post(route, content=b'{"n": 1}', headers={"Content-Type": media_type})
        assert_problem(response, 415, "unsupported_media_type", "Content-Type")
    for media_type in ("application/JSON", "application/json; charset=utf-8", "application/merge-patch+json"):
        response = service.http.post(route, content=b'{"n": 1}', headers={"Content-Type": media_type})
        assert response.status_code == 422


def test_what_is_not_of_the_documented_type_is_refused_and_not_converted(service: Service) -> None:
    model = service.add_model()
    for member, value in (
        ("n", "1"),
        ("n", True),
        ("seed", "7"),
        ("seed", 7.5),
        ("truncation", "0.5"),
        ("cancel_on_disconnect", "yes"),
        ("cancel_on_disconnect", 1),
        ("deadline_at", 4102444800),
        ("deadline_at", "4102444800"),
        ("deadline_at", "9999-12-31T23:59:59-12:00"),
    ):
        response = service.http.post("/v1/generations", json={"model": model, member: value})
        assert_problem(response, 422, "invalid_parameter", f"/{member}")
    response = service.http.post("/v1/datasets", json={"path": "pets", "resolution": "32"})
    assert_problem(response, 422, "invalid_parameter", "/resolution")


def test_every_wrong_member_is_named_at_once(service: Service) -> None:
    response = service.http.post("/v1/trainings", json={"seed": -1, "budget": {"images": "many"}})
    problem = assert_problem(response, 422, "invalid_parameter", "/dataset")
    assert [error["parameter"] for error in problem["errors"]] == ["/dataset", "/budget/images", "/seed"]


def test_a_defect_is_a_500_with_an_id_that_is_in_the_log(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(Database, "snapshot", broken)
    with caplog.at_level(logging.ERROR):
        response = service.http.get("/v1/jobs")

    problem = assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    assert problem["error"]["type"] == "server_error"
    assert problem["request_id"] in problem["remedy"]
    (record,) = [record for record in caplog.records if problem["request_id"] in record.getMessage()]
    assert record.exc_info is not None


def test_a_resource_that_is_away_is_a_503_that_says_when_to_try_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("the database does not answer")

    monkeypatch.setattr(Database, "snapshot", away)
    monkeypatch.setattr(Database, "transaction", away)
    for response in (service.http.get("/v1/jobs"), service.http.post("/v1/generations", json={"model": "m"})):
        assert_problem(response, 503, "database_unavailable")
        assert int(response.headers["retry-after"]) > 0


def test_a_full_disk_is_a_507_and_leaves_nothing_behind(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageFull("no space is left")

    monkeypatch.setattr(Database, "transaction", full)
    response = service.http.post("/v1/datasets", files={"file": ("a.zip", zip_of(a=b"b"))})
    assert_problem(response, 507, "storage_full")
    assert service.blob_files() == []


def test_a_disk_that_fills_up_during_an_upload_is_a_507(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("store.blobs.os.fsync", full)
    response = service.http.post("/v1/datasets", files={"file": ("a.zip", zip_of(a=b"b"))})
    assert_problem(response, 507, "storage_full")
    assert service.blob_files() == []


def test_the_root_leads_to_the_docs(service: Service) -> None:
    response = service.http.get("/", follow_redirects=True)
    assert response.status_code == 200
    assert "swagger" in response.text


def test_characters_that_no_database_keeps_are_refused(service: Service) -> None:
    for path in ("/v1/jobs/a%00b", "/v1/jobs?model=a%00b", "/v1/images?after=img_%00"):
        assert_problem(service.http.get(path), 400, "malformed_request")
    dataset_id = service.add_dataset()
    for body, parameter in (
        (b'{"dataset": "a\\u0000"}', "/dataset"),
        (b'{"dataset": "%s", "name": "\\u0000"}' % dataset_id.encode(), "/name"),
        (b'{"dataset": "%s", "name": "\\ud800"}' % dataset_id.encode(), "/name"),
    ):
        response = service.http.post("/v1/trainings", content=body, headers={"Content-Type": "application/json"})
        assert_problem(response, 422, "invalid_parameter", parameter)


def test_a_long_wrong_value_is_not_repeated_whole(service: Service) -> None:
    for body in ({"dataset": "d" * 100_000}, {"dataset": "d", "seed": "s" * 100_000}):
        assert len(service.http.post("/v1/trainings", json=body).content) < 5_000
