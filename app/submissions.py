"""Submitting a job: once for each Idempotency-Key, told and rung for after the commit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Response
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import KeyReused
from app.jobs import Job
from store import records
from store.queue import LANE_OF
from store.resources import Resources, status_notice

# What every route that creates answers with.
ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    202: {
        "description": "The job is in the line; `Location` has its path.",
        "headers": {"Location": {"description": "Path of the job.", "schema": {"type": "string"}}},
    }
}


@dataclass(frozen=True)
class Idempotency:
    """A client's key with its route, and the hash of what came with it."""

    key: str
    digest: str

    @classmethod
    def of(cls, route: str, key: str | None, content: bytes | BaseModel) -> Idempotency | None:
        """None without a key.

        Args:
            route: path of the route; another route may see the same key.
            key: the Idempotency-Key header.
            content: what was asked for: bytes, or a body as its client wrote it, whatever the order of its members.
        """
        if key is None:
            return None
        if isinstance(content, BaseModel):
            content = json.dumps(content.model_dump(mode="json", exclude_unset=True), sort_keys=True).encode()
        return cls(f"{route} {key}", hashlib.sha256(content).hexdigest())

    @property
    def columns(self) -> tuple[str, str]:
        """As `store.jobs.submit` takes it."""
        return self.key, self.digest


def submit(
    resources: Resources, idempotency: Idempotency | None, create: Callable[[Session], records.Job]
) -> tuple[records.Job, bool]:
    """Return the job and whether it is new; the same key with the same request finds the job it made before.

    Args:
        create: makes the job and its other rows inside the transaction; raises to refuse.

    Raises:
        KeyReused: the key came with another request before.
    """
    try:
        job, is_new = _submit(resources, idempotency, create)
    except IntegrityError:
        if idempotency is None:
            raise
        job, is_new = _submit(resources, idempotency, create)  # another request with the key was faster: find its job
    if is_new:
        resources.tell(status_notice(job))
        resources.ring(LANE_OF[job.kind])
    return job, is_new


def _submit(
    resources: Resources, idempotency: Idempotency | None, create: Callable[[Session], records.Job]
) -> tuple[records.Job, bool]:
    with resources.database.transaction() as session:
        if idempotency is not None:
            before = session.scalar(select(records.Job).where(records.Job.idempotency_key == idempotency.key))
            if before is not None:
                if before.idempotency_hash != idempotency.digest:
                    raise KeyReused(
                        f"this Idempotency-Key came with another request before, which made {before.id}",
                        parameter="Idempotency-Key",
                        remedy="use a new key for a new request",
                    )
                return before, False
        return create(session), True


def accepted(job: Job) -> Response:
    """Return the 202 that says where the job is."""
    return Response(
        job.model_dump_json(), 202, media_type="application/json", headers={"Location": f"/v1/jobs/{job.id}"}
    )
