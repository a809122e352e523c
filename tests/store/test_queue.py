"""The queue: bells that coalesce, messages that a Celery worker takes, and a Redis that may be away."""

from __future__ import annotations

import contextlib
import importlib
import json
import pickle
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from celery import Celery

from store.errors import RedisUnavailable
from store.events import connect
from store.local_redis import HOST, free_port
from store.queue import LONGEST_TAKE_S, CeleryQueue, Lane, Queue, bell, celery_app

# Both packages say that they are typed and then export nothing that a strict checker accepts.
kombu: Any = importlib.import_module("kombu")


def take_all(redis_url: str, lane: Lane) -> list[Any]:
    """Takes every bell off the lane as Celery does it, through kombu, which also acknowledges them."""
    taken: list[Any] = []
    with (
        kombu.Connection(redis_url) as connection,
        connection.SimpleQueue(lane.queue_name) as messages,
        contextlib.suppress(messages.Empty),
    ):
        while True:
            message = messages.get_nowait()
            message.ack()
            taken.append(message)
    return taken


HEARS = """
import sys
from store.events import connect
from store.queue import Lane, celery_app

app, client = celery_app(sys.argv[1]), connect(sys.argv[1])

def hear():
    client.rpush("heard", "ding")

app.task(hear, name=Lane.IO.queue_name, ignore_result=True, shared=False)
app.Worker(queues=[Lane.IO.queue_name], pool="solo", loglevel="ERROR", quiet=True, without_gossip=True, without_mingle=True,
           without_heartbeat=True).start()
"""

# The contract


def test_a_lane_is_silent_until_somebody_rings(queue: Queue) -> None:
    assert [queue.waiting(lane) for lane in Lane] == [0, 0, 0]


def test_bells_of_one_lane_coalesce_and_lanes_are_apart(queue: Queue) -> None:
    for _ in range(3):
        queue.ring(Lane.SAMPLE)
    queue.ring(Lane.IO)

    assert {lane: queue.waiting(lane) for lane in Lane} == {Lane.SAMPLE: 1, Lane.TRAIN: 0, Lane.IO: 1}


def test_once_taken_a_bell_can_be_rung_again(queue: Queue) -> None:
    for _ in range(2):
        queue.ring(Lane.TRAIN)
        assert not queue.take(Lane.IO, 0)
        assert queue.take(Lane.TRAIN, 0)
        assert queue.waiting(Lane.TRAIN) == 0
        assert not queue.take(Lane.TRAIN, 0)


def test_who_waits_for_a_bell_is_woken_by_it(queue: Queue) -> None:
    waits, heard = threading.Event(), threading.Event()

    def wait() -> None:
        waits.set()
        while not queue.take(Lane.SAMPLE, LONGEST_TAKE_S):
            pass
        heard.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(5)
    queue.ring(Lane.SAMPLE)

    assert heard.wait(5)
    thread.join()
    assert queue.waiting(Lane.SAMPLE) == 0


def test_many_threads_may_ring_at_once(queue: Queue) -> None:
    failures: list[BaseException] = []

    def ring() -> None:
        try:
            for lane in Lane:
                queue.ring(lane)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ring) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert [queue.waiting(lane) for lane in Lane] == [1, 1, 1]


def test_who_waits_for_a_bell_is_told_what_it_will_be_rung_for(queue: Queue) -> None:
    """Given a worker that waits, I expect it to hear of the work first, and of the bell when that is rung."""
    told, rung = threading.Event(), threading.Event()
    heard: list[str] = []

    def hear(what: str) -> None:
        heard.append(what)
        told.set()

    def wait() -> None:
        while not queue.take(Lane.SAMPLE, LONGEST_TAKE_S, hear):
            pass
        rung.set()

    thread = threading.Thread(target=wait)
    thread.start()
    queue.announce(Lane.SAMPLE, "a picture")
    assert told.wait(5)
    assert not rung.is_set()
    queue.ring(Lane.SAMPLE)
    assert rung.wait(5)
    thread.join()

    assert heard == ["a picture"]


def test_what_is_announced_ends_with_its_bell(queue: Queue) -> None:
    heard: list[str] = []
    queue.announce(Lane.SAMPLE, "a picture")
    queue.ring(Lane.SAMPLE)

    assert queue.take(Lane.SAMPLE, 0, heard.append)
    assert not queue.take(Lane.SAMPLE, 0, heard.append)
    assert heard == []


def test_of_what_is_announced_the_last_is_heard_and_by_one_alone(queue: Queue) -> None:
    heard: list[str] = []
    queue.announce(Lane.IO, "another lane's")
    for what in ("first", "second"):
        queue.announce(Lane.SAMPLE, what)

    assert not queue.take(Lane.SAMPLE, 0)  # it does not listen to such things
    for _ in range(2):
        assert not queue.take(Lane.SAMPLE, 0, heard.append)
    assert heard == ["second"]


def test_what_is_announced_is_soon_forgotten(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an API process that dies before it rings, I expect nobody to begin with its work later."""
    monkeypatch.setattr("store.queue.ANNOUNCED_S", 0.001)
    heard: list[str] = []
    queue.announce(Lane.SAMPLE, "a picture")
    threading.Event().wait(0.01)

    assert not queue.take(Lane.SAMPLE, 0, heard.append)
    assert heard == []


# Celery alone


@pytest.mark.parametrize("lane", Lane)
def test_a_bell_on_the_wire_is_a_task_of_the_lane_s_name_without_arguments(redis_url: str, lane: Lane) -> None:
    queue = CeleryQueue(redis_url)
    queue.ring(lane)
    queue.close()

    [message] = take_all(redis_url, lane)

    assert message.headers["task"] == lane.queue_name
    assert message.content_type == "application/json"
    args, kwargs, _ = json.loads(message.body)
    assert (args, kwargs) == ([], {})
    assert message.headers["ignore_result"] is True
    assert message.headers["expires"] is message.headers["eta"] is None


@pytest.mark.parametrize("lane", Lane)
def test_a_bell_is_what_celery_itself_would_have_sent(redis_url: str, lane: Lane) -> None:
    """Given a task of no arguments that Celery publishes, I expect ours to differ in its names alone."""
    with celery_app(redis_url) as app, connect(redis_url) as client:
        app.send_task(lane.queue_name, queue=lane.queue_name, ignore_result=True)
        theirs: Any = client.rpop(lane.queue_name)
    ours, theirs = json.loads(bell(lane)), json.loads(theirs)

    for message in (ours, theirs):
        assert (
            message["properties"].pop("correlation_id") == message["headers"]["id"] == message["headers"].pop("root_id")
        )
        del message["headers"]["id"], message["headers"]["origin"], message["properties"]["delivery_tag"]
        message["properties"].pop("reply_to")  # nobody waits for a result
    assert ours == theirs


def test_a_celery_worker_hears_every_bell(redis_url: str) -> None:
    """Given a worker, as worker/main.py starts one, I expect its task to be called for each bell, though all are alike."""
    heard = connect(redis_url)
    worker = subprocess.Popen([sys.executable, "-c", HEARS, redis_url])
    queue = CeleryQueue(redis_url)
    try:
        for number in range(3):
            queue.ring(Lane.IO)
            said: Any = heard.blpop(["heard"], 1)
            while said is None:
                assert worker.poll() is None
                said = heard.blpop(["heard"], 1)
            assert queue.waiting(Lane.IO) == 0, number
    finally:
        worker.terminate()
        assert worker.wait(10) == 0
        queue.close()
        heard.close()


def test_a_bell_leaves_nothing_else_in_redis(redis_url: str) -> None:
    queue = CeleryQueue(redis_url)
    queue.ring(Lane.IO)
    queue.close()
    take_all(redis_url, Lane.IO)

    with connect(redis_url) as client:
        left = {str(key) for key in client.scan_iter()}
    assert {key for key in left if not key.startswith("_kombu.binding")} == set()  # no results, nothing unacknowledged


def test_a_bell_that_is_taken_needs_no_acknowledgement(redis_url: str) -> None:
    """Given a worker's consumer that has taken a bell and not acknowledged it, as when Redis dies just then, I expect it
    to take the next all the same."""
    app, lane = celery_app(redis_url), Lane.IO
    taken: list[Any] = []
    with app.connection() as connection:
        consumer = app.amqp.TaskConsumer(connection, queues=[app.amqp.queues[lane.queue_name]])
        consumer.qos(prefetch_count=1)
        consumer.on_message = taken.append
        with consumer:
            for _ in range(2):
                app.send_task(lane.queue_name, queue=lane.queue_name, ignore_result=True)
                connection.drain_events(timeout=5)
            with connect(redis_url) as client:
                assert client.keys("unacked*") == []
    assert len(taken) == 2
    app.close()


def test_a_bell_outlives_the_process_that_rang_it(redis_url: str) -> None:
    ringer = CeleryQueue(redis_url)
    ringer.ring(Lane.IO)
    ringer.close()

    other = CeleryQueue(redis_url)
    assert other.waiting(Lane.IO) == 1
    other.close()


def test_a_redis_that_is_away_is_unavailable_at_once() -> None:
    queue = CeleryQueue(f"redis://{HOST}:{free_port(HOST)}/0")
    started = time.monotonic()

    with pytest.raises(RedisUnavailable):
        queue.ring(Lane.SAMPLE)
    with pytest.raises(RedisUnavailable):
        queue.waiting(Lane.SAMPLE)

    assert time.monotonic() - started < 2
    queue.close()


def test_a_redis_that_is_silent_is_unavailable_within_seconds() -> None:
    with socket.create_server((HOST, 0)) as mute:
        queue = CeleryQueue(f"redis://{HOST}:{mute.getsockname()[1]}/0")
        started = time.monotonic()

        with pytest.raises(RedisUnavailable, match="no worker was woken"):
            queue.ring(Lane.SAMPLE)

        assert time.monotonic() - started < 2
        queue.close()


def test_after_a_restart_of_redis_the_same_queue_rings_again(redis_url: str) -> None:
    queue = CeleryQueue(redis_url)
    queue.ring(Lane.IO)
    with connect(redis_url) as client:
        client.flushall()
        client.execute_command(
            "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"
        )  # as a restart cuts every connection

    queue.ring(Lane.IO)

    assert queue.waiting(Lane.IO) == 1
    queue.close()


def test_the_application_acknowledges_early_and_keeps_no_results() -> None:
    app = celery_app("redis://localhost/0")

    assert isinstance(app, Celery)
    assert app.conf.task_acks_late is False
    assert app.conf.result_backend is None
    assert app.conf.accept_content == ["json"]


def test_a_message_that_is_a_pickle_is_refused_before_it_is_opened() -> None:
    accepted = celery_app("redis://localhost/0").conf.accept_content
    with pytest.raises(kombu.exceptions.ContentDisallowed):
        kombu.serialization.loads(pickle.dumps({}), "application/x-python-serialize", "binary", accept=accepted)
