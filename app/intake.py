"""Generations on their way in and out: one transaction for all that arrive together, one look for all that wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import BindParameter, Row, bindparam, select

from app.backlog import Backlog
from app.jobs import IMAGES_SHOWN
from app.models import Weights
from app.news import News
from app.quotas import Quotas
from app.sharing import Shared
from app.submissions import Submission, submit_together
from store import jobs, records
from store.errors import BlobNotFound, JobNotFound, StoreError
from store.queue import Lane
from store.records import JobStatus
from store.resources import Resources
from store.slices import IMAGES, JOB

# Built once: to build a statement costs more than to execute it.
WANTED: BindParameter[Any] = bindparam("wanted", expanding=True)
JOBS = select(records.Job).where(records.Job.id.in_(WANTED))
FIRST_IMAGES = (
    select(records.Image)
    .where(records.Image.job_id.in_(WANTED), records.Image.position < IMAGES_SHOWN)
    .order_by(records.Image.job_id, records.Image.position)
)
# Columns, not records: most requests are for one picture, whose answer says no more of its job than this. The status is read
# and not asked for: of many jobs SQLite would then look for all that have it.
MADE = select(JOB.id.label("job_id"), JOB.status, IMAGES.c.id.label("image_id"), IMAGES.c.sha256, IMAGES.c.blob).where(
    JOB.id.in_(WANTED), IMAGES.c.job_id == JOB.id, IMAGES.c.position == 0
)


@dataclass(frozen=True)
class Asked:
    """A look at a sample job; `content`: with the PNG of its one image."""

    job_id: str
    content: bool = False


@dataclass(frozen=True)
class Seen:
    """A sample job as it stands."""

    job: records.Job
    images: Sequence[records.Image]  # the first IMAGES_SHOWN, as far as made

    @property
    def has_ended(self) -> bool:
        """Whether the job's status is final."""
        return self.job.status in jobs.ENDED


@dataclass(frozen=True)
class Made:
    """A sample job's one picture, as it was asked for."""

    job_id: str
    image_id: str
    sha256: str  # of the PNG
    content: bytes  # the PNG

    has_ended: ClassVar[bool] = True


class Intake:
    """What the route of generations shares among its requests.

    Args:
        resources: open ones.
        news: what those who wait listen to.
        backlog: who may come in.
        quotas: how much of each account may.
    """

    def __init__(self, resources: Resources, news: News, backlog: Backlog, quotas: Quotas) -> None:
        self.resources, self.news = resources, news
        self.latest: Weights | None = None  # of the model that was asked for last, as they were then

        def submit(submissions: Sequence[Submission]) -> Sequence[tuple[records.Job, bool] | Exception]:
            ahead = submissions[0].ahead if len(submissions) == 1 else None
            # Of several samplers another one would be the next to hear the bell.
            if ahead is not None and backlog.samplers.count == 1:
                resources.announce(Lane.SAMPLE, ahead.text)
            return submit_together(resources, backlog, quotas, submissions)

        def look(asked: Sequence[Asked]) -> Sequence[Seen | Made | Exception]:
            return look_together(resources, asked)

        self.submit = Shared(submit)
        self.look: Shared[Asked, Seen | Made] = Shared(look)


def look_together(resources: Resources, asked: Sequence[Asked]) -> list[Seen | Made | Exception]:
    """Look at sample jobs, all at one moment; JobNotFound among the answers is for one that is gone."""
    pictures = [one.job_id for one in asked if one.content]
    made: dict[Asked, Row[*tuple[Any, ...]]] = {}
    rows: dict[str, records.Job] = {}
    images: dict[str, list[records.Image]] = {}
    with resources.database.snapshot() as session:
        if pictures:
            found = session.execute(MADE, {"wanted": pictures})
            made = {Asked(row.job_id, content=True): row for row in found if row.status is JobStatus.SUCCEEDED}
        if wanted := [one.job_id for one in asked if one not in made]:
            rows = {job.id: job for job in session.scalars(JOBS, {"wanted": wanted})}
            for image in session.scalars(FIRST_IMAGES, {"wanted": wanted}):
                images.setdefault(image.job_id, []).append(image)
    return [
        _made(resources, made[one]) if one in made else _seen(one, rows.get(one.job_id), images.get(one.job_id, []))
        for one in asked
    ]


def _made(resources: Resources, row: Row[*tuple[Any, ...]]) -> Made | Exception:
    try:
        return Made(row.job_id, row.image_id, row.sha256, resources.blobs.get(row.blob))
    except StoreError as error:
        return error


def _seen(asked: Asked, job: records.Job | None, images: Sequence[records.Image]) -> Seen | Exception:
    if job is None:
        return JobNotFound(f"there is no job {asked.job_id}")
    if asked.content and job.status is JobStatus.SUCCEEDED:
        return BlobNotFound(f"the image of {job.id} was deleted")
    return Seen(job, images)
