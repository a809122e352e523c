"""Outages of Redis: the first caller waits for the timeout, nobody else does, and it heals by itself."""

from __future__ import annotations

import threading
import time

import pytest
import redis

from store import outage as outage_module
from store.errors import RedisUnavailable
from store.outage import Outage


def fail(outage: Outage, after_s: float = 0.0, error: Exception | None = None) -> None:
    with outage.guarding():
        time.sleep(after_s)
        raise error or redis.TimeoutError("silent")


def call(outage: Outage) -> bool:
    """Whether the block ran."""
    ran = False
    try:
        with outage.guarding():
            ran = True
    except RedisUnavailable:
        assert not ran
    return ran


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    """One for which everything over 10 ms is slow, and that rests for 50 ms."""
    monkeypatch.setattr(outage_module, "SLOW_S", 0.01)
    monkeypatch.setattr(outage_module, "REST_S", 0.05)
    return Outage()


def test_after_a_slow_failure_nobody_asks_for_a_moment_and_then_somebody_does(outage: Outage) -> None:
    with pytest.raises(RedisUnavailable, match="silent"):
        fail(outage, 0.02)

    with pytest.raises(RedisUnavailable, match=r"silent \(it is asked again in a moment\)"), outage.guarding():
        raise AssertionError("it should have rested")
    time.sleep(0.06)
    assert call(outage)
    assert call(outage)


def test_one_that_refuses_at_once_is_asked_each_time(outage: Outage) -> None:
    for _ in range(2):
        with pytest.raises(RedisUnavailable, match="refused"):
            fail(outage, error=redis.ConnectionError("refused"))
    assert call(outage)


def test_one_that_answers_with_an_error_is_not_away(outage: Outage) -> None:
    with pytest.raises(RedisUnavailable, match="refused a command: OOM"):
        fail(outage, 0.02, redis.ResponseError("OOM"))
    assert call(outage)


def test_what_is_no_failure_of_redis_passes_through(outage: Outage) -> None:
    with pytest.raises(KeyError):
        fail(outage, 0.02, KeyError("mine"))
    assert call(outage)


def test_while_one_looks_whether_it_is_back_the_others_do_not(outage: Outage) -> None:
    with pytest.raises(RedisUnavailable):
        fail(outage, 0.02)
    time.sleep(0.06)
    looks, may_end = threading.Event(), threading.Event()

    def look() -> None:
        with outage.guarding():
            looks.set()
            may_end.wait(5)

    scout = threading.Thread(target=look)
    scout.start()
    assert looks.wait(5)
    assert not call(outage)
    may_end.set()
    scout.join()
    assert call(outage)
