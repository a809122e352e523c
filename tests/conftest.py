"""Shared by all tests: real services, started when the first test asks for them, once for each test process.

A service that is not installed skips its tests on a laptop and fails them where `CI` is set.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import make_url

from store.blobs import Blobs, LocalBlobs
from store.database import Database
from store.events import EventBus, MemoryBus, RedisBus
from store.failing_blobs import FailingBlobs
from store.memory_blobs import MemoryBlobs
from store.queue import CeleryQueue, MemoryQueue, Queue
from store.records import Record
from tests.services import NotInstalled, absent, running_postgres, running_redis


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the slow tests in tests/openapi."""
    group = parser.getgroup("examination", "examinations by schemathesis")
    group.addoption("--examination-seed", default="1", help="seed of every random choice (default: 1)")
    group.addoption("--examination-examples", default="30", help="most random cases for each operation (default: 30)")


def pytest_collection_finish() -> None:
    """What was imported stays: collections of garbage need not walk through all of it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of this test process's Redis; most tests want `redis_url`."""
    try:
        with running_redis() as (url, _process):
            yield url
    except NotInstalled as error:
        absent(str(error))


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of a real Redis, empty."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of this test process's PostgreSQL, its database `postgres`; most tests want `postgres_url`."""
    try:
        with running_postgres() as url:
            yield url
    except NotInstalled as error:
        absent(str(error))


@pytest.fixture(scope="session")
def _migrated_postgres(postgres_server: str) -> str:
    return _new_database(postgres_server, "migrated", migrate=True)


@pytest.fixture
def postgres_url(_migrated_postgres: str) -> str:
    """The URL of a migrated PostgreSQL database without rows."""
    tables = ", ".join(table.name for table in Record.metadata.sorted_tables)
    with psycopg.connect(_plain(_migrated_postgres), autocommit=True) as connection:
        # What an earlier test left open would hold its locks against us.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'migrated' AND pid <> pg_backend_pid()"
        )
        connection.execute(f"TRUNCATE {tables}".encode())
    return _migrated_postgres


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> str:
    """The URL of a PostgreSQL database without tables."""
    return _new_database(postgres_server, "empty", migrate=False)


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "darkroom.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()  # folds the write-ahead log into the file, which can then be copied
    return path


@pytest.fixture
def sqlite_url(_migrated_sqlite: Path, tmp_path: Path) -> str:
    """The URL of a migrated SQLite file without rows."""
    return f"sqlite:///{shutil.copy(_migrated_sqlite, tmp_path / 'darkroom.db')}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated database without rows, of each sort that we support."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database without rows, of each sort that we support."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    place = tmp_path / "small disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "darkroom-test", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", place], check=False, capture_output=True)  # a test may have done it


@pytest.fixture(params=["memory", "local", "failing"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """An empty blob storage, of each sort."""
    if request.param == "memory":
        return MemoryBlobs()
    local = LocalBlobs(tmp_path / "blobs")
    return local if request.param == "local" else FailingBlobs(local)


@pytest.fixture(params=["memory", "redis"])
def bus(request: pytest.FixtureRequest) -> Iterator[EventBus]:
    """A bus without events: the twin and the real one."""
    bus: EventBus = MemoryBus() if request.param == "memory" else RedisBus(request.getfixturevalue("redis_url"))
    yield bus
    bus.close()


@pytest.fixture(params=["memory", "celery"])
def queue(request: pytest.FixtureRequest) -> Iterator[Queue]:
    """A queue without bells: the twin and the real one."""
    queue: Queue = MemoryQueue() if request.param == "memory" else CeleryQueue(request.getfixturevalue("redis_url"))
    yield queue
    queue.close()


def _new_database(server: str, name: str, *, migrate: bool) -> str:
    with psycopg.connect(_plain(server), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    if migrate:
        database = Database(url)
        database.migrate()
        database.close()
    return url


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
