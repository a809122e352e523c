"""Following a job by server-sent events, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app import events
from store.errors import RedisUnavailable
from store.events import MemoryBus, Notice
from store.records import JobKind
from tests.app.conftest import Service, assert_problem, at_the_same_time, eventually

Told = tuple[str, dict[str, Any], str | None]


@contextmanager
def following(service: Service, job_id: str, last: str | None = None) -> Iterator[Iterator[Told]]:
    headers = {"Last-Event-ID": last} if last is not None else {}
    with service.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        yield parsed(response.iter_lines())


def parsed(lines: Iterator[str]) -> Iterator[Told]:
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            yield "comment", {}, None
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields["event"], json.loads(fields["data"]), fields.get("id")
            fields = {}
        else:
            fields = {}


@pytest.fixture
def job_id(service: Service) -> str:
    job = service.http.post("/v1/generations", json={"model": service.add_model(), "n": 2}).json()
    return str(job["id"])


def test_a_follower_hears_everything_from_the_snapshot_to_done(service: Service, job_id: str) -> None:
    with following(service, job_id) as told:
        name, snapshot, _ = next(told)
        assert (name, snapshot) == ("snapshot", service.http.get(f"/v1/jobs/{job_id}").json())

        claim = service.worker.claim(JobKind.SAMPLE)
        name, data, first_id = next(told)
        assert (name, data["status"]) == ("status", "running")

        service.worker.report(claim, 1, 2)
        name, data, second_id = next(told)
        assert (name, data) == ("progress", {"done": 1, "total": 2})
        assert first_id
        assert second_id
        assert first_id != second_id

        service.worker.succeed(claim, {})
        name, data, _ = next(told)
        assert (name, data) == ("done", {"status": "succeeded", "error": None})
        assert list(told) == []  # and the stream ends
    eventually(lambda: service.news.listeners == 0)


def test_a_follower_that_comes_back_hears_what_it_missed(service: Service, job_id: str) -> None:
    with following(service, job_id) as told:
        next(told)
        claim = service.worker.claim(JobKind.SAMPLE)
        _, _, last = next(told)
    service.worker.report(claim, 1, 2)
    service.worker.succeed(claim, {})

    with following(service, job_id, last) as told:
        assert [name for name, _, _ in told] == ["snapshot", "progress", "done"]


def test_a_late_follower_hears_the_past_that_a_snapshot_does_not_show(service: Service, job_id: str) -> None:
    claim = service.worker.claim(JobKind.SAMPLE)
    service.worker.report(claim, 1, 2)
    service.resources.tell(Notice(job_id, "metrics", {"images_seen": 10}), Notice(job_id, "preview", {"url": "/"}))
    service.worker.succeed(claim, {})

    with following(service, job_id) as told:
        assert [name for name, _, _ in told] == ["snapshot", "metrics", "preview", "done"]


@pytest.mark.parametrize("last", ["", "nonsense", "9" * 30 + "-0"])
def test_an_event_id_that_is_none_starts_from_the_beginning(service: Service, job_id: str, last: str) -> None:
    service.worker.sample()
    with following(service, job_id, last) as told:
        assert [name for name, _, _ in told] == ["snapshot", "done"]


def test_done_is_told_although_the_bus_lost_it(service: Service, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "REREAD_S", 0.05)
    monkeypatch.setattr(events, "LINGER_S", 0.05)
    with following(service, job_id) as told:
        next(told)
        claim = service.worker.claim(JobKind.SAMPLE)
        next(told)
        service.worker.succeed(claim, {}, tells=False)
        name, data, event_id = next(told)
        assert (name, data, event_id) == ("done", {"status": "succeeded", "error": None}, None)
        assert list(told) == []


def test_a_lost_redis_costs_the_news_not_the_connection(
    service: Service, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "REREAD_S", 0.05)
    away = False
    history = MemoryBus.history

    def flaky(bus: MemoryBus, job: str, after: str | None = None) -> Any:
        if away:
            raise RedisUnavailable("Redis does not answer")
        return history(bus, job, after)

    monkeypatch.setattr(MemoryBus, "history", flaky)
    with following(service, job_id) as told:
        next(told)
        away = True
        claim = service.worker.claim(JobKind.SAMPLE)
        name, data, _ = next(told)
        assert (name, data["status"]) == ("snapshot", "running")

        service.worker.succeed(claim, {})
        assert [name for name, _, _ in told] == ["snapshot", "done"]


def test_comments_fill_the_silence(service: Service, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.02)
    with following(service, job_id) as told:
        assert [next(told)[0] for _ in range(3)] == ["snapshot", "comment", "comment"]


def test_many_followers_share_one_watch(service: Service, job_id: str) -> None:
    def follow() -> None:
        with following(service, job_id) as told:
            assert [name for name, _, _ in told][-1] == "done"

    with at_the_same_time(follow), at_the_same_time(follow), at_the_same_time(follow):
        eventually(lambda: service.news.listeners == 3)
        service.worker.sample()


def test_who_hangs_up_is_no_longer_told(service: Service, job_id: str) -> None:
    with following(service, job_id) as told:
        next(told)
        assert service.news.listeners == 1
    eventually(lambda: service.news.listeners == 0)


def test_an_unknown_job_has_no_events(service: Service) -> None:
    assert_problem(service.http.get("/v1/jobs/job_nope/events"), 404, "job_not_found", "job_id")
