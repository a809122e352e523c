"""The attached resources of one process, opened together from the settings."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from limits.storage import MemoryStorage, Storage

from store.blobs import Blobs, LocalBlobs
from store.database import Database
from store.errors import RedisUnavailable
from store.events import EventBus, Notice, RedisBus
from store.queue import CeleryQueue, Lane, Queue
from store.rates import open_counters
from store.records import Job
from store.reports import MemoryReports, RedisReports, Reports
from store.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resources:
    """Database, blobs, events, queue, what workers report, and what API processes count together."""

    settings: Settings
    database: Database
    blobs: Blobs
    bus: EventBus
    queue: Queue
    reports: Reports = field(default_factory=MemoryReports)
    counters: Storage = field(default_factory=MemoryStorage)

    @classmethod
    def open(cls, settings: Settings) -> Resources:
        """The real ones, as the settings say; each connects when it is first used."""
        return cls(
            settings=settings,
            database=Database(settings.resolved_database_url),
            blobs=LocalBlobs(settings.resolved_blobs_dir),
            bus=RedisBus(settings.redis_url),
            queue=CeleryQueue(settings.redis_url),
            reports=RedisReports(settings.redis_url),
            counters=open_counters(settings.redis_url),
        )

    def tell(self, *notices: Notice) -> None:
        """Publishes news. A bus that is away costs watchers the news, never the work."""
        try:
            self.bus.publish(*notices)
        except RedisUnavailable as error:
            log.warning("watchers were not told: %s", error)

    def ring(self, *lanes: Lane) -> None:
        """Rings bells after a commit. Where Redis is away, the reconciler rings when it is back."""
        try:
            for lane in lanes:
                self.queue.ring(lane)
        except RedisUnavailable as error:
            log.warning("no worker was woken, the reconciler will do it: %s", error)

    def close(self) -> None:
        """Closes every connection."""
        self.reports.close()
        self.queue.close()
        self.bus.close()
        self.database.close()


def status_notice(job: Job) -> Notice:
    """The notice that a job's status changed: `done` once it has ended, else `status`."""
    data = {"status": job.status.value, "error": job.error_message}
    return Notice(job.id, "done" if job.finished_at is not None else "status", data)
