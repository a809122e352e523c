"""The database: who commits, who waits for whom, and what its failures are called."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from store import database as database_module
from store.database import Database, Durable
from store.errors import DatabaseUnavailable, StorageFull
from store.local_redis import free_port
from store.records import Dataset


def add(session: Session, dataset_id: str = "ds_1") -> None:
    session.add(Dataset(id=dataset_id, name="pictures"))


def count(database: Database) -> int:
    with database.snapshot() as session:
        return session.scalar(select(func.count()).select_from(Dataset)) or 0


def test_a_transaction_is_committed_when_its_block_ends(database: Database) -> None:
    with database.transaction() as session:
        add(session)

    assert count(database) == 1


def test_a_transaction_whose_block_raises_leaves_nothing_and_hides_no_error(database: Database) -> None:
    with pytest.raises(KeyError, match="mine"):
        add_and_raise(database, KeyError("mine"))

    assert count(database) == 0
    with database.transaction() as session:  # and the connection can be used again
        add(session)
    assert count(database) == 1


def add_and_raise(database: Database, error: Exception) -> None:
    with database.transaction() as session:
        add(session)
        session.flush()
        raise error


def test_a_conflict_of_rows_is_no_failure_of_the_database(database: Database) -> None:
    with database.transaction() as session:
        add(session)

    with pytest.raises(IntegrityError), database.transaction() as session:
        add(session)

    assert count(database) == 1


def test_what_a_snapshot_changes_is_dropped(database: Database) -> None:
    with database.snapshot() as session:
        add(session)
        session.flush()

    assert count(database) == 0


def test_all_that_a_snapshot_reads_is_from_one_moment(database: Database) -> None:
    with database.snapshot() as session:
        before = session.scalar(select(func.count()).select_from(Dataset))
        with database.transaction() as other:
            add(other)
        after = session.scalar(select(func.count()).select_from(Dataset))

    assert (before, after) == (0, 0)
    assert count(database) == 1


def test_rows_can_be_read_after_their_transaction_has_ended(database: Database) -> None:
    with database.transaction() as session:
        row = Dataset(id="ds_1", name="pictures")
        session.add(row)

    assert row.name == "pictures"
    assert row.created_at.tzinfo is not None


def test_counting_up_in_many_threads_loses_no_step(database: Database) -> None:
    with database.transaction() as session:
        add(session)

    def count_up() -> None:
        for _ in range(5):
            with database.transaction() as session:
                row = session.get_one(Dataset, "ds_1", with_for_update=True)
                row.image_count += 1

    threads = [threading.Thread(target=count_up) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with database.snapshot() as session:
        assert session.get_one(Dataset, "ds_1").image_count == 30


def test_more_threads_than_kept_connections_are_served(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    everyone = threading.Barrier(database_module.POOL_SIZE + 8, timeout=10)
    met: list[int] = []

    def read() -> None:
        with database.snapshot() as session:
            session.execute(text("SELECT 1"))
            everyone.wait()
            met.append(1)

    threads = [threading.Thread(target=read) for _ in range(everyone.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.close()

    assert len(met) == everyone.parties


def test_the_time_is_utc_and_goes_on_within_a_transaction(database: Database) -> None:
    with database.transaction() as session:
        first = database.now(session)
        time.sleep(0.002)
        second = database.now(session)

    assert first < second
    assert first.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - first) < timedelta(seconds=10)


def test_a_moment_comes_back_as_it_was_whatever_zone_it_was_given_in(database: Database) -> None:
    zone = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC).astimezone()
    with database.transaction() as session:
        session.add(Dataset(id="ds_1", name="x", created_at=zone))
        # The session of this server is in Kathmandu: neither that nor ours may matter.
    with database.snapshot() as session:
        moment = session.get_one(Dataset, "ds_1").created_at
        found = session.scalar(select(Dataset.id).where(Dataset.created_at == zone, Dataset.created_at <= zone))

    assert moment == zone
    assert moment.tzinfo is UTC
    assert found == "ds_1"


def test_the_last_moment_that_there_is_can_be_read_again(database: Database) -> None:
    last = datetime.max.replace(tzinfo=UTC)
    with database.transaction() as session:
        session.add(Dataset(id="ds_1", name="x", created_at=last))
    with database.snapshot() as session:
        assert session.get_one(Dataset, "ds_1").created_at == last


# Failures, and what they are called


def test_a_migrated_database_answers(database: Database) -> None:
    database.ping()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_an_empty_database_says_how_to_migrate_it(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/x.db" if kind == "sqlite" else request.getfixturevalue("empty_postgres_url")
    database = Database(url)

    with pytest.raises(DatabaseUnavailable, match="darkroom migrate"):
        database.ping()
    with pytest.raises(DatabaseUnavailable, match="darkroom migrate"):
        count(database)

    database.close()


def test_a_postgres_that_is_not_there_is_unavailable() -> None:
    database = Database(f"postgresql+psycopg://me@127.0.0.1:{free_port('127.0.0.1')}/x")

    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        database.ping()


def test_a_sqlite_file_in_no_directory_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="unable to open"):
        Database(f"sqlite:///{tmp_path}/nowhere/x.db").ping()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"these are not the bytes of a database" * 100)

    with pytest.raises(DatabaseUnavailable, match="not a database"):
        Database(f"sqlite:///{tmp_path}/x.db").ping()


def test_a_server_that_ends_the_session_is_unavailable_once_and_then_answers_again(postgres_url: str) -> None:
    database = Database(postgres_url)

    def lose_the_session() -> None:
        with database.transaction() as session:
            session.execute(text("SELECT 1"))
            end_other_sessions(postgres_url)
            session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable, match="terminating connection"):
        lose_the_session()
    assert count(database) == 0
    end_other_sessions(postgres_url)
    assert count(database) == 0  # a connection that died in the pool costs nothing

    database.close()


def test_text_is_text_also_where_the_server_was_set_up_without_an_encoding(empty_postgres_url: str) -> None:
    with psycopg.connect(empty_postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS bare")
        connection.execute("CREATE DATABASE bare ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    database = Database(empty_postgres_url.replace("/empty", "/bare"))
    database.migrate()
    with database.transaction() as session:
        session.add(Dataset(id="ds_1", name="Äpfel 🍎"))
    with database.snapshot() as session:
        assert session.get_one(Dataset, "ds_1").name == "Äpfel 🍎"
    database.close()


def end_other_sessions(url: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_lock_that_can_t_be_had_in_time_is_unavailable(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "LOCK_S", 1)
    patient, database = Database(database_url), Database(database_url)
    with patient.transaction() as session:
        add(session)
    with patient.transaction() as session:
        session.execute(update(Dataset).values(name="held"))
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="was busy for 1 s"), database.transaction() as other:
            other.get_one(Dataset, "ds_1", with_for_update=True)
        assert 0.9 < time.monotonic() - started < 5

    patient.close()
    database.close()


def test_an_exhausted_pool_is_unavailable(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("POOL_SIZE", 1), ("POSTGRES_OVERFLOW", 0), ("POSTGRES_POOL_S", 0.05)):
        monkeypatch.setattr(database_module, name, value)
    database = Database(postgres_url)

    with database.snapshot(), pytest.raises(DatabaseUnavailable, match="no connection to the database came free"):
        count(database)

    database.close()


def test_a_full_sqlite_file_is_storage_full_and_keeps_what_was_acknowledged(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.transaction() as session:
        add(session)

    def outgrow() -> None:
        with database.transaction() as session:
            pages = session.execute(text("PRAGMA page_count")).scalar_one()
            session.execute(text(f"PRAGMA max_page_count = {pages}"))  # a stand-in for a disk without room
            session.add(Dataset(id="ds_2", name="x", classes=[{"name": "y" * 50_000, "count": 1}]))

    with pytest.raises(StorageFull, match="nothing acknowledged was lost"):
        outgrow()

    assert count(database) == 1
    database.close()


def test_a_sqlite_file_that_may_not_be_written_says_so(sqlite_url: str) -> None:
    database = Database(sqlite_url)

    def write() -> None:
        with database.transaction() as session:
            # Root may write to any file, so the file's mode would be no test.
            session.execute(text("PRAGMA query_only = ON"))
            add(session)

    with pytest.raises(DatabaseUnavailable, match="can't be written to"):
        write()

    database.close()


@pytest.mark.slow
def test_processes_that_open_a_new_file_at_once_all_get_in(tmp_path: Path) -> None:
    child = (
        "import sys; from sqlalchemy import text; from store.database import Database\n"
        "for line in sys.stdin:\n"
        "    database = Database('sqlite:///' + line.strip())\n"
        "    with database.transaction() as session:\n"
        "        session.execute(text('CREATE TABLE IF NOT EXISTS t (a)'))\n"
        "    database.close()\n"
        "    print('in', flush=True)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        for number in range(40):
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(f"{tmp_path}/{number}.db\n")
                process.stdin.flush()
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "in\n"
    finally:
        for process in processes:
            process.communicate()


def test_sqlite_keeps_a_log_of_writes_flushes_each_commit_and_checks_references(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.snapshot() as session:
        pragmas = [
            session.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    database.close()

    assert pragmas == ["wal", 2, 1]
    assert sqlite3.threadsafety == 3  # connections move between threads


def test_a_commit_waits_for_the_disk_unless_told_otherwise(database: Database) -> None:
    asked = (
        "PRAGMA synchronous" if database.is_sqlite else "SELECT source FROM pg_settings WHERE name='synchronous_commit'"
    )
    seen = []
    ways: list[Durable] = ["at once", "eventually", "at once"]
    for durable in ways:
        with database.transaction(durable=durable) as session:
            seen.append(session.execute(text(asked)).scalar())

    assert seen[0] == seen[2] != seen[1]
    assert seen[1] == (
        1 if database.is_sqlite else "session"
    )  # NORMAL: the log is written, and flushed with a later one


def test_a_flush_makes_durable_what_was_committed_without_waiting(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    database = Database(sqlite_url)
    with database.transaction(durable="flushed") as session:
        session.execute(text("CREATE TABLE kept (id INTEGER)"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.path.realpath(f"/proc/self/fd/{descriptor}")))

    database.flush()

    database.close()
    assert flushed == [f"{database.url.database}-wal"]


def test_a_writer_that_lies_idle_on_postgresql_loses_its_locks_and_is_told_so(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a process that is paused in mid-transaction, as SIGSTOP does it, I expect its rows to be free again soon; and a
    reader who has said that it takes long to be left alone."""
    monkeypatch.setattr(database_module, "POSTGRES_IDLE_S", 1)
    database = Database(postgres_url)
    with database.transaction() as session:
        add(session)

    def pause_in_mid_transaction() -> None:
        with database.transaction() as session:
            session.get(Dataset, "ds_1", with_for_update=True)
            with database.transaction() as other:  # waits for the row
                other.execute(update(Dataset).values(name="taken over"))
            session.execute(update(Dataset).values(name="late"))

    with database.snapshot(lasting=True) as patient:
        before = patient.scalar(select(Dataset.name))
        with pytest.raises(DatabaseUnavailable):
            pause_in_mid_transaction()
        assert patient.scalar(select(Dataset.name)) == before == "pictures"
    with database.snapshot() as session:
        assert session.scalar(select(Dataset.name)) == "taken over"
    database.close()
