"""Reports of workers: the newest of each, as long as it is fresh, whoever keeps them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from store.errors import RedisUnavailable
from store.reports import Histogram, MemoryReports, RedisReports, Reports, Stage, WorkerReport

NOTHING = Histogram(bounds=(1.0,), counts=(0, 0))


@pytest.fixture(params=["memory", "redis"])
def reports(request: pytest.FixtureRequest) -> Iterator[Reports]:
    """An empty board: the twin and the real one."""
    board: Reports = (
        MemoryReports() if request.param == "memory" else RedisReports(request.getfixturevalue("redis_url"))
    )
    yield board
    board.close()


def report(name: str = "sample-cpu-1a2b@here", images: int = 0) -> WorkerReport:
    return WorkerReport(
        name=name, lane="sample", device="cpu", version="0", started_at=1.5, seen_at=2.5, images=images,
        stages={"claim": Stage(count=2, seconds=0.5)}, batch_images=Histogram(bounds=(1, 8), counts=(1, 2, 3), total=40),
        wait_s=NOTHING,
    )  # fmt: skip


def test_nobody_has_reported_yet(reports: Reports) -> None:
    assert reports.current() == []


def test_a_report_comes_back_as_it_was_made(reports: Reports) -> None:
    reports.publish(report())
    assert reports.current() == [report()]


def test_only_the_newest_of_each_worker_is_kept_and_they_come_by_name(reports: Reports) -> None:
    for name, images in (("b@x", 1), ("a@x", 2), ("b@x", 3)):
        reports.publish(report(name, images))
    assert [(one.name, one.images) for one in reports.current()] == [("a@x", 2), ("b@x", 3)]


def test_a_worker_that_reports_no_more_is_forgotten(reports: Reports) -> None:
    reports.publish(report("gone@x"), fresh_s=0.02)
    reports.publish(report("here@x"))
    pause, deadline = threading.Event(), time.monotonic() + 5
    while len(reports.current()) > 1 and time.monotonic() < deadline:
        pause.wait(0.005)
    assert [one.name for one in reports.current()] == ["here@x"]


def test_a_worker_that_ends_is_forgotten_at_once_and_forgetting_twice_does_no_harm(reports: Reports) -> None:
    reports.publish(report("a@x"))
    for _ in range(2):
        reports.withdraw("a@x")
    assert reports.current() == []


def test_a_redis_that_is_away_is_an_error_of_ours() -> None:
    away = RedisReports("redis://127.0.0.1:1/0")
    for call in (away.current, lambda: away.publish(report()), lambda: away.withdraw("a@x")):
        with pytest.raises(RedisUnavailable):
            call()
    away.close()


@pytest.mark.parametrize(
    ("name", "place"),
    [("sample-cuda:0-1a2b3c4d@host", "sample-cuda:0@host"), ("io-0-1a2b3c4d@h-1", "io-0@h-1"), ("worker", "worker@")],
)
def test_a_worker_s_place_outlives_its_restarts(name: str, place: str) -> None:
    assert report(name).place == place


def test_a_histogram_counts_its_values() -> None:
    assert report().batch_images.count == 6
