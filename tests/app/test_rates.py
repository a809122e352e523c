"""Rates: counted at once here, and soon everywhere."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

import pytest
from limits.storage import MemoryStorage, Storage

from app import rates
from app.errors import RateLimited
from app.rates import MOST_TALLIES, Rates, network_of
from store.rates import open_counters


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 60.0 * 1_000_000

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["memory", "redis"])
def counters(request: pytest.FixtureRequest) -> Storage:
    """What processes share: the twin and the real one."""
    if request.param == "memory":
        return MemoryStorage()
    return open_counters(request.getfixturevalue("redis_url"))


def let_in(one: Rates, limit: int, most: int = 1000) -> int:
    """How many are let in at this moment."""
    for number in range(most):
        try:
            one.count("key_1", limit)
        except RateLimited:
            return number
    return most


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def test_a_minute_holds_so_many_and_the_next_lets_in_as_the_last_slides_out() -> None:
    async def work() -> None:
        clock = Clock()
        one = Rates(MemoryStorage(), clock=clock)
        assert let_in(one, 60) == 60

        clock.now += 59
        assert let_in(one, 60) == 0
        clock.now += 1 + 30  # half of the next minute: half of the last one still counts
        assert let_in(one, 60) == 30
        clock.now += 60 + 60
        assert let_in(one, 60) == 60  # two minutes later nothing does
        await one.close()

    run(work())


@pytest.mark.parametrize("limit", [1, 2, 7, 60])
@pytest.mark.parametrize("at_s", [0.0, 13.5, 59.9])
def test_retry_after_is_when_there_is_room_and_not_much_later(limit: int, at_s: float) -> None:
    async def work() -> None:
        clock = Clock()
        one = Rates(MemoryStorage(), clock=clock)
        clock.now += at_s
        for _ in range(3):  # from an empty minute, and from minutes after full ones
            let_in(one, limit)
            with pytest.raises(RateLimited) as refused:
                one.count("key_1", limit)
            wait_s = refused.value.retry_after_s
            assert wait_s is not None
            assert 1 <= wait_s <= 121
            clock.now += wait_s - 1.5
            if wait_s > 2:
                with pytest.raises(RateLimited):
                    one.count("key_1", limit)
            clock.now += 1.5
            one.count("key_1", limit)
        await one.close()

    run(work())


def test_what_is_left_is_said_in_headers() -> None:
    async def work() -> None:
        clock = Clock()
        one = Rates(MemoryStorage(), clock=clock)
        clock.now += 20
        standing = one.count("key_1", 10)
        assert standing.headers == {"RateLimit-Policy": '"requests";q=10;w=60', "RateLimit": '"requests";r=9;t=40'}
        let_in(one, 10)
        with pytest.raises(RateLimited) as refused:
            one.count("key_1", 10)
        assert refused.value.headers["RateLimit"].startswith('"requests";r=0;t=')
        await one.close()

    run(work())


def test_processes_learn_of_each_other(counters: Storage) -> None:
    async def work() -> None:
        clock = Clock()
        one, other = Rates(counters, clock=clock), Rates(counters, clock=clock)
        assert let_in(one, 100, most=80) == 80
        await one.exchange()
        other.count("key_1", 100)
        await other.exchange()
        assert let_in(other, 100) == 19  # and not 99

        clock.now += 60  # one that has just started knows of the minute before, too
        third = Rates(counters, clock=clock)
        await other.exchange()
        third.count("key_1", 100)
        await third.exchange()
        assert let_in(third, 100) <= 18
        for each in (one, other, third):
            await each.close()

    run(work())


def test_the_exchange_comes_by_itself(counters: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "EXCHANGE_S", 0.01)

    async def work() -> None:
        clock = Clock()
        one = Rates(counters, clock=clock)
        let_in(one, 100, most=5)
        name = f"key_1:{int(clock.now // 60)}"
        for _ in range(500):
            if counters.get(name) == 5:
                break
            await asyncio.sleep(0.01)
        assert counters.get(name) == 5
        await one.close()

    run(work())


def test_without_redis_each_process_counts_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        one = Rates(open_counters("redis://:hunter2@127.0.0.1:1/0"), clock=Clock())
        assert let_in(one, 50) == 50
        await one.exchange()
        assert let_in(one, 50) == 0
        await one.exchange()
        await one.close()

    run(work())
    assert len([record for record in caplog.records if "Redis does not answer" in record.getMessage()]) == 1
    assert "hunter2" not in caplog.text


def test_counts_made_while_redis_was_away_are_handed_on(redis_url: str) -> None:
    async def work() -> None:
        clock, counters = Clock(), open_counters(redis_url)
        one = Rates(open_counters("redis://127.0.0.1:1/0"), clock=clock)
        let_in(one, 50, most=7)
        await one.exchange()
        one._counters = counters  # it is back
        one.count("key_1", 50)
        await one.exchange()
        assert counters.get(f"key_1:{int(clock.now // 60)}") == 8
        await one.close()

    run(work())


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_TALLIES", 10)

    async def work() -> None:
        one = Rates(MemoryStorage(), clock=Clock())
        for number in range(50):
            one.count(f"key_{number}", 5)
        assert len(one._tallies) == 10
        await one.close()

    run(work())
    assert MOST_TALLIES >= 1000


def test_looking_does_not_count() -> None:
    async def work() -> None:
        one = Rates(MemoryStorage(), clock=Clock())
        for _ in range(10):
            one.check("address", 2)
        one.count("address", 2)
        one.count("address", 2)
        with pytest.raises(RateLimited):
            one.check("address", 2)
        await one.close()

    run(work())


@pytest.mark.parametrize(
    ("client", "network"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8:1:2:3::4", 1), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:ffff::5", 9), "2001:db8:1:2::/64"),
        (("testclient", 1), "unknown"),
        (None, "unknown"),
    ],
)
def test_one_user_of_ipv6_is_one_network(client: tuple[str, int] | None, network: str) -> None:
    assert network_of(client) == network


def test_names_do_not_share_a_rate() -> None:
    async def work() -> None:
        one = Rates(MemoryStorage(), clock=Clock())
        for name, _ in itertools.product(("key_1", "key_2"), range(5)):
            one.count(name, 5)
        for name in ("key_1", "key_2"):
            with pytest.raises(RateLimited):
                one.count(name, 5)
        await one.close()

    run(work())
