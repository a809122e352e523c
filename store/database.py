"""The database: SQLite in WAL mode on a laptop, PostgreSQL on a host, one interface.

Only this module commits. `transaction()` writes, `snapshot()` reads; doorbells ring after a transaction has ended.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, select, text
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from store.errors import DatabaseUnavailable, NewerSchema, StorageFull
from store.flushing import sync
from store.room import check_room

MIGRATIONS = Path(__file__).parent / "migrations"
Durable = Literal["at once", "flushed", "eventually"]
LOCK_S = 15  # how long a writer waits for another's transaction before it gives up
POOL_SIZE = 16  # connections kept open
POSTGRES_OVERFLOW = 16  # and opened on top when busy: PostgreSQL allows 100 in all, to all processes
POSTGRES_IDLE_S = 20  # what is paused in mid-transaction keeps its locks this long, which is less than a lease
POSTGRES_POOL_S = 10  # how long to wait for one of these
POSTGRES_SILENT_S = 15  # how long the network may swallow what we send to it
# Of PostgreSQL's error codes
UNKNOWN_NAMES = {"42P01", "42703"}  # no such table, no such column
READ_ONLY = {"25006"}  # a standby, or a primary that was made one
DISK_FULL = "53100"
IDLE_TOO_LONG = "25P03"
NOT_OUR_FAULT = {
    "08",
    "25",
    "53",
    "55",
    "57",
    "58",
    "F0",
    "XX",
}  # classes: the connection, the state, the server, its files
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
        self._engine = _sqlite_engine(self.url) if self.is_sqlite else _postgres_engine(self.url)

    @contextmanager
    def transaction(self, *, durable: Durable = "at once") -> Iterator[Session]:
        """One writing transaction: committed when the block ends, rolled back when it raises.

        On SQLite it takes the write lock at once (`BEGIN IMMEDIATE`), so that what it reads stays true until it commits.

        Args:
            durable: when a power cut can no longer undo it. Everybody sees it as soon as it is committed, whichever it is.
                "at once": the commit waits for the disk. "flushed": once `flush` has returned, which must be before anybody
                is told; so others may work on it meanwhile. "eventually": with any later commit that is durable.

        Raises:
            DatabaseUnavailable: the database does not answer, or its lock could not be had in time.
            StorageFull: the disk of the database is full.
        """
        with self._session(writes=True, waits=durable == "at once") as session:
            if durable == "eventually" and not self.is_sqlite:
                session.execute(text("SET LOCAL synchronous_commit = off"))
            yield session
            session.flush()
            core(session).commit()

    @contextmanager
    def snapshot(self, *, lasting: bool = False) -> Iterator[Session]:
        """One reading transaction: all it reads is from one moment, and whatever it changed is dropped.

        Args:
            lasting: whether other work is done in it, for longer than a transaction may lie idle.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        with self._session(writes=False) as session:
            if lasting and not self.is_sqlite:
                session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            yield session

    @contextmanager
    def _session(self, *, writes: bool, waits: bool = True) -> Iterator[Session]:
        """A session in a transaction of its connection's, which ends with the block: rolled back, unless it was committed."""
        with _converted(), self._engine.connect() as connection:
            if not (writes or self.is_sqlite):
                connection.execution_options(isolation_level="REPEATABLE READ")  # as SQLite does it anyway
            connection.info.update(writes=writes, waits=waits)
            connection.begin()
            with Session(connection, expire_on_commit=False) as session:
                yield session

    def flush(self) -> None:
        """Returns once everything that was committed before is on the disk.

        Raises:
            DatabaseUnavailable: that can't be told.
        """
        if not self.is_sqlite or not self.url.database:
            return  # commits have waited, except for those that may be durable eventually
        # A commit is in the write-ahead log; where that is gone, it has been moved into the database and flushed there.
        try:
            sync(f"{self.url.database}-wal")
        except OSError as error:
            raise DatabaseUnavailable(
                f"the database's disk does not answer: {error.strerror}; look after it"
            ) from error

    def now(self, session: Session) -> datetime:
        """The time by the database's clock, which all hosts share; on SQLite there is one host."""
        if self.is_sqlite:
            return datetime.now(UTC)
        moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)

    def serialise(self, session: Session, lock: int) -> None:
        """Waits for every other transaction that has serialised by this number, and lets others wait until this one ends.

        On SQLite each writing transaction is alone anyway.
        """
        if not self.is_sqlite:
            session.execute(select(func.pg_advisory_xact_lock(lock)))

    def ping(self) -> None:
        """Returns when the database answers and is migrated; by this release or, while one is upgraded, by the next.

        Raises:
            DatabaseUnavailable: it does not answer, or was not migrated to this release.
            StorageFull: it is a file, and its disk is full.
        """
        with suppress(NewerSchema):  # what runs already goes on (docs/decisions/0025-two-releases-side-by-side.md)
            self.check_schema()
        if self.is_sqlite and self.url.database:
            check_room(Path(self.url.database), "the database")

    def check_schema(self) -> None:
        """Returns when the database is just as this release needs it; for processes that are about to start.

        Raises:
            NewerSchema: a later release has migrated it.
            DatabaseUnavailable: it does not answer, or was not migrated to this release.
        """
        with self.snapshot() as session:
            session.execute(text("SELECT 1"))
            current = MigrationContext.configure(session.connection()).get_current_revision()
        _refuse_newer(current)
        if current != head():
            raise DatabaseUnavailable(
                f"the database's schema is at {current or 'nothing'}, this release needs {head()}; run `darkroom migrate`"
            )

    def migrate(self, revision: str = "head") -> None:
        """Brings the schema to this release, or to that of an earlier one; several processes may call it at once.

        Args:
            revision: what to bring it to, from where it is or from nothing.

        Raises:
            NewerSchema: a later release has migrated it; nothing was changed.
            DatabaseUnavailable: the database does not answer.
        """
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        with _converted(), self._engine.connect() as connection:
            connection.info.update(writes=True, waits=True)
            if self.is_sqlite:
                with _foreign_keys_off(connection):
                    _upgrade(connection, revision)
                    connection.commit()
            else:
                connection.execute(text("SET LOCAL lock_timeout = 0"))  # another's migration may take its time
                connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                _upgrade(connection, revision)
                connection.commit()

    def peers(self) -> int:
        """Return how many other connections Darkroom has to a PostgreSQL; SQLite can't tell, so 0."""
        if self.is_sqlite:
            return 0
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'darkroom' AND pid <> pg_backend_pid()"
        )
        with self.snapshot() as session:
            return int(session.execute(text(others)).scalar_one())

    def close(self) -> None:
        """Closes every pooled connection."""
        self._engine.dispose()


def core(session: Session) -> Connection:
    """The connection of a transaction's session: for statements of tables and columns, to which the ORM has nothing to add."""
    connection = session.bind
    assert isinstance(connection, Connection)
    return connection


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, held in code: where the migrations are, and the connection to use."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@cache
def _scripts(_place: Path) -> ScriptDirectory:
    # They do not change while we run, and are looked at for each readiness check; to read them takes milliseconds.
    return ScriptDirectory.from_config(alembic_config())


def head() -> str:
    """Return the schema's revision in this release."""
    revision = _scripts(MIGRATIONS).get_current_head()
    assert revision is not None
    return revision


def is_known(revision: str) -> bool:
    """Return whether a revision of the schema is this release's or an earlier one's."""
    return revision in {script.revision for script in _scripts(MIGRATIONS).walk_revisions()}


def _upgrade(connection: Connection, revision: str) -> None:
    _refuse_newer(MigrationContext.configure(connection).get_current_revision())
    command.upgrade(alembic_config(connection), revision)


def _refuse_newer(current: str | None) -> None:
    if current is not None and not is_known(current):
        raise NewerSchema(
            f"the database is at {current}, of a later release than this one, which knows it up to {head()}; "
            "start the later release, or restore a backup from before it"
        )


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=-1,  # a connection is an open file: every thread may have its own
        connect_args={"timeout": LOCK_S, "check_same_thread": False},
    )
    # Many rows by one call of SQLite. For each call the driver lets go of the interpreter, and beside a busy thread that takes
    # milliseconds to come back: 32 rows took 200, with SQLite's lock held all the while.
    engine.dialect.use_insertmanyvalues_wo_returning = True

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # BEGIN is ours, below: the driver's own comes too late
        _switch_to_wal(connection)
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        info, driver = connection.info, _driver_of(connection)
        writes, waits = info.get("writes", True), info.get("waits", True)
        try:  # past SQLAlchemy, which takes longer for these than SQLite does
            if writes and info.get("waited") is not waits:  # it can't be changed within a transaction
                driver.execute(f"PRAGMA synchronous={'FULL' if waits else 'NORMAL'}")
                info["waited"] = waits
            driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        except sqlite3.Error as error:
            raise DBAPIError.instance("BEGIN", None, error, sqlite3.Error) from error

    return engine


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # Two processes that open a new file at once: SQLite refuses one of them here without waiting for the other.
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _driver_of(connection: Connection) -> Any:
    driver = connection.connection.driver_connection
    assert driver is not None
    return driver


@contextmanager
def _foreign_keys_off(connection: Connection) -> Iterator[None]:
    """Lets a migration replace a table that others refer to, which is how SQLite alters one."""
    driver = _driver_of(connection)
    driver.execute("PRAGMA foreign_keys=OFF")  # it has no effect once a transaction has begun
    try:
        yield
    finally:
        connection.rollback()
        driver.execute("PRAGMA foreign_keys=ON")


def _postgres_engine(url: URL) -> Engine:
    given = url.query.get("options", "")
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=POOL_SIZE,
        max_overflow=POSTGRES_OVERFLOW,
        pool_timeout=POSTGRES_POOL_S,
        connect_args={
            "connect_timeout": 5,
            "application_name": "darkroom",
            "client_encoding": "utf8",  # a server set up without an encoding would hand out bytes
            # Moments come back in the session's zone, and in one east of Greenwich the last hours of the year 9999 have none.
            "options": f"{given} -c lock_timeout={LOCK_S}s -c timezone=UTC "
            f"-c idle_in_transaction_session_timeout={POSTGRES_IDLE_S}s".lstrip(),
            # A host that vanished says nothing; the kernel would wait for a quarter of an hour, or for two.
            "tcp_user_timeout": POSTGRES_SILENT_S * 1000,
            "keepalives_idle": POSTGRES_SILENT_S,
            "keepalives_interval": 5,
            "keepalives_count": 2,
        },
    )

    @event.listens_for(engine, "handle_error")
    def part_from_a_standby(context: ExceptionContext) -> None:
        # After a failover the old connections would stay read-only for ever: new ones find the primary.
        if getattr(context.original_exception, "sqlstate", None) in READ_ONLY:
            context.is_disconnect = True

    return engine


@contextmanager
def _converted() -> Iterator[None]:
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailable(
            f"no connection to the database came free in {POSTGRES_POOL_S} s; it is slow, or too much is asked of it"
        ) from error
    except DBAPIError as error:
        translated = _translated(error)
        if translated is None:
            raise
        raise translated from error


def _translated(error: DBAPIError) -> DatabaseUnavailable | StorageFull | None:
    """What a failure of the database means; None where it says that our statement was wrong."""
    cause, state = str(error.orig), getattr(error.orig, "sqlstate", None) or ""
    if "no such table" in cause or "no such column" in cause or state in UNKNOWN_NAMES:
        return DatabaseUnavailable(f"the database's schema is not this release's ({cause}); run `darkroom migrate`")
    if state == IDLE_TOO_LONG:
        return DatabaseUnavailable(
            f"a transaction did nothing for {POSTGRES_IDLE_S} s, so the database ended it: {cause}"
        )
    if state in READ_ONLY or "readonly database" in cause:
        return DatabaseUnavailable(
            f"the database can't be written to: {cause}; check its owner and its disk's mount, or who is the primary now"
        )
    if not (
        isinstance(error, (OperationalError, InterfaceError))
        or type(error) is DatabaseError
        or state[:2] in NOT_OUR_FAULT
    ):
        return None
    if "disk is full" in cause or "No space left" in cause or state == DISK_FULL:
        return StorageFull(f"the database's disk is full: {cause}; free some space, nothing acknowledged was lost")
    if "database is locked" in cause or "lock timeout" in cause:
        return DatabaseUnavailable(f"the database was busy for {LOCK_S} s: {cause}; try again")
    return DatabaseUnavailable(f"the database does not answer: {cause}")
