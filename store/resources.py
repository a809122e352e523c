"""The attached resources of one process, opened together from the settings."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from limits.storage import MemoryStorage, Storage
from sqlalchemy import select

from store.blobs import Blobs, LocalBlobs
from store.database import Database
from store.errors import RedisUnavailable
from store.events import EventBus, Notice, RedisBus
from store.outage import Outage
from store.queue import CeleryQueue, Lane, Queue
from store.rates import open_counters
from store.records import Dataset, DatasetStatus, Image, Job, Model
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
    _owed: set[Lane] = field(default_factory=set, repr=False)  # bells that Redis was not there for

    @classmethod
    def open(cls, settings: Settings) -> Resources:
        """The real ones, as the settings say; each connects when it is first used."""
        outage = Outage()
        database = Database(settings.resolved_database_url)
        return cls(
            settings=settings,
            database=database,
            blobs=open_blobs(settings, database),
            bus=RedisBus(settings.redis_url, outage),
            queue=CeleryQueue(settings.redis_url, outage),
            reports=RedisReports(settings.redis_url, outage),
            counters=open_counters(settings.redis_url),
        )

    def tell(self, *notices: Notice) -> None:
        """Publishes news. A bus that is away costs watchers the news, never the work."""
        try:
            self.bus.publish(*notices)
        except RedisUnavailable as error:
            log.warning("watchers were not told: %s", error)

    def ring(self, *lanes: Lane) -> None:
        """Rings bells after a commit. Where Redis is away, the next call does it, or the reconciler, whichever comes first."""
        owed = {*lanes, *self._owed.copy()}  # a copy takes one step: other threads may ring meanwhile
        self._owed.update(lanes)
        try:
            for lane in sorted(owed):
                self.queue.ring(lane)
                self._owed.discard(lane)
        except RedisUnavailable as error:
            log.warning("no worker was woken, the reconciler will do it: %s", error)

    def announce(self, lane: Lane, what: str) -> None:
        """Says what a bell is about to be rung for. Where Redis is away, nobody works ahead."""
        try:
            self.queue.announce(lane, what)
        except RedisUnavailable as error:
            log.debug("nobody works ahead: %s", error)

    def close(self) -> None:
        """Closes every connection."""
        self.reports.close()
        self.queue.close()
        self.bus.close()
        self.database.close()


def open_blobs(settings: Settings, database: Database) -> Blobs:
    """Return the blobs that the settings name; they are away, not gone, where the rows of the database speak of blobs and none
    of ours are to be seen."""
    return LocalBlobs(settings.resolved_blobs_dir, may_begin=lambda: not keeps_blobs(database))


def keeps_blobs(database: Database) -> bool:
    """Whether any row speaks of blobs that must be somewhere.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    witnesses = (
        select(Image.id),
        select(Model.id).where(Model.checkpoint.is_not(None)),
        select(Dataset.id).where(Dataset.status == DatasetStatus.READY),
    )
    with database.snapshot() as session:
        return any(session.execute(witness.limit(1)).first() is not None for witness in witnesses)


def status_notice(job: Job) -> Notice:
    """The notice that a job's status changed: `done` once it has ended, else `status`."""
    data = {"status": job.status.value, "error": job.error_message}
    return Notice(job.id, "done" if job.finished_at is not None else "status", data)
