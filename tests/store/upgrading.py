"""Databases as earlier releases left them: tables at any revision, filled with rows in the shape of then."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from alembic.script import ScriptDirectory
from sqlalchemy import Column, Enum, MetaData, Row, Table, insert, select, update
from sqlalchemy.types import JSON, Boolean, DateTime, Float, Integer, LargeBinary, Numeric, String

from store.database import Database, alembic_config
from store.records import Record

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def revisions() -> list[str]:
    """Every revision, oldest first."""
    return [
        script.revision for script in reversed(list(ScriptDirectory.from_config(alembic_config()).walk_revisions()))
    ]


def reflected(database: Database) -> MetaData:
    """The tables as the database has them now, without Alembic's own."""
    found = MetaData()
    with database.snapshot() as session:
        found.reflect(session.connection(), only=lambda name, _: name != "alembic_version")
    return found


def fill(database: Database, tables: MetaData, *numbers: int) -> None:
    """Adds a row to every table for each number, with a value in every column, as a process of that time would."""
    with database.transaction() as session:
        for table in tables.sorted_tables:
            for number in numbers:
                session.execute(insert(table), {column.name: value(table, column, number) for column in table.columns})


def change(database: Database, tables: MetaData, number: int, like: int) -> None:
    """Writes to every column of a row, but those that identify it, what another number's row would hold."""
    with database.transaction() as session:
        for table in tables.sorted_tables:
            fixed = {
                column.name for column in table.columns if column.primary_key or column.foreign_keys or _unique(column)
            }
            values = {c.name: value(table, c, like) for c in table.columns if c.name not in fixed}
            keys = [column == value(table, column, number) for column in table.primary_key.columns]
            if values:
                assert session.execute(update(table).where(*keys).values(values)).rowcount == 1  # type: ignore[attr-defined]


def rows(database: Database, tables: MetaData) -> dict[str, list[Mapping[str, Any]]]:
    """Every row of every table, by the columns that were given."""
    with database.snapshot() as session:
        return {
            table.name: [_plain(row) for row in session.execute(select(table).order_by(*table.primary_key.columns))]
            for table in tables.sorted_tables
        }


def value(table: Table, column: Column[Any], number: int) -> Any:
    """What the row of a number holds in a column: of its type, and a word that is known where words are kept."""
    for reference in column.foreign_keys:
        return value(reference.column.table, reference.column, number)
    words = _words(table.name, column)
    if words:
        return words[number % len(words)]
    match column.type:
        case JSON():
            return {"number": number}
        case Boolean():
            return bool(number % 2)
        case Integer():
            return number
        case Float() | Numeric():
            return number + 0.5
        case DateTime():
            return BEGIN + timedelta(days=number)
        case LargeBinary():
            return bytes([number])
        case String(length=length):
            return f"{column.name}-{number}"[:length]
    raise AssertionError(f"{table.name}.{column.name} is of a type that has no example: {column.type}")


def _words(table: str, column: Column[Any]) -> list[str]:
    today = Record.metadata.tables.get(table)
    known = today.columns.get(column.name) if today is not None else None
    if known is None or not isinstance(known.type, Enum) or not isinstance(column.type, String):
        return []
    return list(known.type.enums)


def _unique(column: Column[Any]) -> bool:
    table = column.table
    assert isinstance(table, Table)
    return any(column.name in index.columns for index in table.indexes if index.unique) or any(
        column.name in getattr(constraint, "columns", ()) for constraint in table.constraints if _is_unique(constraint)
    )


def _is_unique(constraint: object) -> bool:
    return type(constraint).__name__ == "UniqueConstraint"


def _plain(row: Row[Any]) -> Mapping[str, Any]:
    return {
        name: found.replace(tzinfo=found.tzinfo or UTC) if isinstance(found, datetime) else found
        for name, found in row._mapping.items()
    }
