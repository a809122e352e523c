"""Threads that work through a list and hand back results in its order, a bounded number of them waiting."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL_S = 0.1


class _Abandoned(Exception):
    """Raised inside a thread whose result nobody waits for."""


class Crew:
    """A pool of threads. Leaving its `with` statement abandons what is not done yet and waits for the threads to end.

    Args:
        threads: how many work at once.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
        self._abandon = threading.Event()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._abandon.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def work(
        self, task: Callable[[Item], Result], loads: Iterable[list[Item]], poll: Callable[[], None]
    ) -> Iterator[Result]:
        """Does the task on every item.

        Args:
            task: what to do; runs in several threads.
            loads: items in portions, each done by one thread; two portions per thread are under way at once.
            poll: called in the caller's thread between results and while waiting; may raise to end the work.

        Yields:
            the results in the order of the items. An exception of the task is raised in the place of its result.
        """
        under_way: deque[Future[list[Result]]] = deque()
        loads = iter(loads)
        while True:
            while len(under_way) < 2 * self._threads and (load := next(loads, None)) is not None:
                under_way.append(self._pool.submit(self._do, task, load))
            if not under_way:
                return
            poll()
            while not wait([under_way[0]], timeout=_POLL_S).done:
                poll()
            yield from under_way.popleft().result()

    def _do(self, task: Callable[[Item], Result], load: list[Item]) -> list[Result]:
        results = []
        for item in load:
            if self._abandon.is_set():
                raise _Abandoned
            results.append(task(item))
        return results
