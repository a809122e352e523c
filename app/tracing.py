"""The id of the request that is being answered: in its response, in the lines it logs, and in the row of the job it makes."""

from __future__ import annotations

import logging
import re
import secrets
from contextvars import ContextVar

from app.redaction import Redacting

GIVEN = re.compile(
    r"[A-Za-z0-9_.-]{1,64}"
)  # what a client's or proxy's own id may be; anything else could forge a log line

_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def begin(given: str | None) -> str:
    """Return the id of a request that comes in: its client's own, where that is one."""
    request_id = given if given is not None and GIVEN.fullmatch(given) else f"req_{secrets.token_hex(8)}"
    _current.set(request_id)
    return request_id


def current() -> str | None:
    """Return the id of the request that this code works for; None where it works for none, or for several at once."""
    return _current.get()


class NameRequest(logging.Filter):
    """Gives every record that a handler writes the `request_id` it was logged for, `-` where there is none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets everything pass."""
        record.request_id = current() or "-"
        return True


def log_to_stderr(level: str) -> None:
    """Logs to standard error, each line with the id of its request, and none with an API key."""
    handler = logging.StreamHandler()
    handler.addFilter(NameRequest())
    handler.setFormatter(Redacting("%(asctime)s %(levelname)-7s api [%(request_id)s] %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
