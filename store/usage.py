"""What accounts use: images asked for today, jobs in the line, trainings, bytes."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.depth import UNFINISHED
from store.records import Dataset, Image, ImageUsage, Job, JobKind, JobStatus

LOCK = 0x75736167  # any number, the same for everyone who uses up what is counted


def images_today(session: Session, account: str, *, now: datetime) -> int:
    """Return how many images the account has asked for since midnight (UTC), whatever became of them."""
    row = session.get(ImageUsage, (account, _day(now)))
    return row.images if row is not None else 0


def note_images(session: Session, account: str, images: int, *, now: datetime) -> None:
    """Count images that the account asks for. The transaction must be alone with LOCK (`Database.serialise`)."""
    row = session.get(ImageUsage, (account, _day(now)))
    if row is None:
        session.add(ImageUsage(account=account, day=_day(now), images=images))
    else:
        row.images += images


def jobs_queued(session: Session, account: str) -> int:
    """Return how many of the account's jobs wait. It looks at each job that waits."""
    return _counted(session, Job.account == account, Job.status == JobStatus.QUEUED)


def trainings_unfinished(session: Session, account: str) -> int:
    """Return how many trainings of the account wait or run."""
    return _counted(session, Job.account == account, Job.kind == JobKind.TRAIN, Job.status.in_(UNFINISHED))


def bytes_stored(session: Session, account: str) -> int:
    """Return the size of the account's pictures and data sets, bytes. It looks at each of them."""
    return sum(
        int(session.scalar(select(func.coalesce(func.sum(record.size_bytes), 0)).where(record.account == account)) or 0)
        for record in (Image, Dataset)
    )


def _counted(session: Session, *conditions: object) -> int:
    return int(session.scalar(select(func.count()).select_from(Job).where(*conditions)) or 0)  # type: ignore[arg-type]


def _day(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%d")
