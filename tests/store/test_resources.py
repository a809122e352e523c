"""All resources together: what a request or a worker does after its commit never hangs, whatever becomes of Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store import outage
from store.events import Notice, connect
from store.queue import Lane
from store.resources import Resources
from store.settings import Settings
from tests.services import NotInstalled, Server, absent, redis_of_ones_own

LONGEST_S = 2.0
COMMANDS = 30_000  # that a server has to load, at LOAD_DELAY_US each, and at least what a sleep takes
LOAD_DELAY_US = 10


@pytest.fixture
def server() -> Iterator[Server]:
    """A Redis of this test's own."""
    try:
        with redis_of_ones_own() as server:
            yield server
    except NotInstalled as error:
        absent(str(error))


@pytest.fixture
def resources(server: Server, tmp_path: Path) -> Iterator[Resources]:
    """Every resource, as the service opens them, with that Redis."""
    resources = Resources.open(Settings(_env_file=None, data_dir=tmp_path, redis_url=server.url))
    yield resources
    resources.close()


def publish(resources: Resources) -> float:
    """Does what follows each commit; returns how long it took, in seconds."""
    began = time.monotonic()
    resources.tell(Notice("job_1", "status", {}))
    resources.ring(Lane.SAMPLE)
    return time.monotonic() - began


def stop(server: Server, _directory: Path) -> Callable[[], None]:
    server.stop()
    return server.start


def pause(server: Server, _directory: Path) -> Callable[[], None]:
    server.pause()
    return server.resume


def fill_memory(server: Server, _directory: Path) -> Callable[[], None]:
    with connect(server.url) as client:
        client.config_set("maxmemory", 1)
    return lambda: set_again(server, "maxmemory", "0")


def fail_to_save(server: Server, directory: Path) -> Callable[[], None]:
    """A Redis that could not write its snapshot, and so takes no writes: MISCONF."""
    gone = directory / "gone"
    gone.mkdir()
    server.stop()
    server.start("--dir", str(gone), "--appendonly", "no")  # from 7 on it lets nobody move it later
    gone.rmdir()
    with connect(server.url) as client:
        client.config_set("save", "3600 1")
        client.bgsave()
        while dict(client.info("persistence"))["rdb_last_bgsave_status"] == "ok":
            time.sleep(0.01)
        with pytest.raises(Exception, match="MISCONF"):
            client.set("x", 1)
    return lambda: set_again(server, "save", "")


def load_much(server: Server, _directory: Path) -> Callable[[], None]:
    """A Redis that reads its file, and answers LOADING meanwhile."""
    with connect(server.url) as client, client.pipeline(transaction=False) as pipeline:
        for _ in range(COMMANDS):
            pipeline.incr("x")
        pipeline.execute()
    server.stop()
    server.start("--key-load-delay", str(LOAD_DELAY_US), waits=False)

    def wait_until_loaded() -> None:
        while not server.answers():
            time.sleep(0.05)

    return wait_until_loaded


def set_again(server: Server, name: str, value: str) -> None:
    with connect(server.url) as client:
        client.config_set(name, value)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [stop, pause, fill_memory, fail_to_save, load_much])
def test_publishing_never_hangs_and_goes_on_when_redis_is_well_again(
    spoil: Callable[[Server, Path], Callable[[], None]],
    server: Server,
    resources: Resources,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outage, "REST_S", 0.3)
    publish(resources)
    with connect(server.url) as client:
        client.delete(Lane.SAMPLE.queue_name)
    mend = spoil(server, tmp_path)
    caplog.set_level(logging.WARNING)

    took = [publish(resources) for _ in range(3)]

    assert max(took) < LONGEST_S
    assert "watchers were not told" in caplog.text
    assert "no worker was woken" in caplog.text
    mend()
    time.sleep(0.35)  # nobody asks for a moment after it was silent
    resources.ring()  # nothing new: what is owed
    resources.tell(Notice("job_2", "status", {}))
    assert resources.queue.waiting(Lane.SAMPLE) == 1
    assert [event.type for event in resources.bus.history("job_2")] == ["status"]


def test_a_redis_that_falls_silent_between_the_look_and_the_bell_hangs_nobody(
    server: Server, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = resources.queue.waiting

    def look(lane: Lane) -> int:
        waiting = looked(lane)
        server.pause()
        return waiting

    monkeypatch.setattr(resources.queue, "waiting", look)

    assert publish(resources) < LONGEST_S
