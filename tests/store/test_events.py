"""Events: one contract for Redis Streams and the twin, and what only a Redis can do wrong."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from store import events
from store.errors import RedisUnavailable
from store.events import EventBus, Heard, Notice, Picture, RedisBus
from store.local_redis import HOST, free_port
from tests.services import NotInstalled, absent, running_redis


def tell(bus: EventBus, job_id: str, *numbers: int) -> None:
    bus.publish(*(Notice(job_id, "progress", {"done": number}) for number in numbers))


def numbers(bus: EventBus, job_id: str, after: str | None = None) -> list[int]:
    return [event.data["done"] for event in bus.history(job_id, after)]


# The contract


def test_a_job_s_events_are_kept_in_order_and_apart_from_others(bus: EventBus) -> None:
    tell(bus, "job_1", 1, 2)
    tell(bus, "job_2", 7)
    tell(bus, "job_1", 3)

    assert numbers(bus, "job_1") == [1, 2, 3]
    assert numbers(bus, "job_2") == [7]
    assert bus.history("job_of_nobody") == []


def test_an_event_comes_back_as_it_was_told(bus: EventBus) -> None:
    data = {"text": "Ä 🎞 \n", "none": None, "list": [1, {"a": 0.5}], "flag": True}

    bus.publish(Notice("job_1", "metrics", data))

    [event] = bus.history("job_1")
    assert (event.type, event.data) == ("metrics", data)


def test_what_is_told_later_is_not_changed_by_the_teller(bus: EventBus) -> None:
    data = {"done": 1}
    bus.publish(Notice("job_1", "progress", data))
    data["done"] = 2

    assert numbers(bus, "job_1") == [1]


def test_a_watcher_resumes_after_the_event_it_saw_last(bus: EventBus) -> None:
    tell(bus, "job_1", 1, 2, 3)
    seen = bus.history("job_1")

    assert numbers(bus, "job_1", after=seen[0].id) == [2, 3]
    assert numbers(bus, "job_1", after=seen[2].id) == []
    tell(bus, "job_1", 4)
    assert numbers(bus, "job_1", after=seen[2].id) == [4]


def test_an_id_from_before_everything_or_after_everything_is_no_error(bus: EventBus) -> None:
    tell(bus, "job_1", 1)

    assert numbers(bus, "job_1", after="0-0") == [1]
    assert numbers(bus, "job_1", after="9999999999999999999-9999999999999999999") == []


@pytest.mark.parametrize(
    "after", ["", "-", "+", "$", "1", "1-", "-1", "1-1\n", "(1-1", "x-y", "\u0661-\u0661", "9" * 20 + "-0"]
)
def test_what_is_no_event_s_id_is_refused(bus: EventBus, after: str) -> None:
    with pytest.raises(ValueError, match="is no event's id"):
        bus.history("job_1", after)


def test_history_is_bounded(bus: EventBus) -> None:
    many = events.HISTORY_LENGTH * 2
    tell(bus, "job_1", *range(many))

    kept = numbers(bus, "job_1")

    assert events.HISTORY_LENGTH <= len(kept) <= events.HISTORY_LENGTH * 1.2
    assert kept == list(range(many))[-len(kept) :]


def test_nothing_to_tell_is_told_without_a_word(bus: EventBus) -> None:
    with bus.watch() as watch:
        bus.publish()

        assert watch.next(0.01) == {}


def test_a_watch_hears_of_all_jobs_from_its_opening_on_once_each(bus: EventBus) -> None:
    tell(bus, "job_0", 1)
    with bus.watch() as watch:
        tell(bus, "job_1", 1, 2)
        tell(bus, "job_2", 1)

        heard = watch.next(5)
        while heard.keys() < {"job_1", "job_2"}:
            heard |= watch.next(5)
        assert heard == {"job_1": Heard(False), "job_2": Heard(False)}
        assert watch.next(0.01) == {}
        tell(bus, "job_1", 3)
        assert watch.next(5) == {"job_1": Heard(False)}


def test_a_watch_says_which_jobs_have_ended(bus: EventBus) -> None:
    with bus.watch() as watch:
        bus.publish(Notice("job_1", "done", {}), Notice("job_2", "status", {}), Notice("job_1", "image", {}))

        assert watch.next(5) == {"job_1": Heard(True), "job_2": Heard(False)}


def test_a_watch_hears_of_a_job_s_one_picture_whatever_else_is_told_with_it(bus: EventBus) -> None:
    picture = Picture("img_1", "5ea1", "images/1.png")
    with bus.watch() as watch:
        bus.publish(
            Notice("job_1", "status", {}), Notice("job_1", "done", {}, picture), Notice("job_1", "note", {}),
            Notice("job_2", "done", {}),
        )  # fmt: skip
        assert watch.next(5) == {"job_1": Heard(True, picture), "job_2": Heard(True)}
        bus.publish(Notice("job_1", "done", {}, picture))
        bus.publish(Notice("job_1", "status", {}))
        assert watch.next(5) == {"job_1": Heard(True, picture)}  # two pieces of news, read at once


def test_watches_do_not_take_news_from_each_other(bus: EventBus) -> None:
    with bus.watch() as one, bus.watch() as other:
        tell(bus, "job_1", 1)

        assert one.next(5) == other.next(5) == {"job_1": Heard(False)}


def test_a_watch_that_waits_wakes_up_at_once(bus: EventBus) -> None:
    with bus.watch() as watch:
        teller = threading.Timer(0.05, lambda: tell(bus, "job_1", 1))
        teller.start()
        started = time.monotonic()

        assert watch.next(10) == {"job_1": Heard(False)}

        assert time.monotonic() - started < 5
        teller.join()


def test_a_watch_waits_as_long_as_it_was_told_to(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "WATCH_S", 0.1)  # one look is shorter than the wait
    with bus.watch() as watch:
        started = time.monotonic()

        assert watch.next(0.35) == {}

        assert 0.34 < time.monotonic() - started < 2


def test_a_bus_that_is_there_answers(bus: EventBus) -> None:
    bus.ping()


# Redis alone


@pytest.fixture
def own_redis() -> Iterator[tuple[RedisBus, subprocess.Popen[bytes]]]:
    """A bus on a server that the test may stop."""
    try:
        with running_redis() as (url, process):
            bus = RedisBus(url)
            yield bus, process
            bus.close()
    except NotInstalled as error:
        absent(str(error))


def test_news_is_bounded_and_old_events_go_away_by_themselves(redis_url: str) -> None:
    bus = RedisBus(redis_url)
    tell(bus, "job_1", 1)

    with events.connect(redis_url) as client:
        assert 0 < int(str(client.ttl("darkroom:events:job_1"))) <= events.HISTORY_S
        info = client.xinfo_stream(events.NEWS)
    bus.close()

    assert dict(info)["length"] == 1


@pytest.mark.parametrize(
    ("lasted_s", "kept_s"), [(0, events.ENDED_LEAST_S), (600, 6000), (48 * 3600, events.HISTORY_S)]
)
def test_the_events_of_a_job_that_has_ended_are_kept_by_how_long_it_took(
    redis_url: str, lasted_s: int, kept_s: int
) -> None:
    bus, stream = RedisBus(redis_url), "darkroom:events:job_1"
    with events.connect(redis_url) as client:
        seconds, _ = client.time()
        client.xadd(stream, {"type": "status", "data": "{}"}, id=f"{1000 * (int(seconds) - lasted_s)}-0")
        tell(bus, "job_1", 1)
        going_on_s = int(str(client.ttl(stream)))
        bus.publish(Notice("job_1", "image", {}), Notice("job_1", "done", {}))
        left_s = int(str(client.ttl(stream)))
    bus.close()

    assert events.HISTORY_S - 60 < going_on_s <= events.HISTORY_S
    assert kept_s - 10 < left_s <= kept_s + 10 * events.ENDED_TIMES
    assert left_s <= events.HISTORY_S


def test_events_outlive_the_process_that_told_them(redis_url: str) -> None:
    teller, reader = RedisBus(redis_url), RedisBus(redis_url)
    tell(teller, "job_1", 1)
    teller.close()

    assert numbers(reader, "job_1") == [1]
    reader.close()


CALLS: dict[str, Callable[[EventBus], object]] = {
    "publish": lambda bus: tell(bus, "job_1", 1),
    "history": lambda bus: bus.history("job_1"),
    "watch": lambda bus: bus.watch().__enter__(),
    "ping": lambda bus: bus.ping(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_redis_that_is_away_is_unavailable_at_once(name: str) -> None:
    bus = RedisBus(f"redis://{HOST}:{free_port(HOST)}/0")
    started = time.monotonic()

    with pytest.raises(RedisUnavailable, match="does not answer"):
        CALLS[name](bus)

    assert time.monotonic() - started < 2
    bus.close()


def test_a_redis_that_is_silent_is_unavailable_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and never answers, as a paused one does; retries must not multiply the wait."""
    monkeypatch.setattr(events, "ANSWER_S", 1)
    with socket.create_server((HOST, 0)) as mute:
        bus = RedisBus(f"redis://{HOST}:{mute.getsockname()[1]}/0")
        started = time.monotonic()

        with pytest.raises(RedisUnavailable):
            bus.ping()

        assert time.monotonic() - started < 3
        bus.close()


def test_a_wrong_password_is_unavailable_and_says_why(redis_url: str) -> None:
    _, _, address = redis_url.partition("@")
    bus = RedisBus(f"redis://:wrong@{address}")

    with pytest.raises(RedisUnavailable, match="password"):
        bus.ping()

    bus.close()


def test_a_redis_without_memory_is_unavailable_and_says_why(redis_url: str) -> None:
    bus = RedisBus(redis_url)
    with events.connect(redis_url) as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(RedisUnavailable, match=r"refused a command.*memory"):
                tell(bus, "job_1", 1)
        finally:
            client.config_set("maxmemory", 0)
    bus.close()


def test_a_watch_survives_neither_the_end_of_its_redis_nor_hangs(
    own_redis: tuple[RedisBus, subprocess.Popen[bytes]],
) -> None:
    bus, process = own_redis
    with bus.watch() as watch:
        killer = threading.Timer(0.1, lambda: process.send_signal(signal.SIGKILL))
        killer.start()
        started = time.monotonic()

        with pytest.raises(RedisUnavailable):
            watch.next(30)

        assert time.monotonic() - started < 5
        killer.join()
