"""What the processes of one training tell each other: JSON, one object a line, never a pickle.

rank 0 → parent     {"event": "tick", "tick": …}            answered by {"stop": true | false}
                    {"event": "stop?"}                      answered by {"stop": true | false}
                    {"event": "measure", "images_seen": n}  answered by {"scores": …} or {"error": …}
                    {"event": "outcome", "outcome": …}
any rank → parent   {"event": "error", "error": …}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from models import errors
from models.errors import ModelsError
from models.trainer import Outcome, Tick

Message = dict[str, Any]

_TICK, _OUTCOME = TypeAdapter(Tick), TypeAdapter(Outcome)


def to_line(message: Mapping[str, Any]) -> bytes:
    """A message as it is written."""
    return json.dumps(message, default=str).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """The message that was written."""
    message: Message = json.loads(line)
    return message


def told(what: Tick | Outcome | Exception) -> Message:
    """What is put into a message about a tick, an outcome or an error."""
    if isinstance(what, Exception):
        return {"name": type(what).__name__, "message": str(what), "fields": vars(what)}
    content: Message = (_TICK if isinstance(what, Tick) else _OUTCOME).dump_python(what, mode="json")  # type: ignore[arg-type]
    return content


def tick_from(content: Message) -> Tick:
    """The tick that was told."""
    return _TICK.validate_python(content)


def outcome_from(content: Message) -> Outcome:
    """The outcome that was told."""
    return _OUTCOME.validate_python(content)


def error_from(content: Message) -> ModelsError | RuntimeError:
    """The error that was told: one of ours as it was, any other as a RuntimeError that names it."""
    kind = getattr(errors, content["name"], None)
    if not (isinstance(kind, type) and issubclass(kind, ModelsError)):
        return RuntimeError(f"{content['name']}: {content['message']}")
    error = kind.__new__(kind, content["message"])  # its message is whole: there is nothing to be put together again
    vars(error).update(content["fields"])
    return error
