from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from app.sharing import Shared


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


@on_a_loop
async def test_calls_that_come_while_one_is_under_way_share_the_next() -> None:
    """Given a call that takes its time, I expect those behind it to be answered by one other call."""
    seen: list[list[int]] = []
    go_on = threading.Event()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def double(numbers: Sequence[int]) -> list[int | Exception]:
        seen.append(list(numbers))
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        return [2 * number for number in numbers]

    shared: Shared[int, int] = Shared(double)
    first = asyncio.create_task(shared(1))
    await begun.wait()
    others = [asyncio.create_task(shared(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    go_on.set()

    assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert seen == [[1], [2, 3, 4]]
    assert await shared(5) == 10  # and it goes on afterwards


@on_a_loop
async def test_an_exception_among_the_answers_is_its_caller_s_alone_and_one_that_is_raised_everybody_s() -> None:
    def picky(numbers: Sequence[int]) -> list[int | Exception]:
        if 13 in numbers:
            raise KeyError("thirteen")
        return [ValueError(str(number)) if number < 0 else number for number in numbers]

    shared: Shared[int, int] = Shared(picky)
    found = await asyncio.gather(shared(0), shared(1), shared(-2), return_exceptions=True)
    assert (found[0], found[1]) == (0, 1)
    assert isinstance(found[2], ValueError)
    with pytest.raises(KeyError, match="thirteen"):
        await shared(13)
    assert await shared(7) == 7


@on_a_loop
async def test_a_caller_that_goes_away_leaves_the_others_their_answers() -> None:
    go_on = threading.Event()

    def slow(numbers: Sequence[int]) -> list[int | Exception]:
        go_on.wait(10)
        return list(numbers)

    shared: Shared[int, int] = Shared(slow)
    calls = [asyncio.create_task(shared(number)) for number in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    go_on.set()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert (found[0], found[2]) == (0, 2)
    assert isinstance(found[1], asyncio.CancelledError)
