"""What a client reads off the wire: JSON, server-sent events, and errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias, cast

JsonObject: TypeAlias = dict[str, Any]


class ClientError(Exception):
    """A request that came to nothing: refused by the service, or the service was not to be reached.

    Args:
        code: a word for programs, as the service gave it; `unreachable` where there was no answer.
        message: what went wrong, for people.
        remedy: what to do about it; None where the message says all there is.
        status: the HTTP status; None without an answer.
        parameter: the offending member of the request, where there is one.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        remedy: str | None = None,
        status: int | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code, self.message, self.remedy = code, message, remedy
        self.status, self.parameter = status, parameter

    def __str__(self) -> str:
        about = f" ({self.parameter})" if self.parameter and self.parameter not in self.message else ""
        remedy = f"; {self.remedy}" if self.remedy and self.remedy not in self.message else ""
        return f"{self.code}: {self.message}{about}{remedy}"


@dataclass(frozen=True)
class Event:
    """One server-sent event of a job."""

    id: str | None
    type: str  # snapshot, status, progress, metrics, preview, image, note or done
    data: JsonObject


def parse_events(lines: Iterator[str]) -> Iterator[Event]:
    """Yield the events of a `text/event-stream`, as the HTML standard reads one; comments are skipped.

    Args:
        lines: without their ends.
    """
    event_id: str | None = None
    kind, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield Event(event_id, kind, object_of("\n".join(data)))
            kind, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            kind = value
        elif field == "id" and "\0" not in value:
            event_id = value or None


def object_of(text: str) -> JsonObject:
    """Return the JSON object that a text is.

    Raises:
        ClientError: it is none.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ClientError("not_darkroom", f"the answer is no JSON: {text[:80]!r}") from error
    if not isinstance(value, dict):
        raise ClientError("not_darkroom", f"the answer is no JSON object: {text[:80]!r}")
    return cast(JsonObject, value)


class Counted:
    """A file that tells how far it has been read."""

    def __init__(self, file: BinaryIO, on_progress: Callable[[int], None]) -> None:
        self._file, self._on_progress = file, on_progress

    def read(self, length: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(length)
        self._on_progress(self._file.tell())
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes elsewhere."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Where it is."""
        return self._file.tell()
