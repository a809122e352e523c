"""Kinds of values in JSON bodies that are what they say: a number that came as text, or a text that came as a number, is
refused, as the OpenAPI document promises.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Strict


def _time(value: Any) -> Any:
    # A bare number could mean seconds or milliseconds.
    if not isinstance(value, (str, datetime)) or (
        isinstance(value, str) and value.lstrip("+-").replace(".", "").isdigit()
    ):
        raise ValueError("should be a time as RFC 3339 writes it, such as 2026-01-05T12:00:00Z")
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:  # within hours of the first or the last year that there is
        raise ValueError("lies outside the years 1 to 9999 in UTC") from None


Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]  # whole ones too
Flag = Annotated[bool, Strict()]
Moment = Annotated[AwareDatetime, BeforeValidator(_time), AfterValidator(_utc)]
