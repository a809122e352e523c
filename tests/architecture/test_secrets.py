"""Passwords stay out of what is logged, shown and raised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import httpx
import pytest

from store.database import Database
from store.errors import RedisUnavailable, SettingsError, Unavailable
from store.events import RedisBus
from store.local_redis import free_port
from store.queue import CeleryQueue, Lane
from store.reports import RedisReports
from store.settings import Settings, load_settings

SECRET = "hunter2-is-secret"  # that is the point
GONE = "127.0.0.1:1"
DATABASE = f"postgresql+psycopg://darkroom:{SECRET}@{GONE}/darkroom"
REDIS = f"redis://:{SECRET}@{GONE}/0"


def shown(error: BaseException) -> str:
    return f"{error!r} {error} {''.join(traceback.format_exception(error))}"


def test_settings_do_not_show_their_secrets() -> None:
    settings = Settings(_env_file=None, database_url=DATABASE, redis_url=REDIS)
    assert SECRET not in f"{settings!r} {settings}"


@pytest.mark.parametrize("field", ["database_url", "redis_url"])
def test_a_wrong_url_is_refused_without_its_password(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DARKROOM_{field.upper()}", f"mongodb://me:{SECRET}@{GONE}")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert field.upper() in str(refused.value)
    assert SECRET not in shown(refused.value)


def test_a_resource_that_is_away_does_not_show_its_password() -> None:
    database, bus, queue, reports = Database(DATABASE), RedisBus(REDIS), CeleryQueue(REDIS), RedisReports(REDIS)
    for ask in (database.ping, bus.ping, lambda: queue.ring(Lane.IO), reports.current):
        with pytest.raises(Unavailable) as away:
            ask()
        assert SECRET not in shown(away.value)
        assert SECRET not in f"{database.url!r} {database.url}"


def test_a_password_that_redis_refuses_is_not_shown(redis_url: str) -> None:
    url = f"redis://:{SECRET}@{redis_url.rpartition('@')[2]}"
    with pytest.raises(RedisUnavailable) as refused:
        RedisBus(url).ping()
    assert SECRET not in shown(refused.value)


@pytest.mark.slow
def test_the_processes_log_no_password_when_their_resources_are_away(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    env = {
        **os.environ,
        "DARKROOM_DATABASE_URL": DATABASE,
        "DARKROOM_REDIS_URL": REDIS,
        "DARKROOM_DATA_DIR": str(tmp_path),
        "DARKROOM_PORT": str(port),
        "DARKROOM_LOG_LEVEL": "debug",
        "DARKROOM_AUTH": "off",  # no key can be looked up
        "DARKROOM_RECONCILE_S": "0.1",
    }
    commands = {
        "api": (["-m", "app.serve"], "Uvicorn running on"),
        "worker": (["-m", "worker.main", "--lane", "io", "--name", "io-0@here"], "waits for the database"),
        "further": (["-m", "worker.main", "--lane", "io", "--name", "io-1@here"], "Cannot connect to redis"),
    }
    here = Database(f"sqlite:///{tmp_path}/darkroom.db")  # a worker looks for Redis once it has a database
    here.migrate()
    here.close()
    others = {"further": {"DARKROOM_DATABASE_URL": f"sqlite:///{tmp_path}/darkroom.db"}}
    processes = {
        name: subprocess.Popen(
            [sys.executable, *command], env=env | others.get(name, {}), stderr=subprocess.PIPE, text=True
        )
        for name, (command, _) in commands.items()
    }
    written: dict[str, list[str]] = {name: [] for name in processes}
    seen = {name: threading.Event() for name in processes}

    def read(name: str) -> None:
        stream = processes[name].stderr
        assert stream is not None
        with stream:
            for line in stream:
                written[name].append(line)
                if commands[name][1] in line:
                    seen[name].set()

    readers = [threading.Thread(target=read, args=(name,)) for name in processes]
    for reader in readers:
        reader.start()
    try:
        assert seen["api"].wait(30)
        for path in ("/readyz", "/v1/jobs", "/v1/system", "/metrics"):
            answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=20, trust_env=False)
            assert SECRET not in answer.text
        assert seen["worker"].wait(30)
        assert seen["further"].wait(30)
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        for reader in readers:
            reader.join(10)
    log = "".join(written["api"] + written["worker"] + written["further"])
    assert "does not answer" in log
    assert SECRET not in log
