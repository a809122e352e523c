"""A log without secrets: whatever is about to be written, what looks like an API key leaves it."""

from __future__ import annotations

import logging
import re

# Also of keys that were cut short, or sent where none belongs; the id stays, so that one can tell whose it was.
SECRET = re.compile(r"(dk(?:_|%5[fF])[0-9a-fA-F]{32}(?:_|%5[fF]))[A-Za-z0-9_%-]+")
BEARER = re.compile(r"(?i)(bearer(?:\s|%20|\+)+)(?!dk_)[^\s'\",;]+")


class Redacting(logging.Formatter):
    """Formats as its base does, with tracebacks, and then takes secrets out."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return without_secrets(super().format(record))


def without_secrets(text: str) -> str:
    """Return the text with the secret part of each key replaced."""
    return BEARER.sub(r"\1[secret]", SECRET.sub(r"\1[secret]", text))
