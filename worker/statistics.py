"""What a worker counts of itself, and the thread that reports it.

Counting must cost the hot path nothing: it appends to a deque, which needs no lock; the reporting thread adds up.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

from store.errors import RedisUnavailable
from store.reports import Histogram, Reports, Stage, WorkerReport

log = logging.getLogger(__name__)

REPORT_EVERY_S = 2.0
RATE_OVER_S = 10.0  # what images_per_s is the mean over
NEWEST_WEIGHT = 0.2  # of the newest batch in the time that an image takes
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # images
WAIT_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)  # seconds
MOST_UNREAD = 100_000  # events between two reports; beyond that the oldest are lost


class _Bins:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def histogram(self) -> Histogram:
        return Histogram(bounds=self.bounds, counts=tuple(self.counts), total=self.total)


class WorkerStatistics:
    """Counts of one worker process: noted by any of its threads, read by one.

    Args:
        name: the worker's, as leases carry it.
        lane: whose jobs it works on.
        device: where its tensors live.
    """

    def __init__(self, name: str = "worker", lane: str = "sample", device: str = "cpu") -> None:
        self._name, self._lane, self._device = name, lane, device
        self._version = version("darkroom")
        self._started_at = time.time()
        self.cache_bytes: Callable[[], int] = lambda: 0  # asked for each report
        # Noted, not yet added up
        self._spent: deque[tuple[str, float]] = deque(maxlen=MOST_UNREAD)
        self._waits: deque[float] = deque(maxlen=MOST_UNREAD)
        self._batches: deque[tuple[int, float, float]] = deque(maxlen=MOST_UNREAD)
        # Added up
        self._stages: dict[str, Stage] = {}
        self._batch_images, self._wait_s = _Bins(BATCH_BOUNDS), _Bins(WAIT_BOUNDS)
        self._images = 0
        self._image_s: float | None = None
        self._last_end = 0.0  # of the last batch, monotonic seconds
        self._recent = deque([(time.monotonic(), 0)])  # when how many images had been made

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Notes how long the block takes, as one occurrence of this stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.note_stage(name, time.perf_counter() - began)

    def note_stage(self, name: str, seconds: float) -> None:
        """Notes that one occurrence of this stage took so long."""
        self._spent.append((name, seconds))

    def note_wait(self, waited_s: float) -> None:
        """Notes that a job was claimed so many seconds after its submission."""
        self._waits.append(waited_s)

    def note_batch(self, images: int, began: float) -> None:
        """Notes a batch that is done now.

        Args:
            images: how many it made.
            began: when it was claimed, `time.monotonic()` seconds; neighbouring batches may overlap.
        """
        self._batches.append((images, began, time.monotonic()))

    def report(self) -> WorkerReport:
        """Return all that was noted so far, added up; for one thread alone."""
        while self._spent:
            name, seconds = self._spent.popleft()
            before = self._stages.get(name, Stage())
            self._stages[name] = Stage(count=before.count + 1, seconds=before.seconds + seconds)
        while self._waits:
            self._wait_s.add(max(0.0, self._waits.popleft()))
        while self._batches:
            self._add_batch(*self._batches.popleft())
        return WorkerReport(
            name=self._name,
            lane=self._lane,
            device=self._device,
            version=self._version,
            started_at=self._started_at,
            seen_at=time.time(),
            images=self._images,
            images_per_s=self._rate(time.monotonic()),
            image_s=self._image_s,
            cache_bytes=self.cache_bytes(),
            stages=dict(self._stages),
            batch_images=self._batch_images.histogram(),
            wait_s=self._wait_s.histogram(),
        )

    def _add_batch(self, images: int, began: float, ended: float) -> None:
        self._batch_images.add(images)
        self._images += images
        # Where batches overlap, only what this one took longer than the last is its own.
        took = (ended - max(began, self._last_end)) / max(images, 1)
        self._image_s = took if self._image_s is None else self._image_s + NEWEST_WEIGHT * (took - self._image_s)
        self._last_end = ended

    def _rate(self, now: float) -> float:
        self._recent.append((now, self._images))
        while len(self._recent) > 2 and self._recent[1][0] <= now - RATE_OVER_S:
            self._recent.popleft()
        since, images = self._recent[0]
        return (self._images - images) / (now - since) if now > since else 0.0


class Reporter:
    """Reports at intervals, on a thread of its own: a Redis that hangs must hold up no heartbeat."""

    def __init__(self, reports: Reports, statistics: WorkerStatistics, every_s: float = REPORT_EVERY_S) -> None:
        self._reports, self._statistics, self._every_s = reports, statistics, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="reporter", daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _go_on(self) -> None:
        is_away, report = False, self._statistics.report()
        while True:
            try:
                self._reports.publish(report)
                is_away = False
            except RedisUnavailable as error:
                if not is_away:  # once, and not every two seconds
                    log.warning("this worker's statistics are not seen: %s", error)
                is_away = True
            if self._ended.wait(self._every_s):
                break
            report = self._statistics.report()
        try:
            self._reports.withdraw(report.name)
        except RedisUnavailable as error:
            log.warning("this worker is shown for some seconds more: %s", error)
