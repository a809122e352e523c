"""The keys that a process remembers: no query for each request, and none is good for long after it was revoked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from app import keyring as module
from app.errors import InvalidKey, MissingKey
from app.keyring import Keyring
from store import keys
from store.database import Database
from store.errors import DatabaseUnavailable
from store.records import Scope


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/darkroom.db")
    database.migrate()
    yield database
    database.close()


def make(database: Database, *scopes: Scope, account: str = "default", lifetime: timedelta | None = None) -> str:
    with database.transaction() as session:
        return keys.create(database, session, name="x", scopes=scopes, account=account, lifetime=lifetime)[1]


def headers(token: str, scheme: str = "Bearer") -> list[tuple[bytes, bytes]]:
    return [(b"host", b"localhost"), (b"authorization", f"{scheme} {token}".encode())]


def identify(ring: Keyring, token: str) -> str:
    """Asks as one request does, until what was used is written down; returns the account."""

    async def ask() -> str:
        caller = await ring.identify(headers(token))
        await ring.close()
        return caller.account

    return asyncio.run(ask())


def test_a_known_key_costs_no_query(database: Database) -> None:
    ring, token = Keyring(database), make(database, Scope.READ, account="a")
    assert identify(ring, token) == "a"
    statements: list[str] = []
    event.listen(database._engine, "before_cursor_execute", lambda *said: statements.append(said[2]))

    assert {identify(ring, token) for _ in range(100)} == {"a"}
    assert statements == []


def test_a_key_that_another_process_revoked_is_good_for_five_seconds_at_most(database: Database, clock: Clock) -> None:
    make(database, Scope.ADMIN)
    ring, token = Keyring(database), make(database, Scope.READ)
    identify(ring, token)
    with database.transaction() as session:
        keys.revoke(database, session, keys.id_of(token) or "")

    clock.now += module.FRESH_S - 0.1
    identify(ring, token)
    clock.now += 0.2
    with pytest.raises(InvalidKey, match="was revoked"):
        identify(ring, token)


def test_where_it_was_revoked_it_is_forgotten_at_once(database: Database) -> None:
    make(database, Scope.ADMIN)
    ring, token = Keyring(database), make(database, Scope.READ)
    identify(ring, token)
    key_id = keys.id_of(token) or ""
    with database.transaction() as session:
        keys.revoke(database, session, key_id)
    ring.forget(key_id)
    with pytest.raises(InvalidKey, match="was revoked"):
        identify(ring, token)


def test_an_expiry_holds_to_the_second_though_the_key_is_known(database: Database, clock: Clock) -> None:
    ring, token = Keyring(database), make(database, Scope.READ, lifetime=timedelta(seconds=4))
    identify(ring, token)
    clock.now += 3
    identify(ring, token)
    clock.now += 1.5
    assert clock.now < ring._known[keys.id_of(token) or ""].fresh_until
    with pytest.raises(InvalidKey, match="has expired"):
        identify(ring, token)


def test_a_wrong_secret_is_refused_whether_the_key_is_known_or_not(database: Database) -> None:
    ring, token = Keyring(database), make(database, Scope.READ)
    wrong = token[:-1] + ("x" if token[-1] != "x" else "y")
    for _ in range(2):
        with pytest.raises(InvalidKey, match="no such API key"):
            identify(ring, wrong)
        identify(ring, token)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcg==",
        "Token {token}",
        "{token}",
        "Bearer {token}x",
        "Bearer {token} {token}",
        "Bearer ä",
    ],
)
def test_anything_else_is_no_key_and_is_not_repeated(database: Database, given: str) -> None:
    token = make(database, Scope.READ)
    sent = given.format(token=token)
    with pytest.raises(InvalidKey) as refused:
        asyncio.run(Keyring(database).identify([(b"authorization", sent.encode("latin-1"))]))
    assert refused.value.detail == "what came as Authorization is no API key of this service"
    assert refused.value.headers["WWW-Authenticate"].endswith('error="invalid_token"')


def test_two_headers_are_as_bad_as_none(database: Database) -> None:
    token = make(database, Scope.READ)
    with pytest.raises(InvalidKey):
        asyncio.run(Keyring(database).identify(headers(token) * 2))
    with pytest.raises(MissingKey):
        asyncio.run(Keyring(database).identify([]))


def test_no_more_keys_are_remembered_than_the_bound(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEYS", 3)
    ring, tokens = Keyring(database), [make(database, Scope.READ) for _ in range(5)]
    for token in tokens:
        identify(ring, token)
    assert len(ring._known) == 3
    assert identify(ring, tokens[0]) == "default"


def test_while_the_database_is_away_a_known_key_stays_good_and_a_new_one_waits(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, known, fresh = Keyring(database), make(database, Scope.READ), make(database, Scope.READ)
    identify(ring, known)

    def away(*_: object) -> None:
        raise DatabaseUnavailable("it is away")

    monkeypatch.setattr(database, "snapshot", away)
    clock.now += module.FRESH_S + 1
    identify(ring, known)
    with pytest.raises(DatabaseUnavailable):
        identify(ring, fresh)
    clock.now += module.STALE_S
    with pytest.raises(DatabaseUnavailable):
        identify(ring, known)


def test_a_use_that_can_t_be_written_down_refuses_nobody(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ring, token = Keyring(database), make(database, Scope.READ)

    def away(*_: object) -> None:
        raise DatabaseUnavailable("it is read-only")

    monkeypatch.setattr(database, "transaction", away)
    assert identify(ring, token) == "default"


def test_a_use_is_written_down(database: Database) -> None:
    ring, token = Keyring(database), make(database, Scope.READ)
    identify(ring, token)
    with database.snapshot() as session:
        assert keys.find(session, keys.id_of(token) or "").last_used_at is not None
