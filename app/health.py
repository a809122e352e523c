"""Whether the service is alive, and whether it can work."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.dependencies import Attached
from app.problems import ProblemResponse
from store.errors import StoreError

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])

CHECK_S = 2.0  # a resource that takes longer counts as away
RETRY_AFTER_S = 5
# Threads that hang in a check are left alone; they must not use up the pool that requests run in.
_limiter = anyio.CapacityLimiter(12)


class Alive(BaseModel):
    """This process answers."""

    status: str = Field("ok", description="Always `ok`.")

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})


class Check(BaseModel):
    """One attached resource."""

    ok: bool = Field(description="Whether it answers.")
    detail: str | None = Field(None, description="What is wrong with it.")

    model_config = ConfigDict(json_schema_extra={"examples": [{"ok": True, "detail": None}]})


class Ready(BaseModel):
    """Every attached resource answers."""

    status: str = Field("ready", description="Always `ready`; 503 otherwise.")
    checks: dict[str, Check] = Field(description="Database, Redis and blobs.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "ready",
                    "checks": {"database": {"ok": True, "detail": None}, "redis": {"ok": True, "detail": None}},
                }
            ]
        }
    )


@router.get("/healthz", summary="Is it alive", operation_id="get_health")
async def get_health() -> Alive:
    """Answers as long as this process does."""
    return Alive()


@router.get("/readyz", summary="Can it work", operation_id="get_readiness", response_model=Ready)
async def get_readiness(request: Request, resources: Attached) -> Response:
    """Looks at database, Redis and blobs, and names those that are away."""
    checks: dict[str, Check] = {}

    async def look(name: str, ping: Callable[[], None]) -> None:
        checks[name] = await _check(name, ping)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look, "database", resources.database.ping)
        tasks.start_soon(look, "redis", resources.bus.ping)
        tasks.start_soon(look, "blobs", resources.blobs.ping)
    away = [name for name in ("database", "redis", "blobs") if not checks[name].ok]
    if not away:
        return Response(Ready(checks=checks).model_dump_json(), media_type="application/json")
    details = "; ".join(f"{name}: {checks[name].detail}" for name in away)
    return ProblemResponse(
        request.scope,
        503,
        "not_ready",
        f"not ready: {details}",
        remedy=f"start or repair {', '.join(away)}; the service goes on by itself then",
        more={"checks": {name: check.model_dump() for name, check in checks.items()}, "away": away},
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


async def _check(name: str, ping: Callable[[], None]) -> Check:
    try:
        with anyio.fail_after(CHECK_S):
            await anyio.to_thread.run_sync(ping, abandon_on_cancel=True, limiter=_limiter)
    except TimeoutError:
        return Check(ok=False, detail=f"no answer within {CHECK_S:g} s")
    except StoreError as error:
        return Check(ok=False, detail=str(error))
    except Exception as error:
        log.exception("looking at the %s failed", name)
        return Check(ok=False, detail=f"{type(error).__name__}: {error}")
    return Check(ok=True)
