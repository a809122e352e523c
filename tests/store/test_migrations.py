"""Migrations: they make the tables that the records describe, from nothing, back and again, whoever runs them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Inspector, create_engine, inspect, text
from sqlalchemy.pool import NullPool

from store import database as database_module
from store.database import Database, alembic_config
from store.records import Dataset, Record


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables, of each sort."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/darkroom.db"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    yield database
    database.close()


def tables(url: str) -> dict[str, object]:
    """What the database says about each table of ours, in a form that can be compared."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        seen = inspect(connection)
        return {name: _described(seen, name) for name in seen.get_table_names() if name != "alembic_version"}


def _described(seen: Inspector, table: str) -> object:
    return {
        # In no order: PostgreSQL appends what a migration adds.
        "columns": {c["name"]: (str(c["type"]), c["nullable"], c["default"]) for c in seen.get_columns(table)},
        "key": seen.get_pk_constraint(table)["constrained_columns"],
        "references": [(k["constrained_columns"], k["referred_table"]) for k in seen.get_foreign_keys(table)],
        "unique": sorted(u["column_names"] for u in seen.get_unique_constraints(table)),
        "indexes": sorted((i["name"] or "", i["column_names"]) for i in seen.get_indexes(table)),
    }


def downgrade(database: Database) -> None:
    with database.transaction() as session:
        command.downgrade(alembic_config(session.connection()), "base")


def test_from_nothing_they_make_what_the_records_describe(empty: Database, empty_url: str) -> None:
    empty.migrate()
    migrated = tables(empty_url)
    downgrade(empty)
    with empty.transaction() as session:
        Record.metadata.create_all(session.connection())

    assert migrated == tables(empty_url)
    assert sorted(migrated) == sorted(Record.metadata.tables)


def test_a_new_migration_would_be_empty(database: Database) -> None:
    with database.snapshot() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Record.metadata) == []


def test_down_and_up_again_gives_the_same_tables(empty: Database, empty_url: str) -> None:
    empty.migrate()
    before = tables(empty_url)

    downgrade(empty)
    assert tables(empty_url) == {}
    empty.migrate()

    assert tables(empty_url) == before
    empty.ping()


def test_migrating_twice_changes_nothing_and_keeps_the_rows(database: Database) -> None:
    with database.transaction() as session:
        session.add(Dataset(id="ds_1", name="x"))

    database.migrate()

    with database.snapshot() as session:
        assert session.get_one(Dataset, "ds_1").name == "x"


@pytest.mark.slow
def test_processes_that_migrate_at_once_all_succeed(empty_url: str) -> None:
    child = (
        "import sys; from store.database import Database; database = Database(sys.argv[1])\n"
        "print('ready', flush=True); sys.stdin.readline(); database.migrate(); database.ping(); print('done')"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", child, empty_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    assert [process.communicate(timeout=30)[0] for process in processes] == ["done\n"] * 3


def test_a_migration_that_fails_half_way_leaves_the_tables_as_they_were(
    empty: Database, empty_url: str, tmp_path: Path
) -> None:
    """Given a database whose third table can't be made, when it is migrated, I expect no table rather than two."""
    (tmp_path / "new").mkdir()
    with empty.transaction() as session:
        session.execute(text("CREATE TABLE models (id INTEGER)"))

    with pytest.raises(Exception, match="already exists"):
        empty.migrate()

    assert list(tables(empty_url)) == ["models"]
    with empty.transaction() as session:
        session.execute(text("DROP TABLE models"))
    empty.migrate()
    empty.ping()


NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "HEAD"

def upgrade():
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("unit", existing_type=sa.String(16), type_=sa.String(32), existing_nullable=False)

def downgrade():
    pass
"""


def test_a_later_migration_may_alter_a_table_that_others_refer_to(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite alters a table by replacing it, which must not trip over the images that point at its rows."""
    database = Database(sqlite_url)
    with database.transaction() as session:
        session.execute(
            text(
                "INSERT INTO jobs (id, kind, status, request, created_at, priority, turn_at, fence, attempts, "
                "cancel_requested, cursor, done, unit) "
                "VALUES ('job_1', 'sample', 'queued', '{}', '2026-01-01', 'batch', '2026-01-01', 0, 0, 0, 0, 0, 'images')"
            )
        )
        session.execute(
            text(
                "INSERT INTO images (id, job_id, position, model_id, checkpoint, seed, width, height, blob, size_bytes, "
                "sha256, created_at) VALUES ('img_1', 'job_1', 0, 'mdl_1', 'x', 0, 1, 1, 'x', 1, 'x', '2026-01-01')"
            )
        )
    later = tmp_path / "migrations"
    (later / "versions").mkdir(parents=True)
    for path in ("env.py", "script.py.mako"):
        (later / path).write_text((database_module.MIGRATIONS / path).read_text())
    for version in (database_module.MIGRATIONS / "versions").glob("*.py"):
        (later / "versions" / version.name).write_text(version.read_text())
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    (later / "versions" / "next.py").write_text(NEXT.replace("HEAD", str(head)))
    monkeypatch.setattr(database_module, "MIGRATIONS", later)

    database.migrate()

    with database.snapshot() as session:
        assert session.execute(text("SELECT id, job_id FROM images")).all() == [("img_1", "job_1")]
        assert session.execute(text("SELECT id FROM jobs")).all() == [("job_1",)]
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert session.execute(text("PRAGMA foreign_key_check")).all() == []
    database.close()
