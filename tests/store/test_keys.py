"""API keys: made, found, revoked; and that there is always one that can make others."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text

from store import keys
from store.database import Database
from store.errors import KeyNotFound, LastAdminKey
from store.records import ApiKey, Scope

DAY = timedelta(days=1)


def make(database: Database, *scopes: Scope, lifetime: timedelta | None = None) -> tuple[str, str]:
    """Makes a key; returns its id and itself."""
    with database.transaction() as session:
        row, token = keys.create(database, session, name="x", scopes=scopes, lifetime=lifetime)
        return row.id, token


def revoke(database: Database, key_id: str) -> None:
    with database.transaction() as session:
        keys.revoke(database, session, key_id)


def test_of_a_key_only_its_hash_is_kept(database: Database) -> None:
    key_id, token = make(database, Scope.ADMIN)
    secret = token.rpartition("_")[2] if token.count("_") == 2 else token.split("_", 2)[2]

    assert keys.id_of(token) == key_id
    with database.snapshot() as session:
        row = session.execute(text("SELECT * FROM api_keys")).one()
    assert secret not in str(row)
    assert keys.digest(token) in row


def test_no_two_keys_are_alike_and_each_holds_256_random_bits(database: Database) -> None:
    made = [make(database, Scope.READ)[1].split("_", 2)[2] for _ in range(20)]
    assert len(set(made)) == 20
    assert {len(secret) for secret in made} == {43}  # 6 bits each


@pytest.mark.parametrize("token", ["", "dk_", "dk_0_x", f"dk_{'0' * 32}_{'x' * 42}", f"sk_{'0' * 32}_{'x' * 43}", "ä"])
def test_what_does_not_look_like_a_key_has_no_id(token: str) -> None:
    assert keys.id_of(token) is None


def test_the_first_admin_key_is_made_once(database: Database) -> None:
    assert keys.first_admin_key(database) is not None
    assert keys.first_admin_key(database) is None


def test_of_several_that_start_at_once_one_makes_the_first_key(database: Database) -> None:
    start, made = threading.Barrier(4), list[str | None]()

    def ask() -> None:
        start.wait(5)
        made.append(keys.first_admin_key(database))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len([token for token in made if token is not None]) == 1
    assert len(made) == 4
    with database.snapshot() as session:
        assert len(session.scalars(select(ApiKey)).all()) == 1


def test_the_last_admin_key_that_lasts_is_not_revoked(database: Database) -> None:
    first, _ = make(database, Scope.ADMIN)
    make(database, Scope.ADMIN, lifetime=DAY)  # it does not last
    make(database, Scope.TRAIN)
    with pytest.raises(LastAdminKey, match=first):
        revoke(database, first)

    second, _ = make(database, Scope.ADMIN)
    revoke(database, first)
    with pytest.raises(LastAdminKey, match=second):
        revoke(database, second)


def test_an_admin_key_expires_only_where_another_lasts(database: Database) -> None:
    with pytest.raises(LastAdminKey, match="must not expire"):
        make(database, Scope.ADMIN, lifetime=DAY)
    make(database, Scope.ADMIN)
    make(database, Scope.ADMIN, lifetime=DAY)


def test_two_that_revoke_each_other_leave_one(database: Database) -> None:
    ids = [make(database, Scope.ADMIN)[0] for _ in range(2)]
    start, refused = threading.Barrier(2), list[str]()

    def ask(key_id: str) -> None:
        start.wait(5)
        try:
            revoke(database, key_id)
        except LastAdminKey:
            refused.append(key_id)

    threads = [threading.Thread(target=ask, args=(key_id,)) for key_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(refused) == 1


def test_revoking_twice_is_as_good_as_once_and_what_is_not_there_is_named(database: Database) -> None:
    make(database, Scope.ADMIN)
    key_id, _ = make(database, Scope.READ)
    revoke(database, key_id)
    with database.snapshot() as session:
        before = keys.find(session, key_id).revoked_at
    revoke(database, key_id)
    with database.snapshot() as session:
        assert keys.find(session, key_id).revoked_at == before
    with pytest.raises(KeyNotFound, match="key_0"):
        revoke(database, "key_0")


def test_a_use_is_written_down_at_most_once_a_minute(database: Database) -> None:
    key_id, _ = make(database, Scope.READ)
    now = datetime(2026, 1, 5, 12, tzinfo=UTC)
    seen = []
    for seconds in (0, 30, 59, 61):
        with database.transaction() as session:
            keys.touch(session, {key_id}, now=now + timedelta(seconds=seconds))
        with database.snapshot() as session:
            seen.append(keys.find(session, key_id).last_used_at)
    assert seen == [now, now, now, now + timedelta(seconds=61)]
