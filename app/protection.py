"""Headers that tell browsers what they must not do with an answer of ours.

There is no CORS header among them, and none anywhere: pages of other sites may read nothing here.
"""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.types import Message, Scope, Send

from app.caching import REVALIDATE

# JSON and pictures load nothing and are nobody's frame.
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# The pages of the documentation: their own files, their own inline scripts by hash, and the styles that their scripts write.
# ReDoc searches in a worker that it makes of a blob.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'{hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGES = frozenset({"/docs", "/docs/oauth2-redirect", "/redoc"})
INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),  # for browsers that do not know frame-ancestors
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def protected(scope: Scope, send: Send, request_id: str) -> Send:
    """Return what sends a response with the headers of all responses.

    Args:
        scope: whose response it is.
        send: sends it.
        request_id: goes with it.
    """
    further = [(b"x-request-id", request_id.encode()), *ALWAYS]
    if scope["path"] in PAGES:
        return _page(send, further)

    async def send_protected(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = message["headers"]
            message["headers"] = [*given, *further, (b"content-security-policy", POLICY.encode())]
            if (standing := scope["state"].get("standing")) is not None:
                message["headers"] += [
                    (name.lower().encode(), value.encode()) for name, value in standing.headers.items()
                ]
            if scope["path"].startswith("/v1/") and not any(name == b"cache-control" for name, _ in given):
                message["headers"].append((b"cache-control", REVALIDATE.encode()))  # it is somebody's, and no proxy's
        await send(message)

    return send_protected


def _page(send: Send, further: list[tuple[bytes, bytes]]) -> Send:
    """Sends a page that allows the scripts within it, which are known when its one piece of body comes."""
    start: Message = {}

    async def send_page(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        if start:
            scripts = INLINE_SCRIPT.findall(message.get("body", b""))
            hashes = "".join(f" 'sha256-{base64.b64encode(hashlib.sha256(one).digest()).decode()}'" for one in scripts)
            policy = (b"content-security-policy", PAGE_POLICY.format(hashes=hashes).encode())
            await send({**start, "headers": [*start["headers"], *further, policy]})
            start = {}
        await send(message)

    return send_page
