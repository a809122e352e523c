"""The queue: doorbells through Celery. A bell carries no work, it says "something is queued" (DESIGN: the row is the truth).

Bells coalesce: while one lies unread in a lane, ringing again adds none. Whoever takes it claims after that, so it also
finds what was committed before the second ring. (docs/decisions/0003-doorbells.md has the whole argument.)
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from celery import Celery
from kombu.entity import Queue as BrokerQueue

from store.events import CONNECT_S, connect
from store.outage import Outage
from store.records import JobKind

BROKER_ANSWER_S = 5  # how long Redis may take to answer a worker, whose look at its queue lasts a second
PUBLISH_ANSWER_S = (
    0.5  # and to take a bell, right after it said how many lie there: whoever waits for it may be a request
)


class Lane(enum.StrEnum):
    """Where work waits: one queue for each sort of worker."""

    SAMPLE = "sample"
    TRAIN = "train"
    IO = "io"

    @property
    def queue_name(self) -> str:
        """The Celery queue of this lane, and the name of the one task that it carries."""
        return f"darkroom.{self.value}"

    @property
    def kinds(self) -> list[JobKind]:
        """The kinds of job that wait in this lane."""
        return [kind for kind, lane in LANE_OF.items() if lane is self]


LANE_OF: Mapping[JobKind, Lane] = {
    JobKind.SAMPLE: Lane.SAMPLE,
    JobKind.TRAIN: Lane.TRAIN,
    JobKind.EVALUATE: Lane.TRAIN,
    JobKind.IMPORT: Lane.IO,
    JobKind.IMPORT_MODEL: Lane.IO,
    JobKind.EXPORT: Lane.IO,  # its torch is a child's (worker/exporting.py), and no training holds it up
}


class Queue(Protocol):
    """What every queue can do."""

    def ring(self, lane: Lane) -> None:
        """Wakes a worker of the lane; only ever after the commit. Raises RedisUnavailable, within seconds."""

    def waiting(self, lane: Lane) -> int:
        """How many bells lie unread. Raises RedisUnavailable."""

    def close(self) -> None:
        """Closes every connection."""


class CeleryQueue:
    """Bells as Celery messages in Redis."""

    def __init__(self, redis_url: str, outage: Outage | None = None) -> None:
        """Connects when it is first used.

        Args:
            redis_url: the broker's.
            outage: shared with other clients of the same Redis; None: its own.
        """
        self._celery = celery_app(redis_url, answer_s=PUBLISH_ANSWER_S)
        self._redis = connect(redis_url)
        self._outage = outage or Outage()

    def ring(self, lane: Lane) -> None:
        if self.waiting(lane):
            return
        with self._outage.guarding(", so no worker was woken"):
            self._celery.send_task(lane.queue_name, queue=lane.queue_name, ignore_result=True)

    def waiting(self, lane: Lane) -> int:
        with self._outage.guarding():
            length: Any = self._redis.llen(lane.queue_name)
        return int(length)

    def close(self) -> None:
        self._redis.close()
        self._celery.close()


class MemoryQueue:
    """The twin of CeleryQueue for tests: bells are counted, and taken by hand."""

    def __init__(self) -> None:
        self._bells: Counter[Lane] = Counter()

    def ring(self, lane: Lane) -> None:
        self._bells[lane] = 1

    def waiting(self, lane: Lane) -> int:
        return self._bells[lane]

    def take(self, lane: Lane) -> bool:
        """Takes the bell off the lane, as a worker would; whether there was one."""
        return self._bells.pop(lane, 0) > 0

    def close(self) -> None:
        """Nothing to close."""


def celery_app(redis_url: str, *, answer_s: float = BROKER_ANSWER_S) -> Celery:
    """The Celery application that producers and workers share; worker/tasks.py registers the tasks.

    Args:
        redis_url: the broker's.
        answer_s: how long it may take to answer, in seconds.
    """
    app = Celery("darkroom", broker=redis_url, set_as_current=False)
    app.conf.update(
        # The row recovers lost work, not the broker: a bell that is taken is gone, and needs no acknowledgement. One that
        # fails, as when Redis dies, is swallowed by Celery and counts against the worker, which then takes no other bell.
        task_queues=[_unacknowledged(lane.queue_name) for lane in Lane],
        task_acks_late=False,
        task_ignore_result=True,
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_timeout": answer_s,
            "socket_connect_timeout": min(answer_s, CONNECT_S),
            "health_check_interval": 15,
        },
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2},
    )
    return app


def _unacknowledged(name: str) -> BrokerQueue:
    return BrokerQueue(name, routing_key=name, no_ack=True)  # type: ignore[no-untyped-call]
