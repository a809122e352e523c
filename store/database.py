"""The database: SQLite in WAL mode on a laptop, PostgreSQL on a host, one interface.

Only this module commits. `transaction()` writes, `snapshot()` reads; doorbells ring after a transaction has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from store.errors import DatabaseUnavailable, StorageFull

MIGRATIONS = Path(__file__).parent / "migrations"
SQLITE_BUSY_S = 15  # how long a writer waits for another's transaction before it gives up
POSTGRES_POOL = 16
MIGRATION_LOCK = 0x6461726B  # any number, the same for everyone who migrates


class Database:
    """A pool of connections, and the only place that begins and commits transactions."""

    def __init__(self, url: str) -> None:
        """Connects lazily.

        Args:
            url: SQLAlchemy URL, `sqlite:///path` or `postgresql+psycopg://user:password@host/name`.
        """
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._engine = _sqlite_engine(url) if self.is_sqlite else _postgres_engine(url)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One writing transaction: committed when the block ends, rolled back when it raises.

        On SQLite it takes the write lock at once (`BEGIN IMMEDIATE`), so that what it reads stays true until it commits.

        Raises:
            DatabaseUnavailable: the database does not answer, or its lock could not be had in time.
            StorageFull: the disk of the database is full.
        """
        with self._session(writes=True) as session:
            yield session
            session.commit()

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """One reading transaction; whatever it changed is dropped.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        with self._session(writes=False) as session:
            yield session

    @contextmanager
    def _session(self, *, writes: bool) -> Iterator[Session]:
        try:
            with (
                self._engine.connect().execution_options(darkroom_writes=writes) as connection,
                Session(connection, expire_on_commit=False) as session,
            ):
                yield session
        except (OperationalError, InterfaceError) as error:
            raise _translated(error) from error

    def now(self, session: Session) -> datetime:
        """The time by the database's clock, which all hosts share; on SQLite there is one host."""
        if self.is_sqlite:
            return datetime.now(UTC)
        moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)

    def ping(self) -> None:
        """Returns when the database answers and is migrated.

        Raises:
            DatabaseUnavailable: it does not answer, or its schema is not this release's.
        """
        with self.snapshot() as session:
            session.execute(text("SELECT 1"))
            current = MigrationContext.configure(session.connection()).get_current_revision()
        if current != _head():
            raise DatabaseUnavailable(
                f"the database's schema is at {current or 'nothing'}, this release needs {_head()}; run `darkroom migrate`"
            )

    def migrate(self) -> None:
        """Brings the schema to this release; several processes may call it at once.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._engine.connect().execution_options(darkroom_writes=True) as connection:
                if not self.is_sqlite:
                    connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                command.upgrade(alembic_config(connection), "head")
                connection.commit()
        except (OperationalError, InterfaceError) as error:
            raise _translated(error) from error

    def close(self) -> None:
        """Closes every pooled connection."""
        self._engine.dispose()


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, held in code: where the migrations are, and the connection to use."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _head() -> str | None:
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_S, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # BEGIN is ours, below: the driver's own comes too late
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("darkroom_writes", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgres_engine(url: str) -> Engine:
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=POSTGRES_POOL,
        max_overflow=POSTGRES_POOL,
        pool_timeout=10,
        connect_args={"connect_timeout": 5, "application_name": "darkroom"},
    )


def _translated(error: DBAPIError) -> DatabaseUnavailable | StorageFull:
    cause = str(error.orig)
    if "disk is full" in cause or "No space left" in cause:
        return StorageFull(f"the database's disk is full: {cause}; free some space, nothing acknowledged was lost")
    return DatabaseUnavailable(f"the database does not answer: {cause}")
