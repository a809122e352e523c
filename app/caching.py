"""ETags: a client that has a representation already is told so, not sent it again (RFC 9110)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from starlette.responses import Response

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"


def etag_of(content: bytes) -> str:
    """Return the strong ETag of a representation."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def has_it(if_none_match: str | None, etag: str) -> bool:
    """Whether the client's If-None-Match names this ETag; weak ones count as equal."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    return etag.removeprefix("W/") in {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}


def not_modified(etag: str, headers: Mapping[str, str]) -> Response:
    """Return the 304 that keeps what the client has."""
    return Response(status_code=304, headers={**headers, "ETag": etag})
