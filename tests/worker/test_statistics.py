"""Statistics of a worker: counted by many threads, added up by one, reported while it lives."""

from __future__ import annotations

import threading

import pytest

from store.errors import RedisUnavailable
from store.reports import MemoryReports, WorkerReport
from tests.worker.conftest import Desk
from worker.running import Station
from worker.sampler import SliceSampler
from worker.statistics import Reporter, WorkerStatistics


def test_what_was_noted_is_added_up_once() -> None:
    statistics = WorkerStatistics("sample-cpu-1a2b@here", "sample", "cpu")
    for waited_s in (0.004, 0.2, 1000):
        statistics.note_wait(waited_s)
    for _ in range(3):
        with statistics.stage("claim"):
            pass
    statistics.note_batch(8, began=0.0)
    statistics.note_batch(2000, began=0.0)

    for _ in range(2):
        report = statistics.report()

    assert (report.name, report.lane, report.device, report.images) == ("sample-cpu-1a2b@here", "sample", "cpu", 2008)
    assert dict(zip(report.wait_s.bounds, report.wait_s.counts, strict=False))[0.005] == 1
    assert (report.wait_s.count, report.wait_s.counts[-1]) == (3, 1)
    assert dict(zip(report.batch_images.bounds, report.batch_images.counts, strict=False))[8] == 1
    assert (report.batch_images.counts[-1], report.batch_images.total) == (1, 2008)
    assert report.stages["claim"].count == 3


def test_a_stage_that_raises_is_counted_too() -> None:
    statistics = WorkerStatistics()
    with pytest.raises(KeyError), statistics.stage("render"):
        raise KeyError
    assert statistics.report().stages["render"].count == 1


def test_the_time_of_an_image_counts_what_overlaps_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given batches of ten that end every second, each claimed two seconds before, I expect a tenth of a second an image."""
    now = 100.0
    monkeypatch.setattr("worker.statistics.time.monotonic", lambda: now)
    statistics = WorkerStatistics()
    for _ in range(40):
        now += 1
        statistics.note_batch(10, began=now - 2)
    assert statistics.report().image_s == pytest.approx(0.1, rel=0.01)
    now += 1000  # idle: nothing is claimed, so nothing is counted
    statistics.note_batch(10, began=now - 1)
    assert statistics.report().image_s == pytest.approx(0.1, rel=0.01)


def test_images_per_second_are_those_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("worker.statistics.time.monotonic", lambda: now)
    statistics = WorkerStatistics()
    for _ in range(20):
        now += 2
        statistics.note_batch(100, began=now - 1)
        report = statistics.report()
    assert report.images_per_s == pytest.approx(50)
    for _ in range(20):
        now += 2
        report = statistics.report()
    assert report.images_per_s == 0


def test_threads_that_note_while_another_adds_up_lose_nothing() -> None:
    statistics = WorkerStatistics()

    def work() -> None:
        for _ in range(2000):
            with statistics.stage("encode"):
                statistics.note_batch(1, began=0.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        statistics.report()
    report = statistics.report()
    assert (report.images, report.stages["encode"].count) == (8000, 8000)


def test_a_worker_is_seen_from_its_start_to_its_end() -> None:
    reports = MemoryReports()
    published = threading.Event()

    class Watched(MemoryReports):
        def publish(self, report: WorkerReport, *, fresh_s: float = 30.0) -> None:
            reports.publish(report, fresh_s=fresh_s)
            published.set()

        def withdraw(self, name: str) -> None:
            reports.withdraw(name)

    with Reporter(Watched(), WorkerStatistics("w@here"), every_s=60):
        assert published.wait(5)
        assert [report.name for report in reports.current()] == ["w@here"]
    assert reports.current() == []


def test_a_redis_that_is_away_is_logged_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    tries = threading.Semaphore(0)

    class Away(MemoryReports):
        def publish(self, report: WorkerReport, *, fresh_s: float = 30.0) -> None:
            tries.release()
            raise RedisUnavailable("it is away")

    with Reporter(Away(), WorkerStatistics(), every_s=0.001):
        for _ in range(3):
            assert tries.acquire(timeout=5)
    assert caplog.text.count("it is away") == 1


def test_a_sampler_counts_its_stages_batches_waits_and_cache(desk: Desk, station: Station) -> None:
    desk.model()
    desk.sample_job(11)
    desk.sample_job(2, seed=90)
    SliceSampler(station).serve()
    report = station.statistics.report()
    assert (report.images, report.batch_images.count, report.wait_s.count) == (13, 3, 2)
    assert {name: stage.count for name, stage in report.stages.items()} == {
        "claim": 3,  # a look without a lock finds nothing more
        "render": 3,
        "encode": 3,
        "store": 3,
        "commit": 3,
    }
    assert all(stage.seconds > 0 for stage in report.stages.values())
    assert report.cache_bytes > 0
    assert report.image_s is not None
    assert report.image_s > 0
