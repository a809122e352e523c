"""The bound on images that wait: never passed by our own requests, and open again as soon as there is room."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import backlog as module
from app.backlog import Backlog
from app.errors import QueueFull
from store import jobs
from store.database import Database
from store.depth import images_waiting
from store.errors import RedisUnavailable
from store.events import MemoryBus
from store.memory_blobs import MemoryBlobs
from store.queue import MemoryQueue
from store.records import Job, JobKind
from store.reports import Histogram, WorkerReport
from store.resources import Resources
from store.settings import Settings
from tests.app.conftest import Service, assert_problem, running

LIMIT = 100
NOTHING = Histogram(bounds=(1.0,), counts=(0, 0))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("small"), max_queued_images=LIMIT) as service:
        yield service


@pytest.fixture
def resources(database: Database, tmp_path: Path) -> Resources:
    settings = Settings(_env_file=None, data_dir=tmp_path, max_queued_images=LIMIT)
    return Resources(settings, database, MemoryBlobs(), MemoryBus(), MemoryQueue())


def submit(resources: Resources, images: int) -> str:
    with resources.database.transaction() as session:
        now = resources.database.now(session)
        return jobs.submit(session, JobKind.SAMPLE, {}, now=now, model_id="m", checkpoint="c", total=images).id


def sampler(name: str, image_s: float | None, lane: str = "sample") -> WorkerReport:
    return WorkerReport(
        name=name, lane=lane, device="cpu", version="0", started_at=0, seen_at=0, image_s=image_s,
        batch_images=NOTHING, wait_s=NOTHING,
    )  # fmt: skip


def test_what_would_pass_the_bound_is_refused_with_the_time_to_come_again(
    small: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_IDLE", 0)
    small.clear()
    body = {"model": small.add_model(), "n": 60}
    for name, image_s in (("a@x", 1.0), ("b@x", 0.5)):  # together three images a second
        small.resources.reports.publish(sampler(name, image_s))
    small.resources.reports.publish(sampler("t@x", 0.001, lane="train"))
    assert small.http.post("/v1/generations", json=body).status_code == 202

    response = small.http.post("/v1/generations", json=body)

    problem = assert_problem(response, 429, "queue_full")
    assert (problem["images_waiting"], problem["limit"]) == (60, LIMIT)
    assert response.headers["retry-after"] == "7"  # for the 20 images too many
    assert "DARKROOM_MAX_QUEUED_IMAGES" in problem["remedy"]
    assert small.http.post("/v1/generations", json={**body, "n": 40}).status_code == 202
    small.worker.sample()
    eventually_accepts(small, body)


def eventually_accepts(service: Service, body: dict[str, object]) -> None:
    pause = threading.Event()
    for _ in range(100):
        response = service.http.post("/v1/generations", json=body)
        if response.status_code == 202:
            return
        pause.wait(0.02)
    raise AssertionError(response.text)


def test_a_request_that_could_never_fit_is_refused_for_good(small: Service) -> None:
    response = small.http.post("/v1/generations", json={"model": small.add_model(), "n": LIMIT + 1})
    assert "MAX_QUEUED_IMAGES" in assert_problem(response, 422, "invalid_parameter", "/n")["remedy"]


def test_requests_at_the_same_time_never_pass_the_bound(resources: Resources) -> None:
    backlog, refused = Backlog(resources), []

    def ask() -> None:
        for _ in range(5):
            try:
                with backlog.place_for(7):
                    submit(resources, 7)
            except QueueFull:
                refused.append(1)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(refused), images_in(resources)) == (30 - LIMIT // 7, LIMIT // 7 * 7)


def images_in(resources: Resources) -> int:
    with resources.database.snapshot() as session:
        return images_waiting(session)


def test_what_others_let_in_is_seen_at_the_next_count(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH_S", -1.0)
    monkeypatch.setattr(module, "LEAST_IDLE", 0)
    backlog = Backlog(resources)
    with backlog.place_for(10):
        submit(resources, 10)
    submit(resources, 85)  # by another process
    with pytest.raises(QueueFull), backlog.place_for(6):
        pass
    with backlog.place_for(5):
        pass


def test_between_counts_nothing_is_counted(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a count that is fresh, I expect no query for each request."""
    monkeypatch.setattr(module, "REFRESH_S", 3600)
    counts = 0

    def count(session: object) -> int:
        nonlocal counts
        counts += 1
        return 0

    monkeypatch.setattr(module, "images_waiting", count)
    backlog = Backlog(resources)
    for _ in range(10):
        with backlog.place_for(1):
            pass
    assert counts == 1


def test_room_that_was_kept_for_a_request_that_failed_is_free_again(resources: Resources) -> None:
    backlog = Backlog(resources)
    for _ in range(3):
        with pytest.raises(KeyError), backlog.place_for(LIMIT):
            raise KeyError
    with backlog.place_for(LIMIT):
        pass


def test_images_that_are_made_or_canceled_make_room(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECOUNT_S", -1.0)
    monkeypatch.setattr(module, "LEAST_IDLE", 0)
    backlog = Backlog(resources)
    with backlog.place_for(LIMIT):
        job_id = submit(resources, LIMIT)
    with resources.database.transaction() as session:
        session.get_one(Job, job_id).cursor = 30
    with backlog.place_for(30):
        submit(resources, 30)
    with pytest.raises(QueueFull), backlog.place_for(1):
        pass
    with resources.database.transaction() as session:
        jobs.request_cancel(session, job_id, now=resources.database.now(session))
    with backlog.place_for(70):
        pass


def test_where_no_sampler_has_said_how_fast_it_is_a_plain_time_is_named(resources: Resources) -> None:
    resources.reports.publish(sampler("new@x", None))
    with pytest.raises(QueueFull) as raised, Backlog(resources).place_for(LIMIT + 1):
        pass
    assert raised.value.retry_after_s == module.RETRY_AFTER_S


def test_a_redis_that_is_away_is_asked_seldom_and_refusing_goes_on(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def away() -> list[WorkerReport]:
        nonlocal asked
        asked += 1
        raise RedisUnavailable("it is away")

    monkeypatch.setattr(resources.reports, "current", away)
    backlog = Backlog(resources)
    for _ in range(5):
        with pytest.raises(QueueFull) as raised, backlog.place_for(LIMIT + 1):
            pass
        assert raised.value.retry_after_s == module.RETRY_AFTER_S
    assert asked == 1
