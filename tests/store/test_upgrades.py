"""Upgrades: data of every earlier release is kept, and processes of the release before go on working (ADR 25)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from store import database as database_module
from store.database import Database
from store.errors import DatabaseUnavailable, NewerSchema, StoreError
from store.records import Record
from tests.store.upgrading import change, fill, reflected, revisions, rows

# The rule holds from the first release on: what came before it was never run beside its successor.
FIRST_RELEASE = "0006"
REPLACED = {("jobs", "priority")}  # before the first release it was a number that nobody had set

EVERY = revisions()
RULED = list(itertools.pairwise(EVERY))[EVERY.index(FIRST_RELEASE) :]


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables, of each sort."""
    url = (
        f"sqlite:///{tmp_path}/darkroom.db"
        if request.param == "sqlite"
        else request.getfixturevalue("empty_postgres_url")
    )
    database = Database(url)
    yield database
    database.close()


@pytest.mark.slow
@pytest.mark.parametrize("revision", EVERY[:-1])
def test_every_row_of_an_earlier_release_is_kept_and_can_be_read(empty: Database, revision: str) -> None:
    empty.migrate(revision)
    then = reflected(empty)
    fill(empty, then, 1, 2, 3)
    before = rows(empty, then)

    empty.migrate()

    after = rows(empty, reflected(empty))
    for table, kept in before.items():
        now = {tuple(row[name] for name in _key(table)): row for row in after[table]}
        for row in kept:
            found = now[tuple(row[name] for name in _key(table))]
            same = {name: one for name, one in row.items() if (table, name) not in REPLACED}
            assert {name: found[name] for name in same} == same, table
    with empty.snapshot() as session:
        for mapper in Record.registry.mappers:
            assert len(session.scalars(select(mapper.class_)).all()) >= len(before.get(mapper.local_table.name, []))  # type: ignore[attr-defined]
    empty.check_schema()


def _key(table: str) -> list[str]:
    return [column.name for column in Record.metadata.tables[table].primary_key.columns]


@pytest.mark.parametrize(("before", "after"), RULED)
def test_a_process_of_the_release_before_reads_and_writes_the_upgraded_tables(
    empty: Database, before: str, after: str
) -> None:
    empty.migrate(before)
    check_that_it_goes_on(empty, after)


def check_that_it_goes_on(database: Database, after: str) -> None:
    """Does what a process that knows the tables as they are now does, after they were migrated."""
    known = reflected(database)
    fill(database, known, 1, 2)
    before = rows(database, known)

    database.migrate(after)

    assert rows(database, known) == before
    fill(database, known, 3)
    change(database, known, 1, like=2)
    assert {name: len(found) for name, found in rows(database, known).items()} == dict.fromkeys(before, 3)


LATER = """
import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = "{head}"

def upgrade():
    with op.batch_alter_table("models") as models:
        {change}
"""
CHANGES = {
    "a column that may be empty": ('models.add_column(sa.Column("more", sa.String(20), nullable=True))', True),
    "a column with a default of the server": (
        'models.add_column(sa.Column("more", sa.Integer(), nullable=False, server_default="0"))',
        True,
    ),
    "a column that must be given": (
        """models.add_column(sa.Column("more", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("models") as models:
        models.alter_column("more", server_default=None)""",
        False,
    ),
    "a column that is gone": ('models.drop_column("preview")', False),
    "a column with another name": ('models.alter_column("preview", new_column_name="sight")', False),
}


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations, to which a test may add one."""
    copy = tmp_path / "migrations"
    (copy / "versions").mkdir(parents=True)
    for path in (
        "env.py",
        *(f"versions/{name.name}" for name in (database_module.MIGRATIONS / "versions").glob("*.py")),
    ):
        (copy / path).write_text((database_module.MIGRATIONS / path).read_text())
    monkeypatch.setattr(database_module, "MIGRATIONS", copy)
    return copy


@pytest.mark.parametrize("name", CHANGES)
def test_the_check_finds_each_change_that_would_break_the_release_before(
    sqlite_url: str, later: Path, name: str
) -> None:
    change, is_fine = CHANGES[name]
    (later / "versions" / "later.py").write_text(LATER.format(head=EVERY[-1], change=change))
    database = Database(sqlite_url)

    if is_fine:
        check_that_it_goes_on(database, "later")
    else:
        with pytest.raises((StoreError, DBAPIError, AssertionError)):
            check_that_it_goes_on(database, "later")
    database.close()


# Who starts on what


def pretend(database: Database, revision: str) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})


def test_on_a_database_of_a_later_release_nobody_starts_nor_migrates_but_who_runs_goes_on(database: Database) -> None:
    pretend(database, "9999")
    try:
        for refused in (database.check_schema, database.migrate):
            with pytest.raises(NewerSchema, match="is at 9999, of a later release than this one"):
                refused()
        database.ping()
    finally:
        pretend(database, EVERY[-1])
    database.check_schema()


def test_on_a_database_of_an_earlier_release_everybody_waits_for_the_migration(empty: Database) -> None:
    empty.migrate(EVERY[-2])

    for refused in (empty.check_schema, empty.ping):
        with pytest.raises(DatabaseUnavailable, match=f"is at {EVERY[-2]}, this release needs {EVERY[-1]}"):
            refused()
    empty.migrate()
    empty.check_schema()
    empty.ping()
