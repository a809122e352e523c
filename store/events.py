"""Events: what happens to a job, as it happens. Redis Streams, or memory as its twin.

Events are news, not the truth: the job's row is. A lost event costs a watcher a moment, never a result.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from store.outage import Outage

STREAM = "darkroom:events:"  # and the job's id
MOST_TOLD = 500  # notices in one command

# One command for any number of notices: packing and reading several for each would cost more than all else about them.
PUBLISH = """
local stream, length, keep_s, news_length, ended = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local least_s, times = tonumber(ARGV[6]), tonumber(ARGV[7])
local order, over, pictures, last = {}, {}, {}, {}
local function milliseconds(id)
  return tonumber(string.match(id, '^%d+'))
end
for at = 8, #ARGV, 4 do
  local job, kind, data, picture = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  last[job] = redis.call('XADD', stream .. job, 'MAXLEN', '~', length, '*', 'type', kind, 'data', data)
  if over[job] == nil then
    order[#order + 1] = job
    over[job] = '0'
  end
  if kind == ended then
    over[job] = '1'
  end
  if picture ~= '' then
    pictures[job] = picture
  end
end
for _, job in ipairs(order) do
  local keep = keep_s
  if over[job] == '1' then
    local first = redis.call('XRANGE', stream .. job, '-', '+', 'COUNT', 1)[1][1]
    local lasted_s = (milliseconds(last[job]) - milliseconds(first)) / 1000
    keep = math.min(keep_s, math.max(least_s, math.ceil(times * lasted_s)))
  end
  redis.call('EXPIRE', stream .. job, keep)
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', news_length, '*', 'job', job, 'ended', over[job], 'picture', pictures[job] or '')
end
"""

CONNECT_S = 1.0  # how long a connection to Redis may take
ANSWER_S = 1.5  # and an answer: whoever waits for it may be a request
WATCH_S = 1.0  # longest uninterrupted look at it, below ANSWER_S
HISTORY_LENGTH = 1000  # events kept for each job, at least; Redis trims in blocks
HISTORY_S = 24 * 3600  # and for how long after the last, at most
# After a job's end they are kept for so many times as long as it took, but this long at least: who lost the connection comes
# back in seconds. Each job's take 4 kB of Redis, so those of pictures made within milliseconds would fill its memory in a day.
ENDED_TIMES, ENDED_LEAST_S = 10, 60
NEWS_LENGTH = 10_000  # how far a slow watcher of all jobs may fall behind
NEWS = "darkroom:news"
ENDED = "done"  # type of the last notice of a job
EVENT_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")


class Picture(NamedTuple):
    """The one picture of a job that has succeeded, as its row has it."""

    id: str
    sha256: str  # of the PNG
    blob: str


@dataclass(frozen=True)
class Notice:
    """Something to tell: `type` is status, progress, metrics, preview, image or done; `data` is JSON.

    `picture` is for those who watch all jobs: who waits for the job's one picture then has no row to look for.
    """

    job_id: str
    type: str
    data: dict[str, Any]
    picture: Picture | None = None


class Heard(NamedTuple):
    """What a watch hears of a job."""

    ended: bool
    picture: Picture | None = None

    def and_then(self, later: Heard) -> Heard:
        """Both in one."""
        return Heard(self.ended or later.ended, later.picture or self.picture)


@dataclass(frozen=True)
class Event:
    """A notice as it was kept: `id` grows within its job."""

    id: str
    type: str
    data: dict[str, Any]


class Watch(Protocol):
    """Hears of every job from the moment it was opened."""

    def next(self, timeout_s: float) -> dict[str, Heard]:
        """Jobs with news since the last call, and what it was; empty when none came in `timeout_s`."""


class EventBus(Protocol):
    """What every bus can do. Every method raises RedisUnavailable when the bus does not answer."""

    def publish(self, *notices: Notice) -> None:
        """Keeps the notices, in order, and wakes the watchers. A connection that breaks may keep them twice."""

    def history(self, job_id: str, after: str | None = None) -> list[Event]:
        """The job's events after the event `after`, oldest first; all that are kept when None.

        Raises ValueError where `after` has not the form of an event's id.
        """

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """A watch over all jobs, open while the block lasts."""
        raise NotImplementedError
        yield

    def ping(self) -> None:
        """Returns when the bus answers."""

    def close(self) -> None:
        """Closes every connection."""


def connect(url: str) -> redis.Redis:
    """A Redis client that fails within seconds, rather than hanging, when Redis is away.

    Args:
        url: `redis://[:password@]host:port/db`.
    """
    return redis.Redis.from_url(
        url,
        socket_timeout=ANSWER_S,
        socket_connect_timeout=CONNECT_S,
        health_check_interval=15,
        # Once more for a connection that went stale; not for a Redis that is silent: retries nest, so that would take long.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        decode_responses=True,
        protocol=2,  # the shapes of replies that this file reads
    )


class RedisBus:
    """Events in Redis Streams: one for each job, and one that says which jobs have news."""

    def __init__(self, url: str, outage: Outage | None = None) -> None:
        """Connects when it is first used.

        Args:
            url: `redis://[:password@]host:port/db`.
            outage: shared with other clients of the same Redis; None: its own.
        """
        self._redis = connect(url)
        self._outage = outage or Outage()
        self._publish = self._redis.register_script(PUBLISH)

    def publish(self, *notices: Notice) -> None:
        told = [
            field
            for notice in notices
            for field in (
                notice.job_id,
                notice.type,
                _json(notice.data),
                _json(notice.picture) if notice.picture else "",
            )
        ]
        terms = STREAM, HISTORY_LENGTH, HISTORY_S, NEWS_LENGTH, ENDED, ENDED_LEAST_S, ENDED_TIMES
        with self._outage.guarding():
            for start in range(0, len(told), 4 * MOST_TOLD):
                part = told[start : start + 4 * MOST_TOLD]
                self._publish(keys=[NEWS], args=[*terms, *part])

    def history(self, job_id: str, after: str | None = None) -> list[Event]:
        with self._outage.guarding():
            start = f"({_checked(after)}" if after is not None else "-"
            rows: Any = self._redis.xrange(_stream(job_id), min=start)
        return [Event(event_id, fields["type"], json.loads(fields["data"])) for event_id, fields in rows]

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        with self._outage.guarding():
            newest: Any = self._redis.xrevrange(NEWS, count=1)
        yield _RedisWatch(self._redis, self._outage, newest[0][0] if newest else "0-0")

    def ping(self) -> None:
        with self._outage.guarding():
            self._redis.ping()

    def close(self) -> None:
        self._redis.close()


class _RedisWatch:
    def __init__(self, client: redis.Redis, outage: Outage, last: str) -> None:
        self._redis, self._outage = client, outage
        self._last = last

    def next(self, timeout_s: float) -> dict[str, Heard]:
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            news = self._look(min(left_s, WATCH_S))
            if news or left_s <= WATCH_S:
                return news

    def _look(self, block_s: float) -> dict[str, Heard]:
        block_ms = max(1, int(block_s * 1000))  # 0 would wait for ever
        with self._outage.guarding():
            streams: Any = self._redis.xread({NEWS: self._last}, count=1000, block=block_ms)
        news: dict[str, Heard] = {}
        for _, rows in streams or []:
            for event_id, fields in rows:
                self._last = event_id
                # Releases before this one say nothing of pictures, older ones nothing of ends.
                picture = Picture(*json.loads(told)) if (told := fields.get("picture")) else None
                _add(news, fields["job"], Heard(fields.get("ended") == "1", picture))
        return news


class MemoryBus:
    """The twin of RedisBus for tests: one process, nothing outlives the object."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._told: list[tuple[str, Heard]] = []

    def publish(self, *notices: Notice) -> None:
        with self._news:
            for notice in notices:
                kept = self._events[notice.job_id]
                number = int(kept[-1].id.removesuffix("-0")) + 1 if kept else 1
                kept.append(Event(f"{number}-0", notice.type, json.loads(json.dumps(notice.data))))
                del kept[:-HISTORY_LENGTH]
                self._told.append((notice.job_id, Heard(notice.type == ENDED, notice.picture)))
            self._news.notify_all()

    def history(self, job_id: str, after: str | None = None) -> list[Event]:
        last = _order(_checked(after)) if after is not None else (0, 0)
        with self._news:
            return [event for event in self._events.get(job_id, ()) if _order(event.id) > last]

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        yield _MemoryWatch(self._news, self._told)

    def ping(self) -> None:
        """Memory always answers."""

    def close(self) -> None:
        """Nothing to close."""


class _MemoryWatch:
    def __init__(self, news: threading.Condition, told: list[tuple[str, Heard]]) -> None:
        self._news, self._told, self._read = news, told, len(told)

    def next(self, timeout_s: float) -> dict[str, Heard]:
        with self._news:
            self._news.wait_for(lambda: len(self._told) > self._read, timeout_s)
            fresh: dict[str, Heard] = {}
            for job_id, heard in self._told[self._read :]:
                _add(fresh, job_id, heard)
            self._read = len(self._told)
            return fresh


def _add(news: dict[str, Heard], job_id: str, heard: Heard) -> None:
    before = news.get(job_id)
    news[job_id] = before.and_then(heard) if before is not None else heard


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _order(event_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = event_id.partition("-")
    return int(milliseconds), int(sequence)


def _checked(event_id: str) -> str:
    if not EVENT_ID.fullmatch(event_id):
        raise ValueError(f"{event_id!r} is no event's id; they look like 1767614431000-0")
    return event_id


def _stream(job_id: str) -> str:
    return STREAM + job_id
