"""Outages of Redis: noticed by one caller, and spared to all others.

A Redis that refuses connections says so at once. One that is paused, or behind a network that swallows packets, says nothing,
and each call would wait for its timeout. So after a slow failure nobody asks for a moment, and then one caller at a time looks
whether it is back. Whoever shares an `Outage` fails at once meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from kombu.exceptions import OperationalError

from store.errors import RedisUnavailable

SLOW_S = 0.2  # a failure that took longer than this is worth sparing others
REST_S = 1.0  # how long nobody asks after one
LOOK_S = 5.0  # how long one caller may look before another does; no call takes so long


class Outage:
    """What the clients of one Redis know of its absence. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0  # when it is asked again, monotonic seconds; 0: it answers
        self._reason = ""

    @contextmanager
    def guarding(self, so: str = "") -> Iterator[None]:
        """Runs a block that talks to Redis, and calls its failures by our name.

        Args:
            so: what follows from a failure, as in ", so no worker was woken".

        Raises:
            RedisUnavailable: it did not answer just now or a moment ago, or it refused a command.
        """
        self._raise_while_resting(so)
        began = time.monotonic()
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, OperationalError) as error:
            self._note(str(error), slow=time.monotonic() - began > SLOW_S)
            raise RedisUnavailable(f"Redis does not answer{so}: {error}") from error
        except redis.RedisError as error:
            self._note("", slow=False)
            raise RedisUnavailable(f"Redis refused a command{so}: {error}") from error
        self._note("", slow=False)

    def _raise_while_resting(self, so: str) -> None:
        if not self._until:  # a look without the lock: almost always it answers
            return
        with self._lock:
            now = time.monotonic()
            if now < self._until:
                raise RedisUnavailable(f"Redis does not answer{so}: {self._reason} (it is asked again in a moment)")
            if self._until:
                self._until = now + LOOK_S  # the others wait for what this caller finds

    def _note(self, reason: str, *, slow: bool) -> None:
        if not slow and not self._until:
            return
        with self._lock:
            self._until, self._reason = (time.monotonic() + REST_S if slow else 0.0), reason
