"""Who asks alone for one picture has it announced to the one sampler there is, which may then begin at once."""

from __future__ import annotations

from typing import Any

import pytest

from store.ahead import Ahead
from store.errors import RedisUnavailable
from store.queue import MemoryQueue
from store.records import Job, Model
from tests.app.conftest import Service, at_the_same_time
from tests.app.reporting import sampler
from tests.app.test_generations import sample_when_rung


@pytest.fixture(autouse=True)
def _always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.samplers.LOOK_EVERY_S", -1.0)


def ask(service: Service, body: dict[str, Any], status: int = 201, **headers: str) -> Job:
    """Asks for a picture, and waits for it."""
    service.queue.rung.clear()
    with at_the_same_time(lambda: sample_when_rung(service)):
        response = service.http.post("/v1/generations", json=body, headers={"Accept": "image/png", **headers})
    assert response.status_code == status
    with service.resources.database.snapshot() as session:
        return session.get_one(Job, response.headers["location"].removeprefix("/v1/jobs/"))


def test_one_picture_is_announced_as_its_job_will_be_claimed(service: Service) -> None:
    service.resources.reports.publish(sampler("one@x"))
    service.resources.reports.publish(sampler("other@x", lane="train"))
    body = {"model": service.add_model(), "label": "dog", "truncation": 0.7}

    ask(service, body)
    assert service.queue.announced == []  # nothing was known of the model yet
    job = ask(service, body)

    [announced] = service.queue.announced
    assert job.model_id is not None
    assert Ahead.read(announced) == Ahead(job.model_id, str(job.checkpoint), job.request)
    assert job.request["label"] == 1


def test_weights_that_are_replaced_are_announced_once_in_vain(service: Service) -> None:
    service.resources.reports.publish(sampler("one@x"))
    body = {"model": service.add_model()}
    ask(service, body)
    with service.resources.database.transaction() as session:
        session.get_one(Model, body["model"]).checkpoint = "models/newer"
    jobs = [ask(service, body) for _ in range(2)]

    vain, right = map(Ahead.read, service.queue.announced)
    assert vain.checkpoint != jobs[0].checkpoint == "models/newer"
    assert right.checkpoint == "models/newer"


@pytest.mark.parametrize(
    ("names", "announced"), [([], 0), (["one@x", "two@x"], 0), (["sample-cpu-1a2b@x", "sample-cpu-3c4d@x"], 1)]
)
def test_nothing_is_announced_to_several_samplers_or_none(service: Service, names: list[str], announced: int) -> None:
    """Given several, of whom another would hear the bell, I expect none to begin with what it will not claim.

    One that was started anew is one.
    """
    for name in names:
        service.resources.reports.publish(sampler(name))
    body = {"model": service.add_model()}
    for _ in range(2):
        ask(service, body)

    assert len(service.queue.announced) == announced


def test_who_does_not_ask_alone_or_does_not_wait_for_one_picture_is_not_announced(service: Service) -> None:
    service.resources.reports.publish(sampler("one@x"))
    body = {"model": service.add_model()}
    ask(service, body)
    assert service.http.post("/v1/generations", json=body).status_code == 202
    several = service.http.post("/v1/generations", json={**body, "n": 2}, headers={"Prefer": "wait=0.05"})
    assert several.status_code == 202
    with service.news.listen("job_of_another", end_only=True):
        ask(service, body)

    assert service.queue.announced == []


def test_another_model_and_what_is_refused_are_not_announced(service: Service) -> None:
    service.resources.reports.publish(sampler("one@x"))
    body = {"model": service.add_model()}
    ask(service, body)
    ask(service, {"model": service.add_model(classes=None)})
    response = service.http.post("/v1/generations", json={**body, "label": "bird"}, headers={"Accept": "image/png"})
    assert response.status_code == 422

    assert service.queue.announced == []


def test_without_redis_nothing_is_announced_and_the_job_is_made(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.resources.reports.publish(sampler("one@x"))
    body = {"model": service.add_model()}
    ask(service, body)

    def away(*_: object) -> None:
        raise RedisUnavailable("it is away")

    monkeypatch.setattr(MemoryQueue, "announce", away)
    ask(service, body)
