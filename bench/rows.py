"""The rows as chaos sees them: read by plain SQL, several times a second, by nothing that the service uses itself."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

LOOK_S = 0.15
ENDED = frozenset({"succeeded", "failed", "canceled"})
COLUMNS = "id, kind, status, owner, fence, attempts, cursor, done, error_code, error_message, finished_at"


@dataclass(frozen=True)
class Row:
    """What a job's row says."""

    id: str
    kind: str
    status: str
    owner: str | None
    fence: int
    attempts: int
    cursor: int
    done: float
    error_code: str | None
    error_message: str | None
    finished_at: object  # as the database gives it

    @property
    def ended(self) -> bool:
        """Whether nothing may change any more."""
        return self.status in ENDED


@dataclass
class Recovery:
    """How soon work goes on that was hit."""

    of: str  # what was hit
    job_id: str
    kind: str
    fence: int  # that its job had
    began: float  # seconds of the monotonic clock
    took_s: float | None = None  # None: it does not go on yet
    base: tuple[int, float] | None = field(default=None, repr=False)  # cursor and done when another worker had it

    def look(self, row: Row, now: float) -> None:
        """Note that the job makes progress again, where it does; of an export, which tells none, that it is begun again."""
        if self.took_s is not None or (row.fence == self.fence and not row.ended):
            return
        self.base = self.base or (row.cursor, row.done)
        if row.ended or row.kind == "export" or (row.cursor, row.done) != self.base:
            self.took_s = now - self.began


class Observer:
    """Looks at all jobs from a thread of its own, until the block ends."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url, pool_pre_ping=True)
        self.rows: Mapping[str, Row] = {}
        self.recoveries: list[Recovery] = []
        self.changed_at = time.monotonic()  # when any row did
        self.changed: list[str] = []  # what rows said after their end, and must not have
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="observer", daemon=True)

    def __enter__(self) -> Observer:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.engine.dispose()

    def select(self, statement: str, **values: Any) -> Sequence[Any]:
        """Rows of a statement of plain SQL."""
        with self.engine.connect() as connection:
            return connection.execute(text(statement), values).all()

    def running(self, kind: str | None = None) -> list[Row]:
        """Jobs that a worker has at this moment."""
        return [row for row in self._read().values() if row.status == "running" and kind in {None, row.kind}]

    def fence_of(self, job_id: str) -> int:
        """The fence of a job as it was seen last; 0 where it is too new to have been seen."""
        return self.rows[job_id].fence if job_id in self.rows else 0

    def unfinished(self) -> list[Row]:
        """Jobs that have not ended."""
        return [row for row in self.rows.values() if not row.ended]

    def track(self, recovery: Recovery) -> Recovery:
        """Times how soon a job goes on."""
        self.recoveries.append(recovery)
        return recovery

    def _read(self) -> dict[str, Row]:
        return {row.id: Row(**row._mapping) for row in self.select(f"SELECT {COLUMNS} FROM jobs")}  # noqa: S608  # ours

    def _go_on(self) -> None:
        while not self._ended.wait(LOOK_S):
            with contextlib.suppress(SQLAlchemyError):  # the database is busy
                self._look()

    def _look(self) -> None:
        before, now = self.rows, time.monotonic()
        self.rows = self._read()
        if self.rows != before:
            self.changed_at = now
        for job_id, old in before.items():
            if old.ended and self.rows.get(job_id) != old:
                self.changed.append(f"{old} became {self.rows.get(job_id)}")
        for recovery in list(self.recoveries):
            if recovery.job_id in self.rows:
                recovery.look(self.rows[recovery.job_id], now)
