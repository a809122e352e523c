"""The queue: doorbells through Celery. A bell carries no work, it says "something is queued" (DESIGN: the row is the truth).

Bells coalesce: while one lies unread in a lane, ringing again adds none. Whoever takes it claims after that, so it also
finds what was committed before the second ring. (docs/decisions/0003-doorbells.md has the whole argument.)

A bell is a message of Celery's, which a Celery worker hears as its task. It is always the same one, so it is made once, and
laid into its lane by one command of Redis's: to publish one anew took Celery longer than all else about a lone request.
"""

from __future__ import annotations

import base64
import enum
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol

from celery import Celery
from kombu.entity import Queue as BrokerQueue

from store.events import CONNECT_S, connect
from store.outage import Outage
from store.records import JobKind

BROKER_ANSWER_S = 5  # how long Redis may take to answer a worker, whose look at its queue lasts a second

LONGEST_TAKE_S = 1.0  # below ANSWER_S, which its answer must not take longer than

# Lays down a bell where none lies. What was announced for it, and nobody took, is of no more use.
RING = """
if redis.call('LLEN', KEYS[1]) == 0 then
  redis.call('LPUSH', KEYS[1], ARGV[1])
end
redis.call('DEL', KEYS[2])
"""
ANNOUNCE = """
redis.call('DEL', KEYS[1])
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
ANNOUNCED_S = 1.0  # how long what was announced waits for its bell at most; a transaction takes milliseconds


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
    def announcements(self) -> str:
        """Where it lies in Redis what a bell is about to be rung for."""
        return f"darkroom.{self.value}.announced"

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

    def announce(self, lane: Lane, what: str) -> None:
        """Says what a bell is about to be rung for, to one worker that waits for it; the bell puts an end to it.

        Raises RedisUnavailable.
        """

    def take(self, lane: Lane, timeout_s: float, announced: Callable[[str], None] | None = None) -> bool:
        """Takes a bell off the lane, as its workers do; whether one lay there or came in time. Raises RedisUnavailable.

        Args:
            lane: whose.
            timeout_s: how long to wait for one, at most LONGEST_TAKE_S seconds.
            announced: told what is announced meanwhile; None: nobody is, and it is left to others.
        """

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
        self._redis = connect(redis_url)
        self._outage = outage or Outage()
        self._ring, self._announce = self._redis.register_script(RING), self._redis.register_script(ANNOUNCE)

    def ring(self, lane: Lane) -> None:
        with self._outage.guarding(", so no worker was woken"):
            self._ring(keys=[lane.queue_name, lane.announcements], args=[bell(lane)])

    def waiting(self, lane: Lane) -> int:
        with self._outage.guarding():
            length: Any = self._redis.llen(lane.queue_name)
        return int(length)

    def announce(self, lane: Lane, what: str) -> None:
        with self._outage.guarding():
            self._announce(keys=[lane.announcements], args=[what, int(1000 * ANNOUNCED_S)])

    def take(self, lane: Lane, timeout_s: float, announced: Callable[[str], None] | None = None) -> bool:
        until = time.monotonic() + timeout_s
        places = [lane.queue_name] if announced is None else [lane.queue_name, lane.announcements]
        while True:
            with self._outage.guarding():
                # 0 would wait for ever.
                taken: Any = self._redis.brpop(places, max(0.01, until - time.monotonic()))
            if taken is None or taken[0] == lane.queue_name:
                return taken is not None
            assert announced is not None
            announced(taken[1])

    def close(self) -> None:
        self._redis.close()


class MemoryQueue:
    """The twin of CeleryQueue for tests."""

    def __init__(self) -> None:
        self._bells: Counter[Lane] = Counter()
        self._announced: dict[Lane, tuple[str, float]] = {}  # and until when, monotonic seconds
        self._rung = threading.Condition()

    def ring(self, lane: Lane) -> None:
        with self._rung:
            self._bells[lane] = 1
            self._announced.pop(lane, None)
            self._rung.notify_all()

    def announce(self, lane: Lane, what: str) -> None:
        with self._rung:
            self._announced[lane] = what, time.monotonic() + ANNOUNCED_S
            self._rung.notify_all()

    def waiting(self, lane: Lane) -> int:
        return self._bells[lane]

    def take(self, lane: Lane, timeout_s: float, announced: Callable[[str], None] | None = None) -> bool:
        until = time.monotonic() + timeout_s
        while True:
            with self._rung:
                self._rung.wait_for(
                    lambda: self._bells[lane] > 0 or (announced is not None and lane in self._announced),
                    until - time.monotonic(),
                )
                if self._bells.pop(lane, 0) > 0:
                    return True
                if announced is None or lane not in self._announced:
                    return False
                what, valid_until = self._announced.pop(lane)
            if time.monotonic() < valid_until:
                announced(what)

    def close(self) -> None:
        """Nothing to close."""


@cache
def bell(lane: Lane) -> str:
    """Return the lane's bell as it lies in Redis: a call of the one task of its name, without arguments.

    Source: Celery, Message Protocol, version 2; around it what kombu's transport for Redis puts around every message.
    """
    number = str(uuid.uuid4())
    message = Celery(set_as_current=False).amqp.as_task_v2(number, lane.queue_name, ignore_result=True)
    properties = message.properties | {
        "delivery_info": {"exchange": "", "routing_key": lane.queue_name},
        "delivery_mode": 2,
        "delivery_tag": number,
        "priority": 0,
        "body_encoding": "base64",
    }
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(message.body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": message.headers,
            "properties": properties,
        }
    )


def celery_app(redis_url: str) -> Celery:
    """The Celery application of every worker; worker/tasks.py registers the tasks.

    Args:
        redis_url: the broker's.
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
            "socket_timeout": BROKER_ANSWER_S,
            "socket_connect_timeout": CONNECT_S,
            "health_check_interval": 15,
        },
    )
    return app


def _unacknowledged(name: str) -> BrokerQueue:
    return BrokerQueue(name, routing_key=name, no_ack=True)  # type: ignore[no-untyped-call]
