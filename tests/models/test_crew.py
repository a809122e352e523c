"""A crew hands back results in order, looks ahead only so far, and can be sent home at any time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from models.crew import Crew


def no_poll() -> None:
    """Lets the work go on."""


def test_results_come_in_the_order_of_the_items_whoever_is_first() -> None:
    second_done = threading.Event()

    def task(item: int) -> int:
        if item == 0:
            assert second_done.wait(10)
        if item == 1:
            second_done.set()
        return item * 10

    with Crew(2) as crew:
        assert list(crew.work(task, [[0], [1], [2, 3]], no_poll)) == [0, 10, 20, 30]


def test_only_a_few_portions_are_taken_before_they_are_needed() -> None:
    taken = []

    def portions() -> Iterator[list[int]]:
        for index in range(100):
            taken.append(index)
            yield [index]

    with Crew(2) as crew:
        results = crew.work(lambda item: item, portions(), no_poll)
        assert next(results) == 0
        assert len(taken) <= 5


def test_an_exception_takes_the_place_of_its_result() -> None:
    with Crew(1) as crew:
        results = crew.work(lambda item: 6 // item, [[1], [0], [2]], no_poll)
        assert next(results) == 6
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_the_caller_is_asked_while_a_slow_item_is_worked_on() -> None:
    asked = threading.Event()
    with Crew(1) as crew:
        polls = iter([None, asked.set])

        def poll() -> None:
            if (act := next(polls, None)) is not None:
                act()

        assert list(crew.work(lambda _item: asked.wait(10), [[0]], poll)) == [True]


def test_leaving_ends_a_portion_in_its_midst() -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[int] = []

    def task(item: int) -> None:
        begun.set()
        assert go_on.wait(10)
        done.append(item)

    def stop_when_begun() -> None:
        if begun.is_set():
            # Only now is the thread let go, on its way to find out that it has been abandoned.
            threading.Timer(0.05, go_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Crew(1) as crew:
        list(crew.work(task, [list(range(1000))], stop_when_begun))
    assert done == [0]
