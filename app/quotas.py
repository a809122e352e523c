"""Quotas: how much an account may ask for. Defaults are settings; a key may have its own, which count for what comes by it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from app.auth import Caller
from app.errors import QuotaExceeded
from store import usage
from store.records import JobKind
from store.resources import Resources

DAY_S = 24 * 3600
RETRY_AFTER_S = 60  # where nobody can say when there will be room
REFRESH_S = 30.0  # age at which the bytes of an account are added up again
LEAST_IDLE = 20  # times as long as that took, until the next time


@dataclass(frozen=True)
class Wish:
    """What a job would use up."""

    caller: Caller
    kind: JobKind
    images: int = 0  # to generate
    size_bytes: int = 0  # that it brings along


class Quotas:
    """Lets accounts in while they have something left. Any thread may ask.

    Args:
        resources: with the settings that hold the defaults.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        settings = resources.settings
        self._defaults = {
            "images_per_day": settings.quota_images_per_day,
            "queued_jobs": settings.quota_queued_jobs,
            "trainings": settings.quota_trainings,
            "stored_bytes": settings.quota_stored_bytes,
        }
        self._stored: dict[
            str, tuple[int, float]
        ] = {}  # bytes by account, and until when that is good enough (monotonic)

    def has(self, wish: Wish) -> bool:
        """Whether anything is counted for who wishes that."""
        return any(self._of(wish.caller).values())

    def check(self, session: Session, wish: Wish, *, now: datetime) -> None:
        """Return where the account has enough left, counted within a writing transaction that is alone with its count.

        Raises:
            QuotaExceeded: it has not; says when to come again.
        """
        quotas, account = self._of(wish.caller), wish.caller.account
        if not any(quotas.values()):
            return
        self._resources.database.serialise(session, usage.LOCK)
        if wish.kind is JobKind.SAMPLE and (most := quotas["images_per_day"]):
            _check(
                "images_per_day", most, usage.images_today(session, account, now=now), wish.images, _to_midnight_s(now)
            )
        if most := quotas["queued_jobs"]:
            _check("queued_jobs", most, usage.jobs_queued(session, account), 1, RETRY_AFTER_S)
        if wish.kind is JobKind.TRAIN and (most := quotas["trainings"]):
            _check("trainings", most, usage.trainings_unfinished(session, account), 1, RETRY_AFTER_S)
        if most := quotas["stored_bytes"]:
            _check("stored_bytes", most, self._bytes_stored(session, account), max(1, wish.size_bytes), RETRY_AFTER_S)

    def note(self, session: Session, wish: Wish, *, now: datetime) -> None:
        """Count what was let in, in the same transaction."""
        if wish.images and self._of(wish.caller)["images_per_day"]:
            usage.note_images(session, wish.caller.account, wish.images, now=now)

    def _of(self, caller: Caller) -> Mapping[str, int]:
        return {name: caller.limits.get(name, default) for name, default in self._defaults.items()}

    def _bytes_stored(self, session: Session, account: str) -> int:
        size_bytes, good_until = self._stored.get(account, (0, -math.inf))
        began = time.monotonic()
        if began > good_until:
            size_bytes, ended = usage.bytes_stored(session, account), time.monotonic()
            self._stored[account] = size_bytes, ended + max(REFRESH_S, LEAST_IDLE * (ended - began))
        return size_bytes


def _check(name: str, most: int, used: int, wanted: int, retry_after_s: int) -> None:
    if used + wanted <= most:
        return
    words = name.replace("_", " ")
    window = f";w={DAY_S}" if name == "images_per_day" else ""
    raise QuotaExceeded(
        f"{words}: {used:,} of {most:,} are used, and {wanted:,} more were asked for",
        remedy=f"ask for fewer, make room, or come again in {retry_after_s} s; whoever runs this service may allow more",
        retry_after_s=retry_after_s,
        headers={
            "RateLimit-Policy": f'"{name}";q={most}{window}',
            "RateLimit": f'"{name}";r={max(0, most - used)};t={retry_after_s}',
        },
        more={"quota": name, "limit": most, "used": used},
    )


def _to_midnight_s(now: datetime) -> int:
    midnight = datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), datetime.min.time(), UTC)
    return math.ceil((midnight - now).total_seconds())
