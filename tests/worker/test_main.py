"""A worker process starts on the database of its own release alone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from store.database import Database
from store.resources import Resources
from worker.main import await_schema


def test_a_worker_waits_for_a_database_that_is_being_migrated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = Database(f"sqlite:///{tmp_path}/darkroom.db")
    started = threading.Event()

    def start() -> None:
        await_schema(database, look_s=0.01)
        started.set()

    worker = threading.Thread(target=start)
    worker.start()
    while "run `darkroom migrate`" not in caplog.text:
        assert not started.wait(0.01)
    database.migrate()

    assert started.wait(10)
    worker.join()
    database.close()


def test_a_worker_does_not_start_on_a_database_of_a_later_release(resources: Resources) -> None:
    with resources.database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(SystemExit, match=r"does not start: the database is at 9999, of a later release"):
        await_schema(resources.database)
