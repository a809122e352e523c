"""One watch for everyone who waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from app import news
from app.news import News, Shown
from store.errors import RedisUnavailable
from store.events import MemoryBus, Notice, Picture, Watch
from store.memory_blobs import MemoryBlobs

NOTHING = MemoryBlobs()


def heard(
    bus: MemoryBus, listen: Callable[[News], Awaitable[None]], read: Callable[[str], bytes] = NOTHING.get
) -> None:
    async def main() -> None:
        listener = News(bus, read)
        listener.start()
        try:
            await listen(listener)
        finally:
            listener.hush()
            await asyncio.to_thread(listener.join)

    asyncio.run(main())


def test_only_those_who_listen_to_the_job_are_woken() -> None:
    bus = MemoryBus()

    async def listen(listener: News) -> None:
        with listener.listen("job_1") as ear, listener.listen("job_1") as twin, listener.listen("job_2") as other:
            await asyncio.gather(*(one.wait(5) for one in (ear, twin, other)))  # the watch began: everybody looks once
            bus.publish(Notice("job_1", "status", {}))
            assert await ear.wait(5)
            assert await twin.wait(5)
            assert not await other.wait(0.01)
            assert not await ear.wait(0.01)
        assert listener.listeners == 0

    heard(bus, listen)


def test_who_listens_for_a_picture_is_shown_it_and_nobody_else_has_it_read() -> None:
    bus, blobs, read = MemoryBus(), MemoryBlobs(), list[str]()
    pictures = {name: Picture(f"img_{name}", "5e", f"images/{name}.png") for name in ("a", "b", "gone")}
    for name in ("a", "b"):
        blobs.put(f"images/{name}.png", name.encode())

    def reading(key: str) -> bytes:
        read.append(key)
        return blobs.get(key)

    async def listen(listener: News) -> None:
        with (
            listener.listen("job_a", end_only=True, picture=True) as a,
            listener.listen("job_b", end_only=True) as b,
            listener.listen("job_gone", end_only=True, picture=True) as gone,
        ):
            await asyncio.gather(*(one.wait(5) for one in (a, b, gone)))  # the watch began: everybody looks once
            bus.publish(*(Notice(f"job_{name}", "done", {}, picture) for name, picture in pictures.items()))
            assert await asyncio.gather(*(one.wait(5) for one in (a, b, gone))) == [True] * 3
        assert a.shown == Shown(pictures["a"], b"a")
        assert b.shown is None
        assert gone.shown is None  # deleted meanwhile: its row will say so
        assert read == ["images/a.png", "images/gone.png"]

    heard(bus, listen, reading)


def test_everyone_is_woken_when_the_bus_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "RECONNECT_S", 0.01)
    back = threading.Event()

    class Away(MemoryBus):
        @contextmanager
        def watch(self) -> Iterator[Watch]:
            if not back.is_set():
                raise RedisUnavailable("Redis does not answer")
            with super().watch() as watch:
                yield watch

    bus = Away()

    async def listen(listener: News) -> None:
        with listener.listen("job_1") as ear:
            assert not await ear.wait(0.05)
            back.set()
            assert await ear.wait(5)
            bus.publish(Notice("job_1", "status", {}))
            assert await ear.wait(5)

    heard(bus, listen)


def test_closing_ends_every_wait_for_good() -> None:
    async def listen(listener: News) -> None:
        with listener.listen("job_1") as ear:
            await ear.wait(5)
            waiting = asyncio.create_task(ear.wait(60))
            await asyncio.sleep(0)
            listener.hush()
            assert await waiting
            assert ear.closing
            assert await ear.wait(60)
        with listener.listen("job_1") as late:
            assert await late.wait(60)

    heard(MemoryBus(), listen)
