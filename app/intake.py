"""Generations on their way in and out: one transaction for all that arrive together, one look for all that wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, bindparam, select

from app.backlog import Backlog
from app.jobs import IMAGES_SHOWN
from app.news import News
from app.quotas import Quotas
from app.sharing import Shared
from app.submissions import Submission, submit_together
from store import jobs, records
from store.errors import BlobNotFound, JobNotFound, StoreError
from store.records import JobStatus
from store.resources import Resources

# Built once: to build a statement costs more than to execute it.
WANTED: BindParameter[Any] = bindparam("wanted", expanding=True)
JOBS = select(records.Job).where(records.Job.id.in_(WANTED))
FIRST_IMAGES = (
    select(records.Image)
    .where(records.Image.job_id.in_(WANTED), records.Image.position < IMAGES_SHOWN)
    .order_by(records.Image.job_id, records.Image.position)
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
    content: bytes | None = None  # once it has succeeded, where it was asked for

    @property
    def has_ended(self) -> bool:
        """Whether the job's status is final."""
        return self.job.status in jobs.ENDED


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

        def submit(submissions: Sequence[Submission]) -> Sequence[tuple[records.Job, bool] | Exception]:
            return submit_together(resources, backlog, quotas, submissions)

        def look(asked: Sequence[Asked]) -> Sequence[Seen | Exception]:
            return look_together(resources, asked)

        self.submit = Shared(submit)
        self.look = Shared(look)


def look_together(resources: Resources, asked: Sequence[Asked]) -> list[Seen | Exception]:
    """Look at sample jobs, all at one moment; JobNotFound among the answers is for one that is gone."""
    wanted = [one.job_id for one in asked]
    with resources.database.snapshot() as session:
        rows = {job.id: job for job in session.scalars(JOBS, {"wanted": wanted})}
        images: dict[str, list[records.Image]] = {}
        for image in session.scalars(FIRST_IMAGES, {"wanted": wanted}):
            images.setdefault(image.job_id, []).append(image)
    return [_seen(resources, one, rows.get(one.job_id), images.get(one.job_id, [])) for one in asked]


def _seen(
    resources: Resources, asked: Asked, job: records.Job | None, images: Sequence[records.Image]
) -> Seen | Exception:
    if job is None:
        return JobNotFound(f"there is no job {asked.job_id}")
    if not asked.content or job.status is not JobStatus.SUCCEEDED:
        return Seen(job, images)
    if not images:
        return BlobNotFound(f"the image of {job.id} was deleted")
    try:
        return Seen(job, images, resources.blobs.get(images[0].blob))
    except StoreError as error:
        return error
