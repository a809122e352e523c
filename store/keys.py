"""API keys: making, finding and revoking them.

A key is `dk_` + 32 hexadecimal digits, which are the end of its id, + `_` + 43 characters that hold 256 random bits. Only its
SHA-256 is kept: so much randomness can't be guessed from a hash, so none that is slow on purpose is needed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from store.database import Database
from store.errors import KeyNotFound, LastAdminKey
from store.identifiers import new_id
from store.records import DEFAULT_ACCOUNT, LONGEST_ACCOUNT, ApiKey, Scope

ACCOUNT = rf"^[a-z0-9][a-z0-9._-]{{0,{LONGEST_ACCOUNT - 1}}}$"
TOKEN = re.compile(r"dk_([0-9a-f]{32})_[A-Za-z0-9_-]{43}")
SECRET_BYTES = 32
TOUCH_S = 60.0  # age at which the time of a key's last use is written anew

# What a key may do besides its scopes' own.
IMPLIED: Mapping[Scope, frozenset[Scope]] = {
    Scope.READ: frozenset(),
    Scope.GENERATE: frozenset({Scope.READ}),
    Scope.TRAIN: frozenset({Scope.READ}),
    Scope.ADMIN: frozenset(Scope),
}

KEYS_LOCK = 0x6B657973  # any number, the same for everyone who makes or revokes keys


def all_of(scopes: Iterable[str]) -> frozenset[Scope]:
    """Return these scopes and those that they imply."""
    given = {Scope(scope) for scope in scopes}
    return frozenset(given.union(*(IMPLIED[scope] for scope in given)))


def id_of(token: str) -> str | None:
    """Return the id of the key that this is, if it looks like one."""
    found = TOKEN.fullmatch(token)
    return f"key_{found[1]}" if found is not None else None


def digest(token: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(token.encode()).hexdigest()


def create(
    database: Database,
    session: Session,
    *,
    name: str,
    scopes: Collection[Scope],
    account: str = DEFAULT_ACCOUNT,
    lifetime: timedelta | None = None,
    limits: Mapping[str, int] | None = None,
) -> tuple[ApiKey, str]:
    """Return a new key's row, and the key itself, which nothing can show again.

    Args:
        database: the session's.
        session: a writing transaction.
        name: what people call it.
        scopes: what it may do; implied ones need not be named.
        account: whose rows it sees and makes.
        lifetime: after which it expires; None: never.
        limits: its own in place of the settings', by the names of KEY_LIMITS, 0 for none; None: it has none of its own.

    Raises:
        LastAdminKey: it would be the only key with the scope `admin`, and expire.
    """
    database.serialise(session, KEYS_LOCK)
    if Scope.ADMIN in scopes and lifetime is not None and not _lasting_admins(session):
        raise LastAdminKey(
            "there is no other key with the scope admin that lasts, so this one must not expire; make it without an expiry"
        )
    now = database.now(session)
    key_id = new_id("key")
    token = f"dk_{key_id.removeprefix('key_')}_{secrets.token_urlsafe(SECRET_BYTES)}"
    row = ApiKey(
        id=key_id,
        name=name,
        account=account,
        scopes=sorted(scopes),
        limits=dict(limits) if limits else None,
        hash=digest(token),
        created_at=now,
        expires_at=now + lifetime if lifetime is not None else None,
    )
    session.add(row)
    return row, token


def first_admin_key(database: Database) -> str | None:
    """Return a new admin key where there has never been any key, else None; of several processes that ask, one gets it.

    Raises:
        DatabaseUnavailable: the database does not answer, or is not migrated.
    """
    with database.transaction() as session:
        database.serialise(session, KEYS_LOCK)
        if session.scalar(select(ApiKey.id).limit(1)) is not None:
            return None
        return create(database, session, name="first", scopes=[Scope.ADMIN])[1]


def revoke(database: Database, session: Session, key_id: str) -> ApiKey:
    """Return the key, good for nothing once the transaction has ended. Revoking twice is as good as once.

    Raises:
        KeyNotFound: there is no such key.
        LastAdminKey: no other admin key would be left that lasts.
    """
    database.serialise(session, KEYS_LOCK)
    row = find(session, key_id)
    if row.revoked_at is None:
        if _lasting_admins(session) == [key_id]:
            raise LastAdminKey(
                f"{key_id} is the last key with the scope admin that does not expire, so without it nobody could make keys"
            )
        row.revoked_at = database.now(session)
    return row


def find(session: Session, key_id: str) -> ApiKey:
    """Return one key, as it is now.

    Raises:
        KeyNotFound: there is none of this id.
    """
    row = session.get(ApiKey, key_id, populate_existing=True)
    if row is None:
        raise KeyNotFound(f"there is no API key {key_id}")
    return row


def read(session: Session, key_ids: Collection[str]) -> dict[str, ApiKey]:
    """Return the keys that there are among these ids."""
    return {row.id: row for row in session.scalars(select(ApiKey).where(ApiKey.id.in_(key_ids)))}


def touch(session: Session, key_ids: Collection[str], *, now: datetime) -> None:
    """Write down that keys were used, unless that was done less than a minute ago."""
    is_old = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now - timedelta(seconds=TOUCH_S))
    used = update(ApiKey).where(ApiKey.id.in_(key_ids), is_old).values(last_used_at=now)
    session.execute(used.execution_options(synchronize_session=False))


def _lasting_admins(session: Session) -> Sequence[str]:
    """Ids of the admin keys that are good for ever."""
    lasting = select(ApiKey).where(ApiKey.revoked_at.is_(None), ApiKey.expires_at.is_(None)).order_by(ApiKey.id)
    return [row.id for row in session.scalars(lasting) if Scope.ADMIN in row.scopes]
