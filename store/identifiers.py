"""Prefixed ids that sort by the time they were made: `job_019ad…`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import uuid_utils

Prefix = Literal["ds", "mdl", "job", "img", "whk", "key"]


def new_id(prefix: Prefix) -> str:
    """Return a fresh id: the prefix, an underscore, and 32 hexadecimal digits of a UUIDv7 (RFC 9562)."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def id_at(prefix: Prefix, moment: datetime) -> str:
    """Return what is less than every id made at that moment or later, and greater than those made a millisecond before."""
    return f"{prefix}_{round(moment.timestamp() * 1000):012x}"
