"""Rates: how many requests a minute a key may send, and how many wrong keys may come from one address.

Counted in this process, so that a request costs microseconds and waits for nobody; once a second what was counted goes to
Redis, and comes back as what all processes have counted. A minute slides: of the one before, the share counts that still lies
within the last sixty seconds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import anyio.to_thread
from limits.errors import StorageError
from limits.storage import Storage

from app.errors import RateLimited

log = logging.getLogger(__name__)

PERIOD_S = 60
EXCHANGE_S = 1.0  # by how much processes are behind each other
MOST_TALLIES = 10_000  # names remembered; the oldest go first
WARN_EVERY_S = 60.0


@dataclass(slots=True)
class Tally:
    """Requests of one name."""

    minute: int  # since 1970
    before: int  # in the minute before, everywhere
    seen: int = 0  # in this one, everywhere, when that was last exchanged
    pending: int = 0  # in this one, here, since then

    def estimate(self, now: float) -> float:
        """Requests within the last sixty seconds, as if those of the minute before had come evenly."""
        return self.before * (1 - now % PERIOD_S / PERIOD_S) + self.seen + self.pending

    def wait_s(self, limit: int, now: float) -> int:
        """Seconds until there is room for one more."""
        gone_s, here = now % PERIOD_S, self.seen + self.pending
        if here + 1 > limit:  # the minute has to pass, and then enough of it has to slide out
            return math.ceil(PERIOD_S - gone_s + PERIOD_S * (1 - (limit - 1) / here))
        return max(1, math.ceil(PERIOD_S * (1 - (limit - 1 - here) / self.before) - gone_s))


@dataclass(frozen=True, slots=True)
class Standing:
    """How much of a rate is left."""

    limit: int
    remaining: int
    reset_s: int

    @property
    def headers(self) -> dict[str, str]:
        """As responses say it (draft-ietf-httpapi-ratelimit-headers)."""
        return {
            "RateLimit-Policy": f'"requests";q={self.limit};w={PERIOD_S}',
            "RateLimit": f'"requests";r={self.remaining};t={self.reset_s}',
        }


class Rates:
    """Counts requests. Used on one event loop.

    Args:
        counters: what all processes share.
        clock: Unix time in seconds.
    """

    def __init__(self, counters: Storage, *, clock: Callable[[], float] = time.time) -> None:
        self._counters, self._clock = counters, clock
        self._tallies: dict[str, Tally] = {}
        self._changed: set[str] = set()
        self._exchanging: asyncio.Task[None] | None = None
        self._warned_at = -math.inf

    def count(self, name: str, limit: int) -> Standing:
        """Count one request.

        Args:
            name: whose.
            limit: most within a minute.

        Raises:
            RateLimited: it is one too many, and was not counted.
        """
        now = self._clock()
        tally = self._tally(name, now)
        left = limit - tally.estimate(now)
        if left < 1:
            raise self._refusal(tally, limit, now)
        tally.pending += 1
        self._changed.add(name)
        if self._exchanging is None or self._exchanging.done():
            self._exchanging = asyncio.get_running_loop().create_task(self._exchange())
        return Standing(limit, int(left) - 1, PERIOD_S - int(now % PERIOD_S))

    def check(self, name: str, limit: int) -> None:
        """Return where one more would be let in, without counting it.

        Raises:
            RateLimited: it would not.
        """
        now = self._clock()
        if name in self._tallies and limit - (tally := self._tally(name, now)).estimate(now) < 1:
            raise self._refusal(tally, limit, now)

    async def close(self) -> None:
        """Hands on what was counted last."""
        if self._exchanging is not None:
            self._exchanging.cancel()
        await self.exchange()

    async def exchange(self) -> None:
        """Tells Redis what was counted here, and learns what was counted everywhere."""
        changed, self._changed = self._changed, set()
        sent = {
            f"{name}:{tally.minute}": (tally, tally.minute, tally.pending)
            for name in changed
            if (tally := self._tallies.get(name)) is not None and tally.pending
        }
        first = {
            f"{key.rpartition(':')[0]}:{minute - 1}": tally
            for key, (tally, minute, _) in sent.items()
            if not tally.seen
        }
        try:
            counted, earlier = await anyio.to_thread.run_sync(
                self._told, {key: pending for key, (_, _, pending) in sent.items()}, list(first)
            )
        except StorageError as error:
            # Each process then counts for itself: what is allowed grows with their number, and no request waits or fails.
            if time.monotonic() - self._warned_at > WARN_EVERY_S:
                self._warned_at = time.monotonic()
                log.warning("rates are counted by each process alone: Redis does not answer (%s)", error)
            return
        for key, count in counted.items():
            tally, minute, pending = sent[key]
            if tally.minute == minute:  # else it is past, and another exchange's matter
                tally.seen, tally.pending = count, tally.pending - pending
        for key, count in earlier.items():
            tally = first[key]
            tally.before = max(tally.before, count)

    def _told(self, pending: Mapping[str, int], first: list[str]) -> tuple[dict[str, int], dict[str, int]]:
        counted = {key: self._counters.incr(key, 2 * PERIOD_S, amount=count) for key, count in pending.items()}
        return counted, {key: self._counters.get(key) for key in first}

    async def _exchange(self) -> None:
        while self._changed:
            await asyncio.sleep(EXCHANGE_S)
            await self.exchange()

    def _tally(self, name: str, now: float) -> Tally:
        minute = int(now // PERIOD_S)
        tally = self._tallies.get(name)
        if tally is None:
            while len(self._tallies) >= MOST_TALLIES:
                del self._tallies[next(iter(self._tallies))]
            tally = self._tallies[name] = Tally(minute, before=0)
        elif tally.minute != minute:
            tally.before = tally.seen + tally.pending if tally.minute == minute - 1 else 0
            tally.minute, tally.seen, tally.pending = minute, 0, 0
        return tally

    def _refusal(self, tally: Tally, limit: int, now: float) -> RateLimited:
        wait_s = tally.wait_s(limit, now)
        return RateLimited(
            f"more than {limit:,} requests came within a minute",
            remedy=f"come again in {wait_s} s, and then less often",
            retry_after_s=wait_s,
            headers=Standing(limit, 0, wait_s).headers,
            more={"limit": limit, "period_s": PERIOD_S},
        )


def network_of(client: tuple[str, int] | None) -> str:
    """Return what stands for whoever connects from there: the address, or the /64 network that one user of IPv6 has."""
    try:
        address = ipaddress.ip_address(client[0] if client is not None else "")
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
