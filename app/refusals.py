"""What a route may refuse, as the OpenAPI document says it: statuses from the table of errors, all in the one shape."""

from __future__ import annotations

import inspect
from typing import Any

from app.errors import answer_to

RETRY_AFTER = {"Retry-After": {"description": "Seconds until it may succeed.", "schema": {"type": "integer"}}}


def refusals(*errors: type[Exception]) -> dict[int | str, dict[str, Any]]:
    """Return the responses to these errors by status; their descriptions are what the errors say of themselves."""
    reasons: dict[int, list[str]] = {}
    hasty = set()
    for error in errors:
        answer = answer_to(error)
        reasons.setdefault(answer.status, []).append((inspect.getdoc(error) or answer.code).partition("\n")[0])
        if answer.retry_after_s is not None:
            hasty.add(answer.status)
    return {
        status: {
            "description": " ".join(dict.fromkeys(said)),
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            **({"headers": RETRY_AFTER} if status in hasty else {}),
        }
        for status, said in reasons.items()
    }
