"""What workers report of themselves: the newest report of each, while it is fresh. Redis, or memory as its twin.

Samplers are other processes, maybe of other hosts, so this is how the API sees them. Reports are for people and dashboards:
nothing is decided by them but how long a client is asked to wait, and losing them costs a look.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from store.events import connect
from store.outage import Outage

log = logging.getLogger(__name__)

FRESH_S = 30.0  # a worker that has not reported for this long is gone
NAMES = "darkroom:workers"
UNKNOWN = ", so nothing is known of the workers"
NAMES_S = 7 * 24 * 3600  # how long the set of names outlives the last report


class Histogram(BaseModel):
    """How often values fell where, since the worker began."""

    model_config = ConfigDict(frozen=True)

    bounds: tuple[float, ...]  # largest value of each bin; one bin more holds what is larger
    counts: tuple[int, ...]  # of each bin, len(bounds) + 1
    total: float = 0.0  # sum of the values

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class Stage(BaseModel):
    """Time that one stage of the work took, since the worker began."""

    model_config = ConfigDict(frozen=True)

    count: int = 0
    seconds: float = 0.0


class WorkerReport(BaseModel):
    """One worker process. Counts and sums grow from its start."""

    model_config = ConfigDict(frozen=True)

    name: str  # unique for each start, as leases carry it
    lane: str
    device: str  # what the host calls it: cpu, cuda:1
    version: str
    started_at: float  # Unix time by the worker's clock, seconds
    seen_at: float  # likewise, of this report
    images: int = 0
    images_per_s: float = 0.0  # over the last seconds, idle ones included
    image_s: float | None = None  # seconds an image takes while it is busy; None: it made none yet
    cache_bytes: int = 0  # of loaded generators
    stages: dict[str, Stage] = {}
    batch_images: Histogram  # images in a batch
    wait_s: Histogram  # from a job's submission to its claim, seconds

    @property
    def place(self) -> str:
        """The worker's name without what changes at each start: `sample-cuda:0@host`."""
        kind, _, host = self.name.partition("@")
        return f"{kind.rpartition('-')[0] or kind}@{host}"

    @property
    def host(self) -> str:
        """Where the process runs."""
        return self.name.partition("@")[2]


class Reports(Protocol):
    """What every board of reports can do. Each method raises RedisUnavailable when it does not answer."""

    def publish(self, report: WorkerReport, *, fresh_s: float = FRESH_S) -> None:
        """Keeps the report in place of the worker's last one, for `fresh_s` seconds."""

    def current(self) -> list[WorkerReport]:
        """The fresh reports, by name."""

    def withdraw(self, name: str) -> None:
        """Forgets a worker that ends; forgetting one that is unknown does no harm."""

    def close(self) -> None:
        """Closes every connection."""


class RedisReports:
    """Reports in Redis: a string with an expiry for each worker, and a set of their names."""

    def __init__(self, url: str, outage: Outage | None = None) -> None:
        """Connects when it is first used; the arguments are RedisBus's."""
        self._redis = connect(url)
        self._outage = outage or Outage()

    def publish(self, report: WorkerReport, *, fresh_s: float = FRESH_S) -> None:
        with self._outage.guarding(UNKNOWN):
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.set(_key(report.name), report.model_dump_json(), px=max(1, int(fresh_s * 1000)))
            pipeline.sadd(NAMES, report.name)
            pipeline.expire(NAMES, NAMES_S)
            pipeline.execute()

    def current(self) -> list[WorkerReport]:
        with self._outage.guarding(UNKNOWN):
            found: Any = self._redis.smembers(NAMES)
            names = sorted(found)
            kept: Any = self._redis.mget([_key(name) for name in names]) if names else []
            stale = [name for name, text in zip(names, kept, strict=True) if text is None]
            if stale:
                self._redis.srem(NAMES, *stale)
        return [report for text in kept if text is not None and (report := _readable(text)) is not None]

    def withdraw(self, name: str) -> None:
        with self._outage.guarding(UNKNOWN):
            self._redis.delete(_key(name))
            self._redis.srem(NAMES, name)

    def close(self) -> None:
        self._redis.close()


class MemoryReports:
    """The twin of RedisReports for tests: one process, nothing outlives the object."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, str]] = {}  # until when (monotonic seconds), and the report

    def publish(self, report: WorkerReport, *, fresh_s: float = FRESH_S) -> None:
        with self._lock:
            self._kept[report.name] = (time.monotonic() + fresh_s, report.model_dump_json())

    def current(self) -> list[WorkerReport]:
        with self._lock:
            self._kept = {name: kept for name, kept in self._kept.items() if kept[0] > time.monotonic()}
            return [WorkerReport.model_validate_json(self._kept[name][1]) for name in sorted(self._kept)]

    def withdraw(self, name: str) -> None:
        with self._lock:
            self._kept.pop(name, None)

    def close(self) -> None:
        """Nothing to close."""


def _readable(text: str) -> WorkerReport | None:
    try:
        return WorkerReport.model_validate_json(text)
    except ValidationError as error:  # of another release: a look less
        log.debug("a worker's report can't be read: %s", error)
        return None


def _key(name: str) -> str:
    return f"darkroom:worker:{name}"
