"""Answering errors: every exception becomes `application/problem+json`, as the table in app/errors.py says."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_jsonable_python
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from app.errors import AppError, JobFailed, UnsupportedMedia, answer_to, problem
from models import catalog
from store.errors import StoreError

log = logging.getLogger(__name__)

LONGEST_ECHO = 100  # characters of a wrong value that are repeated
LONGEST_DETAIL = 1000
STATUS_CODES = {
    400: "malformed_json",
    404: "route_not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class ProblemResponse(Response):
    """A response in the one shape of errors."""

    media_type = "application/problem+json"

    def __init__(
        self,
        scope: Scope,
        status: int,
        code: str,
        detail: str,
        *,
        parameter: str | None = None,
        remedy: str | None = None,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        content = problem(
            status,
            code,
            detail if len(detail) <= LONGEST_DETAIL else detail[:LONGEST_DETAIL] + "…",
            instance=scope["path"],
            request_id=scope.get("state", {}).get("request_id", "-"),
            parameter=parameter,
            remedy=remedy,
            more=more,
        )
        # A lone surrogate that a client sent has no UTF-8, and must not break the answer that complains about it.
        super().__init__(json.dumps(content, ensure_ascii=False).encode(errors="replace"), status, headers)


def respond(scope: Scope, error: Exception) -> ProblemResponse:
    """Return the response to any error; one that nobody foresaw is logged with its traceback."""
    answer = answer_to(type(error))
    status = error.status if isinstance(error, JobFailed) else answer.status
    retry_after_s = (error.retry_after_s if isinstance(error, AppError) else None) or answer.retry_after_s
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else None
    if isinstance(error, AppError):
        if status >= 500 and not isinstance(error, JobFailed):
            log.error("%s %s: %s", scope["method"], scope["path"], error)
        return ProblemResponse(
            scope,
            status,
            error.code or answer.code,
            error.detail,
            parameter=error.parameter,
            remedy=error.remedy or answer.remedy,
            more=error.more,
            headers={**(headers or {}), **error.headers},
        )
    if isinstance(error, catalog.InvalidOption):
        more = {"bounds": error.bounds} if error.bounds is not None else None
        return ProblemResponse(
            scope,
            status,
            answer.code,
            str(error),
            parameter=f"/options/{error.parameter}",
            remedy=answer.remedy,
            more=more,
        )
    if isinstance(error, catalog.UnknownKind):
        return ProblemResponse(scope, status, answer.code, str(error), parameter="/kind", remedy=answer.remedy)
    if isinstance(error, (StoreError, ClientDisconnect)) and answer.code != "internal_error":
        if status >= 500:
            log.error("%s %s: %s", scope["method"], scope["path"], error)
        detail = str(error) or type(error).__name__
        return ProblemResponse(
            scope, status, answer.code, detail, parameter=answer.parameter, remedy=answer.remedy, headers=headers
        )
    request_id = scope.get("state", {}).get("request_id", "-")
    log.error("%s %s (%s) failed", scope["method"], scope["path"], request_id, exc_info=error)
    return ProblemResponse(
        scope,
        500,
        "internal_error",
        f"this is a defect of Darkroom: {type(error).__name__}",
        remedy=f"look for {request_id} in the service's log, and report what you find there",
    )


def install(app: FastAPI) -> None:
    """Makes the application answer every error in the one shape."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if any(_is_unread(one) for one in error.errors()) and not _is_json(media_type):
            return respond(
                request.scope,
                UnsupportedMedia(
                    f"Content-Type is {media_type or 'missing'}",
                    parameter="Content-Type",
                    remedy="send JSON, and say so: Content-Type: application/json",
                ),
            )
        return _invalid(request.scope, error.errors())

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        detail, remedy = error.detail, None
        headers = dict(error.headers or {})
        if error.status_code == 400:  # FastAPI's own, of a body that Python's parser gave up on
            detail = "the body can't be read as JSON: it is not UTF-8, nested too deeply, or has a number without end"
            remedy = "send a JSON object (RFC 8259)"
        elif error.status_code == 404:
            detail, remedy = f"there is no route {request.url.path}", "GET /docs shows every route"
        elif error.status_code == 405:
            detail = f"{request.method} is not allowed on {request.url.path}"
            headers["Allow"] = ", ".join(_allowed(app, request.scope))
            remedy = f"allowed: {headers['Allow']}"
        code = STATUS_CODES.get(error.status_code, "bad_request" if error.status_code < 500 else "internal_error")
        return ProblemResponse(request.scope, error.status_code, code, detail, remedy=remedy, headers=headers)

    async def foreseen(request: Request, error: Exception) -> Response:
        return respond(request.scope, error)

    for kind in (AppError, StoreError, catalog.UnknownKind, catalog.InvalidOption, ClientDisconnect):
        app.add_exception_handler(kind, foreseen)


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


def _is_unread(error: Mapping[str, Any]) -> bool:
    """Whether the whole body was taken for bytes."""
    return tuple(error["loc"]) == ("body",) and isinstance(error.get("input"), bytes)


def _allowed(app: FastAPI, scope: Scope) -> list[str]:
    """The methods that some route takes at this path; Starlette names those of the first one alone."""
    return [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.router.routes)
    ]


def _invalid(scope: Scope, errors: Sequence[Any]) -> Response:
    first = errors[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", first["msg"])
        return ProblemResponse(
            scope, 400, "malformed_json", f"the body is no JSON: {reason}", remedy="send a JSON object (RFC 8259)"
        )
    found = [{"parameter": _place(error["loc"]), "detail": _sentence(error)} for error in errors]
    return ProblemResponse(
        scope,
        422,
        "invalid_parameter",
        f"{found[0]['parameter'] or 'the body'}: {found[0]['detail']}",
        parameter=found[0]["parameter"],
        remedy="GET /docs shows every parameter with its bounds",
        more={"errors": found} if len(found) > 1 else None,
    )


def _place(loc: Sequence[int | str]) -> str | None:
    where, *path = loc
    if where != "body":
        return ".".join(map(str, path))
    # Alternatives of a union add their own names to the place; a JSON pointer has only the keys of the body.
    keys = [str(part) for part in path if part not in {"str", "int", "float", "bool"}]
    return "/" + "/".join(key.replace("~", "~0").replace("/", "~1") for key in keys) if keys else None


def _sentence(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] in {"missing", "extra_forbidden"}:
        return message
    given = json.dumps(to_jsonable_python(error.get("input"), fallback=repr), ensure_ascii=False)
    return f"{message} (given: {given if len(given) <= LONGEST_ECHO else given[:LONGEST_ECHO] + '…'})"
