"""Databases that go away and come back: what is refused meanwhile, and that nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from store.database import Database
from store.errors import DatabaseUnavailable, StorageFull
from store.records import Dataset
from tests.services import NotInstalled, Server, absent, postgres_of_ones_own


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL that the tests may stop."""
    try:
        with postgres_of_ones_own() as server:
            yield server
    except NotInstalled as error:
        absent(str(error))


@pytest.fixture
def own_postgres(server: Server) -> Iterator[tuple[Server, Database]]:
    """That server, and a migrated database on it without data sets."""
    database = Database(server.url)
    database.migrate()
    with database.transaction() as session:
        session.execute(delete(Dataset))
    yield server, database
    database.close()


def add(session: Session, dataset_id: str) -> None:
    session.add(Dataset(id=dataset_id, name="pictures"))


def count(database: Database) -> int:
    with database.snapshot() as session:
        return session.scalar(select(func.count()).select_from(Dataset)) or 0


def told(server: Server, *statements: str) -> None:
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def add_one(database: Database, dataset_id: str) -> None:
    with database.transaction() as session:
        add(session, dataset_id)


def test_a_postgres_that_restarts_is_unavailable_meanwhile_and_then_goes_on(
    own_postgres: tuple[Server, Database],
) -> None:
    server, database = own_postgres
    add_one(database, "ds_1")
    server.stop()

    for ask in (database.ping, lambda: count(database), lambda: add_one(database, "ds_2")):
        with pytest.raises(DatabaseUnavailable):
            ask()

    server.start()
    assert count(database) == 1  # what was acknowledged, and nothing else
    add_one(database, "ds_2")
    database.ping()


def test_a_postgres_that_became_a_standby_is_unavailable_for_writes_and_its_old_connections_are_not_kept(
    own_postgres: tuple[Server, Database],
) -> None:
    """Given a role that may only read, as after a failover, I expect 503 rather than 500, and writes once it may again."""
    server, database = own_postgres
    told(server, "ALTER ROLE darkroom SET default_transaction_read_only = on")
    database.close()  # the setting is for new sessions

    with pytest.raises(DatabaseUnavailable, match=r"can't be written to.*who is the primary now"):
        add_one(database, "ds_1")
    assert count(database) == 0

    told(
        server, "SET default_transaction_read_only = off", "ALTER ROLE darkroom SET default_transaction_read_only = off"
    )
    with contextlib.suppress(DatabaseUnavailable):  # a session from before
        add_one(database, "ds_1")
    add_one(database, "ds_2")


def test_a_postgres_with_too_many_connections_is_unavailable_until_some_are_closed(
    own_postgres: tuple[Server, Database],
) -> None:
    server, _ = own_postgres
    told(server, "DROP ROLE IF EXISTS plain", "CREATE ROLE plain LOGIN CONNECTION LIMIT 1")
    database = Database(server.url.replace("darkroom@", "plain@"))

    def ask() -> None:
        with database.snapshot() as session:
            session.execute(text("SELECT 1"))

    with (
        psycopg.connect(server.url.replace("+psycopg", "").replace("darkroom@", "plain@")),
        pytest.raises(DatabaseUnavailable, match="too many connections"),
    ):
        ask()
    end = time.monotonic() + 10
    while True:
        try:
            ask()
            break
        except DatabaseUnavailable:  # the server closes the other one when it gets round to it
            assert time.monotonic() < end
    database.close()


def test_a_sqlite_file_that_another_writer_holds_for_a_while_is_written_to_afterwards(sqlite_url: str) -> None:
    database, other = Database(sqlite_url), Database(sqlite_url)
    held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with other.transaction() as session:
            add(session, "ds_1")
            session.flush()
            held.set()
            may_end.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(5)
    writer = threading.Timer(0.3, may_end.set)
    writer.start()
    add_one(database, "ds_2")
    holder.join()
    writer.join()

    assert count(database) == 2
    database.close()
    other.close()


def test_a_sqlite_file_on_a_full_disk_is_storage_full_loses_nothing_and_heals(small_disk: Path) -> None:
    database = Database(f"sqlite:///{small_disk}/darkroom.db")
    database.migrate()
    acknowledged: list[str] = []

    def add_until_it_is_full() -> None:
        while True:
            name = f"ds_{len(acknowledged)}"
            with database.transaction() as session:
                session.add(Dataset(id=name, name="x", classes=[{"name": "y" * 50_000, "count": 1}]))
            acknowledged.append(name)

    with pytest.raises(StorageFull, match="nothing acknowledged was lost"):
        add_until_it_is_full()
    assert count(database) == len(acknowledged) > 1
    with pytest.raises(StorageFull, match="the disk of the database is full"):
        database.ping()

    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    add_one(database, "ds_after")
    database.ping()
    assert count(database) == len(acknowledged) + 1
    database.close()
