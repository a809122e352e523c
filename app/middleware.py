"""What happens to every request before its route: an id, the Host, the Origin, the size of its body, and the last net."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import tracing
from app.errors import AppError, CrossSite, MalformedRequest, TooLarge, UnknownHost
from app.problems import respond
from app.protection import protected
from store.settings import PREFIX

log = logging.getLogger(__name__)

UPLOAD_PATH = "/v1/datasets"
UPLOAD_PATHS = frozenset({UPLOAD_PATH, "/v1/models"})  # the routes that take large bodies; they count them themselves
MAX_BODY_BYTES = 2**20
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Gate:
    """Gives every request an id, and refuses those that no route should see.

    Args:
        app: the application behind it.
        allowed_hosts: names that the Host header may have, without port; `*.example.org` and `*` are patterns.
    """

    def __init__(self, app: ASGIApp, *, allowed_hosts: Sequence[str]) -> None:
        self.app = app
        self.allowed_hosts = [name.lower() for name in allowed_hosts]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = tracing.begin(headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        send_on = protected(scope, send, request_id)
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send_on(message)

        try:
            self._check(scope, headers)
            await self.app(scope, _bounded(scope, receive), send_noted)
        except Exception as error:
            if started:
                log.error("the response to %s %s broke off", scope["method"], scope["path"])
                raise
            await respond(scope, error)(scope, receive, send_noted)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        if not self._is_ours(host):
            raise UnknownHost(
                f"this service is not called {host!r}",
                parameter="Host",
                remedy=f"use one of {', '.join(self.allowed_hosts)}, or add the name to {PREFIX}ALLOWED_HOSTS",
            )
        origin = headers.get("origin")
        if (
            origin is not None
            and scope["method"] not in SAFE_METHODS
            and _authority(origin.lower()) != _authority(host)
        ):
            raise CrossSite(
                f"a page of {origin} may not write to {host}",
                parameter="Origin",
                remedy="send writes from a page of this service, or from a program",
            )
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            raise MalformedRequest("the URL holds a null character, which no name or id has", remedy="leave it out")
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise MalformedRequest(f"Content-Length is {length!r}, which is no number", parameter="Content-Length")
        if _is_small(scope) and int(length) > MAX_BODY_BYTES:
            raise _too_large(int(length))

    def _is_ours(self, host: str) -> bool:
        name = re.sub(r":\d+$", "", host)
        return any(
            pattern in {"*", name} or (pattern.startswith("*.") and name.endswith(pattern[1:]))
            for pattern in self.allowed_hosts
        )


def _authority(value: str) -> str:
    return re.sub(r":(80|443)$", "", value.removeprefix("http://").removeprefix("https://"))


def _is_small(scope: Scope) -> bool:
    return not (scope["method"] == "POST" and scope["path"] in UPLOAD_PATHS)


def _too_large(length: int) -> AppError:
    return TooLarge(
        f"the body has {length:,} bytes, at most {MAX_BODY_BYTES:,} are read here",
        remedy=f"pictures go to POST {UPLOAD_PATH}",
    )


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Bodies without a Content-Length are counted as they come."""
    if not _is_small(scope):
        return receive
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY_BYTES:
            raise HTTPException(413, _too_large(seen).detail)  # the one class that FastAPI lets through while it reads
        return message

    return counted
