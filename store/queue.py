"""The queue: doorbells through Celery. A bell carries no work, it says "something is queued" (DESIGN: the row is the truth).

Bells coalesce: while one lies unread in a lane, ringing again adds none. Whoever takes it claims after that, so it also
finds what was committed before the second ring. (docs/decisions/0003-doorbells.md has the whole argument.)
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from store.errors import RedisUnavailable
from store.events import connect
from store.records import JobKind

BROKER_ANSWER_S = 5  # how long Redis may take to answer Celery


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

    def __init__(self, redis_url: str) -> None:
        self._celery = celery_app(redis_url)
        self._redis = connect(redis_url)

    def ring(self, lane: Lane) -> None:
        if self.waiting(lane):
            return
        try:
            self._celery.send_task(lane.queue_name, queue=lane.queue_name, ignore_result=True)
        except (OperationalError, redis.RedisError) as error:
            raise RedisUnavailable(f"Redis does not answer, so no worker was woken: {error}") from error

    def waiting(self, lane: Lane) -> int:
        try:
            length: Any = self._redis.llen(lane.queue_name)
        except redis.RedisError as error:
            raise RedisUnavailable(f"Redis does not answer: {error}") from error
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


def celery_app(redis_url: str) -> Celery:
    """The Celery application that producers and workers share; worker/tasks.py registers the tasks."""
    app = Celery("darkroom", broker=redis_url, set_as_current=False)
    app.conf.update(
        # The row recovers lost work, not the broker: a bell is acknowledged when it is heard.
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
            "socket_timeout": BROKER_ANSWER_S,
            "socket_connect_timeout": 2,
            "health_check_interval": 15,
        },
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2},
    )
    return app
