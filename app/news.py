"""News of jobs for everyone who waits in this process: one thread watches the bus and wakes them by job id.

A wake-up is a hint to look at the row again; who waits also looks every few seconds, so a lost one costs little. Only a job's
one picture comes with the news of its end, which was committed before: who waits for nothing else has it without a look.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from store.errors import RedisUnavailable, StoreError
from store.events import EventBus, Heard, Picture

log = logging.getLogger(__name__)

WATCH_S = 0.5  # longest uninterrupted look at the bus, so also how long closing takes
RECONNECT_S = 1.0


@dataclass(frozen=True)
class Shown:
    """A job's one picture, and its PNG."""

    picture: Picture
    content: bytes


class Ear:
    """One waiter's side: it hears of one job; where `end_only`, only that it has ended; with its one `picture` then."""

    def __init__(self, news: News, end_only: bool, picture: bool) -> None:
        self._news = news
        self.end_only, self.picture = end_only, picture
        self.shown: Shown | None = None  # once it has ended well, where that is listened for
        self._heard = asyncio.Event()

    @property
    def closing(self) -> bool:
        """Whether the service is about to stop, so that waiting must end."""
        return self._news.closing

    async def wait(self, timeout_s: float) -> bool:
        """Whether there was news since the last call, within `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()
        except TimeoutError:
            return False
        if not self.closing:
            self._heard.clear()
        return True

    def wake(self) -> None:
        """Ends a wait."""
        self._heard.set()


class News:
    """Watches the bus on a thread of its own while it is open.

    Args:
        bus: what to watch.
        read: returns the blob of a key; raises StoreError where it can't.
    """

    def __init__(self, bus: EventBus, read: Callable[[str], bytes]) -> None:
        self._bus, self._read = bus, read
        self._ears: dict[str, set[Ear]] = defaultdict(set)
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._watch, name="news", daemon=True)

    @property
    def closing(self) -> bool:
        """Whether `hush` was called."""
        return self._stop.is_set()

    @property
    def is_for_one(self) -> bool:
        """Whether nobody waits but for one job; unlike `listeners` it counts nobody."""
        return len(self._ears) == 1

    @property
    def listeners(self) -> int:
        """How many wait now."""
        return sum(map(len, self._ears.values()))

    def start(self) -> None:
        """Starts watching; called on the event loop that will wait."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def hush(self) -> None:
        """Ends every wait, for good; called on the event loop when the service begins to stop."""
        self._stop.set()
        self._wake_all()

    def join(self) -> None:
        """Waits until the thread has ended; call `hush` before."""
        self._thread.join(timeout=6)  # the bus may take that long to time out

    @contextmanager
    def listen(self, job_id: str, *, end_only: bool = False, picture: bool = False) -> Iterator[Ear]:
        """An ear for one job while the block lasts; open it before looking at the row.

        Args:
            job_id: the job's.
            end_only: whether to hear only that it has ended.
            picture: whether to be shown its one picture then, if it can be.
        """
        ear = Ear(self, end_only, picture)
        if self.closing:
            ear.wake()
        self._ears[job_id].add(ear)
        try:
            yield ear
        finally:
            self._ears[job_id].discard(ear)
            if not self._ears[job_id]:
                del self._ears[job_id]

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                with self._bus.watch() as watch:
                    self._on_loop(None)  # something may have happened while nobody watched
                    while not self._stop.is_set():
                        heard = watch.next(WATCH_S)
                        if heard:
                            self._on_loop(heard)
            except RedisUnavailable as error:
                if not self._stop.is_set():
                    log.warning("no news of jobs, their rows are read instead: %s", error)
                self._stop.wait(RECONNECT_S)
            except Exception:
                log.exception("watching the bus failed; it starts again")
                self._stop.wait(RECONNECT_S)

    def _on_loop(self, heard: Mapping[str, Heard] | None) -> None:
        if self._stop.is_set() or self._loop is None:
            return
        if heard is None:
            self._loop.call_soon_threadsafe(self._wake_all)
        else:
            # Read here, not by who is woken: to have another thread do it takes longer than to read it.
            self._loop.call_soon_threadsafe(
                self._wake, heard, {job_id: self._shown(job_id, heard[job_id]) for job_id in heard}
            )

    def _shown(self, job_id: str, told: Heard) -> Shown | None:
        ears = tuple(self._ears.get(job_id, ()))  # a copy takes one step: the loop may add and drop some meanwhile
        if told.picture is None or not any(ear.picture for ear in ears):
            return None
        try:
            return Shown(told.picture, self._read(told.picture.blob))
        except StoreError:  # who waits will look at the rows, and be told why
            return None

    def _wake(self, heard: Mapping[str, Heard], shown: Mapping[str, Shown | None]) -> None:
        for job_id, told in heard.items():
            for ear in self._ears.get(job_id, ()):
                ear.shown = shown[job_id] or ear.shown
                if told.ended or not ear.end_only:
                    ear.wake()

    def _wake_all(self) -> None:
        for ears in self._ears.values():
            for ear in ears:
                ear.wake()
