"""Generations that take the shortcut are answered as those that go FastAPI's whole way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.app.conftest import Service, assert_problem

ROUTE = "/v1/generations"
WHOLE_WAY = "application/vnd.darkroom+json"  # JSON to FastAPI, and unusual to the shortcut

BODIES: list[tuple[str, int]] = [
    ('{"model": "%s", "n": 2, "seed": 7, "label": "dog"}', 202),
    ('{"model": "%s", "seed": 7, "truncation": 0.5, "priority": "batch"}', 202),
    ('{"model": "%s", "seed": 7, "deadline_at": "2100-01-01T00:00:00Z"}', 202),
    ('{"model": "%s", "seeds": [3, 14], "labels": ["cat", 1]}', 202),
    ('{"model": "%s", "mix": {"seeds": [7, 8], "weight": 0.5}}', 202),
    ('{"model": "%s", "n": "2"}', 422),
    ('{"model": "%s", "n": 0}', 422),
    ('{"model": "%s", "n": NaN}', 422),
    ('{"model": "%s", "colour": "red"}', 422),
    ('{"model": "%s", "n": 2', 400),
    ('["%s"]', 422),
    ("%.0s", 422),
    ("[" * 100_000 + "%.0s", 400),
]


def _told(service: Service, content: str, sort: str, **headers: str) -> tuple[int, Any]:
    response = service.http.post(ROUTE, content=content, headers={"Content-Type": sort, **headers})
    answer = response.json()
    if response.status_code == 202:
        return 202, {name: answer[name] for name in ("kind", "status", "model", "priority", "request", "deadline_at")}
    return response.status_code, {name: answer.get(name) for name in ("code", "detail", "errors", "parameter")}


@pytest.mark.parametrize(("body", "status"), BODIES, ids=range(len(BODIES)))
def test_both_ways_give_the_same_answer(service: Service, body: str, status: int) -> None:
    content = body % service.add_model()
    short = _told(service, content, "application/json")
    assert short == _told(service, content, WHOLE_WAY)
    assert short[0] == status


@pytest.mark.parametrize("headers", [{"Prefer": "wait=0"}, {"Accept": "image/tiff"}, {"Idempotency-Key": "a key"}])
def test_both_ways_read_the_same_headers(service: Service, headers: dict[str, str]) -> None:
    content = json.dumps({"model": service.add_model(), "seed": 1})
    assert _told(service, content, "application/json", **headers) == _told(service, content, WHOLE_WAY, **headers)


def test_a_key_without_the_scope_is_refused(service: Service) -> None:
    body = {"model": service.add_model()}
    with service.client("read") as reader:
        assert_problem(reader.post(ROUTE, json=body), 403, "missing_scope")


def test_only_what_is_unusual_goes_the_whole_way(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(**_: object) -> None:
        raise RuntimeError("the whole way")

    monkeypatch.setattr("fastapi.routing.solve_dependencies", refuse)
    content = json.dumps({"model": service.add_model()})
    plain = {"Content-Type": "application/json", "Prefer": "wait=0", "Accept": "*/*", "Idempotency-Key": "1"}
    assert service.http.post(ROUTE, content=content, headers=plain).status_code == 202
    for unusual in ({"Cancel-After": "30"}, {"Content-Type": WHOLE_WAY}):
        assert service.http.post(ROUTE, content=content, headers={**plain, **unusual}).status_code == 500
