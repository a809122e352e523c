"""Sharing: calls that come while one is under way wait for it, and then make the next one together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

import anyio.to_thread

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

MOST = 256  # calls in one


class Shared(Generic[Asked, Answer]):
    """One blocking function for many callers of an event loop; it runs on a thread, once at a time.

    Nobody waits for company: the first call goes at once, and those that come meanwhile share the next.

    Args:
        serve: answers many calls, in their order; an exception among the answers is raised to its caller alone, one that is
            raised to all of them.
    """

    def __init__(self, serve: Callable[[Sequence[Asked]], Sequence[Answer | Exception]]) -> None:
        self._serve = serve
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, asked: Asked) -> Answer:
        """Return the answer; raises what `serve` raised or answered with."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._task is None or self._task.done():
            # In a context of its own: it works for all who ask, not for the request that happens to be first.
            self._task = asyncio.create_task(self._go_on(), context=Context())
        return await answer

    async def _go_on(self) -> None:
        while self._waiting:
            calls, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            found: Sequence[Answer | Exception]
            try:
                found = await anyio.to_thread.run_sync(self._serve, [asked for asked, _ in calls])
            except Exception as error:
                found = [error] * len(calls)
            except BaseException:  # the service stops, and whoever waits with it
                for _, answer in calls:
                    answer.cancel()
                raise
            for (_, answer), outcome in zip(calls, found, strict=True):
                if answer.done():  # its caller went away
                    continue
                if isinstance(outcome, Exception):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)
