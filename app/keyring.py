"""The keys that this process has seen lately, so that a request costs a hash and not a query.

A key is looked up again when it was last looked up FRESH_S ago: that long, at most, one that another process has revoked is
still good here. Whoever revokes one in this process forgets it at once. Unknown keys are not remembered; all that come while a
query is under way share the next one, so guessing costs the database one connection.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio.to_thread

from app.auth import Caller
from app.errors import InvalidKey, MissingKey
from app.sharing import Shared
from store import keys
from store.database import Database
from store.errors import StoreError, Unavailable
from store.records import ApiKey

log = logging.getLogger(__name__)

FRESH_S = 5.0
# While the database is away nobody can revoke a key either: a known one stays good, so that metrics and caches go on.
STALE_S = 600.0
MOST_KEYS = 4096  # remembered; beyond that the oldest are looked up again

CHALLENGE = 'Bearer realm="darkroom"'
INVALID = {"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'}
HOW = "send it as `Authorization: Bearer dk_…`; `darkroom keys create` makes one"


@dataclass(slots=True)
class _Known:
    """A key as it was when it was last looked up."""

    caller: Caller
    hash: str
    expires_at: float  # Unix time
    is_revoked: bool
    used_at: float  # Unix time at which its last use was written down
    fresh_until: float  # monotonic
    stale_until: float

    @classmethod
    def of(cls, row: ApiKey) -> _Known:
        now = time.monotonic()
        return cls(
            caller=Caller(row.id, row.account, keys.all_of(row.scopes), row.limits or {}),
            hash=row.hash,
            expires_at=row.expires_at.timestamp() if row.expires_at is not None else float("inf"),
            is_revoked=row.revoked_at is not None,
            used_at=row.last_used_at.timestamp() if row.last_used_at is not None else 0.0,
            fresh_until=now + FRESH_S,
            stale_until=now + STALE_S,
        )


class Keyring:
    """Tells who asks. Used on one event loop.

    Args:
        database: where the keys are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, _Known] = {}
        self._forgotten = 0  # grows with each revocation here
        self._look_up = Shared(self._read)
        self._used: set[str] = set()
        self._touching: asyncio.Task[None] | None = None

    async def identify(self, headers: Iterable[tuple[bytes, bytes]], guard: Callable[[], None] | None = None) -> Caller:
        """Return who asks, by the request's headers.

        Args:
            headers: of the request.
            guard: called before a key is looked up that is not known here; raises to refuse.

        Raises:
            MissingKey: no key came along.
            InvalidKey: it is unknown, has expired or was revoked.
            DatabaseUnavailable: a key that is not known here can't be looked up.
        """
        given = [value for name, value in headers if name == b"authorization"]
        if not given:
            raise MissingKey(
                "this needs an API key, and none came along", remedy=HOW, headers={"WWW-Authenticate": CHALLENGE}
            )
        scheme, _, token = given[0].decode("latin-1").partition(" ")
        token = token.strip()
        key_id = keys.id_of(token) if scheme.lower() == "bearer" and len(given) == 1 else None
        if key_id is None:
            raise InvalidKey("what came as Authorization is no API key of this service", remedy=HOW, headers=INVALID)
        known = self._known.get(key_id)
        if known is None and guard is not None:
            guard()
        if known is None or known.fresh_until < time.monotonic():
            known = await self._found(key_id, known)
        if known is None or not hmac.compare_digest(known.hash, keys.digest(token)):
            raise InvalidKey("there is no such API key", remedy=HOW, headers=INVALID)
        now = time.time()
        if known.is_revoked or known.expires_at <= now:
            raise InvalidKey(
                f"the API key {key_id} {'was revoked' if known.is_revoked else 'has expired'}",
                remedy=HOW,
                headers=INVALID,
            )
        if now - known.used_at > keys.TOUCH_S:
            known.used_at = now
            self._touch(key_id)
        return known.caller

    def forget(self, key_id: str) -> None:
        """Looks the key up anew when it comes next; call it when its revocation is committed."""
        self._known.pop(key_id, None)
        self._forgotten += 1

    async def close(self) -> None:
        """Waits until what was used has been written down."""
        if self._touching is not None:
            await self._touching

    async def _found(self, key_id: str, before: _Known | None) -> _Known | None:
        forgotten = self._forgotten
        try:
            row = await self._look_up(key_id)
        except Unavailable:
            if before is None or before.stale_until < time.monotonic():
                raise
            before.fresh_until = time.monotonic() + FRESH_S  # and not one try for each request
            return before
        known = _Known.of(row) if row is not None else None
        self._known.pop(key_id, None)
        if known is not None and not known.is_revoked and forgotten == self._forgotten:
            while len(self._known) >= MOST_KEYS:
                del self._known[next(iter(self._known))]
            if before is not None:
                known.used_at = max(known.used_at, before.used_at)
            self._known[key_id] = known
        return known

    def _read(self, asked: Sequence[str]) -> Sequence[ApiKey | None]:
        with self._database.snapshot() as session:
            found = keys.read(session, set(asked))
        return [found.get(key_id) for key_id in asked]

    def _touch(self, key_id: str) -> None:
        self._used.add(key_id)
        if self._touching is None or self._touching.done():
            self._touching = asyncio.create_task(self._write_down())

    async def _write_down(self) -> None:
        while self._used:
            used, self._used = self._used, set()
            try:
                await anyio.to_thread.run_sync(self._write, used)
            except StoreError as error:  # no reason to refuse anybody
                log.warning("when keys were last used was not written down: %s", error)

    def _write(self, used: set[str]) -> None:
        with self._database.transaction() as session:
            keys.touch(session, used, now=datetime.now(UTC))
