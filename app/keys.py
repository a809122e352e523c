"""API keys over HTTP: making, listing and revoking them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from app.auth import MayAdminister
from app.dependencies import NO_NULL, AfterKey, Attached, Limit
from app.keyring import Keyring
from app.pages import Page, example_page, newest_first
from app.refusals import refusals
from app.submissions import LOCATION
from app.values import Integer
from store import keys, records
from store.errors import LastAdminKey
from store.records import DEFAULT_ACCOUNT, Scope
from store.resources import Resources

MOST = 2**53 - 1  # the largest whole number that every JSON reader takes
LONGEST_LIFE_S = 100 * 365 * 24 * 3600

router = APIRouter(prefix="/v1/keys", tags=["keys"])

KeyId = Annotated[
    str, Path(pattern=NO_NULL, description="Id of an API key.", examples=["key_019ad3a8c0de7c3f8f4d2b6a10c5e7f1"])
]

EXAMPLE: dict[str, Any] = {
    "id": "key_019ad3a8c0de7c3f8f4d2b6a10c5e7f1",
    "object": "key",
    "name": "web shop",
    "account": "shop",
    "scopes": ["generate"],
    "limits": {"requests_per_minute": 600, "images_per_day": 1000},
    "status": "active",
    "created_at": "2026-01-05T12:00:00Z",
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": "2026-01-05T12:30:00Z",
}


class KeyLimits(BaseModel):
    """Limits of a key's own in place of the settings'; 0: none. What is left out is as the settings say."""

    requests_per_minute: Integer | None = Field(None, ge=0, le=MOST, description="By this key.")
    images_per_day: Integer | None = Field(
        None, ge=0, le=MOST, description="That its account may have asked for since midnight, UTC."
    )
    queued_jobs: Integer | None = Field(None, ge=0, le=MOST, description="Of its account that may wait.")
    trainings: Integer | None = Field(None, ge=0, le=MOST, description="Of its account that may wait or run at once.")
    stored_bytes: Integer | None = Field(None, ge=0, le=MOST, description="Of its account's pictures and data sets.")

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"requests_per_minute": 600, "images_per_day": 1000}]}
    )


class KeyRequest(BaseModel):
    """Which key to make."""

    name: str = Field(min_length=1, max_length=200, pattern=NO_NULL, description="What people call it.")
    scopes: list[Scope] = Field(
        min_length=1,
        description="What it may do: `read`; `generate` and `train`, each of which may read; `admin`, which may do everything, "
        "in every account.",
    )
    account: str = Field(
        DEFAULT_ACCOUNT,
        pattern=keys.ACCOUNT,
        description="Whose data sets, models, jobs and images it sees and makes. Several keys may share one.",
    )
    limits: KeyLimits | None = Field(None, description="Its own limits. Default: those of the settings.")
    expires_in_s: Integer | None = Field(
        None, ge=1, le=LONGEST_LIFE_S, description="Seconds after which it is no longer good. Default: never."
    )

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "web shop", "scopes": ["generate"], "account": "shop"}]},
    )


class Key(BaseModel):
    """An API key, without its secret."""

    id: str = Field(description="Id of the key; also the middle of the key itself.")
    object: str = Field("key", description="Always `key`.")
    name: str = Field(description="What people call it.")
    account: str = Field(description="Whose rows it sees and makes; a key with the scope `admin` sees those of all.")
    scopes: list[Scope] = Field(description="What it may do, without what that implies.")
    limits: dict[str, int] = Field(description="Its own limits; for others the settings hold.")
    status: Literal["active", "expired", "revoked"] = Field(description="Whether it is good for anything.")
    created_at: datetime = Field(description="When it was made.")
    expires_at: datetime | None = Field(description="When it stops to be good; null: never.")
    revoked_at: datetime | None = Field(description="When it was revoked; null: it was not.")
    last_used_at: datetime | None = Field(description="When it was last used, to a minute; null: never.")

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    @classmethod
    def of(cls, row: records.ApiKey) -> Key:
        """The row as administrators see it."""
        return cls(**_members(row))


class NewKey(Key):
    """An API key with its secret, which is shown this once."""

    key: str = Field(description="The key itself: send it as `Authorization: Bearer …`.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**EXAMPLE, "key": "dk_019ad3a8c0de7c3f8f4d2b6a10c5e7f1_(43 characters)"}]}
    )


class KeyPage(Page[Key]):
    """One page of API keys."""

    model_config = ConfigDict(json_schema_extra=example_page(EXAMPLE))


@router.post(
    "",
    summary="Make an API key",
    operation_id="create_key",
    status_code=201,
    responses={201: {"headers": LOCATION}, **refusals(LastAdminKey)},
)
def create_key(_caller: MayAdminister, resources: Attached, body: KeyRequest, response: Response) -> NewKey:
    """The answer holds the key, this once. An `Idempotency-Key` is of no use here, since nothing could show the key again:
    where the answer was lost, revoke the key and make another.
    """
    lifetime = timedelta(seconds=body.expires_in_s) if body.expires_in_s is not None else None
    with resources.database.transaction() as session:
        row, token = keys.create(
            resources.database,
            session,
            name=body.name,
            scopes=set(body.scopes),
            account=body.account,
            lifetime=lifetime,
            limits=body.limits.model_dump(exclude_none=True) if body.limits is not None else None,
        )
    response.headers["Cache-Control"] = "no-store"
    response.headers["Location"] = f"/v1/keys/{row.id}"
    return NewKey(**_members(row), key=token)


@router.get("", summary="List API keys", operation_id="list_keys")
def list_keys(_caller: MayAdminister, resources: Attached, after: AfterKey = None, limit: Limit = 20) -> KeyPage:
    """Keys of every account, newest first, those that have expired or were revoked too."""
    with resources.database.snapshot() as session:
        rows, more = newest_first(session, select(records.ApiKey), records.ApiKey.id, "key", after=after, limit=limit)
        return KeyPage(data=[Key.of(row) for row in rows], has_more=more)


@router.get("/{key_id}", summary="Show an API key", operation_id="get_key")
def get_key(_caller: MayAdminister, resources: Attached, key_id: KeyId) -> Key:
    """One key, without its secret."""
    with resources.database.snapshot() as session:
        return Key.of(keys.find(session, key_id))


@router.delete(
    "/{key_id}",
    summary="Revoke an API key",
    operation_id="revoke_key",
    status_code=204,
    responses=refusals(LastAdminKey),
)
async def revoke_key(_caller: MayAdminister, request: Request, resources: Attached, key_id: KeyId) -> None:
    """From now on it is good for nothing here, and within five seconds where several API processes run. Its row stays. The last
    key with the scope `admin` that does not expire can't be revoked.
    """
    await anyio.to_thread.run_sync(_revoke, resources, key_id)
    keyring: Keyring | None = request.app.state.keyring
    if keyring is not None:
        keyring.forget(key_id)


def _revoke(resources: Resources, key_id: str) -> None:
    with resources.database.transaction() as session:
        keys.revoke(resources.database, session, key_id)


def _members(row: records.ApiKey) -> dict[str, Any]:
    is_over = row.expires_at is not None and row.expires_at <= datetime.now(UTC)
    return {
        "id": row.id,
        "name": row.name,
        "account": row.account,
        "scopes": row.scopes,
        "limits": row.limits or {},
        "status": "revoked" if row.revoked_at is not None else "expired" if is_over else "active",
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "last_used_at": row.last_used_at,
    }
