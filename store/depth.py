"""How much waits: jobs by lane and state, and images that are still to be made."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.queue import LANE_OF, Lane
from store.records import Job, JobKind, JobStatus

UNFINISHED = (JobStatus.QUEUED, JobStatus.RUNNING)


def jobs_waiting(session: Session) -> dict[tuple[Lane, JobStatus], int]:
    """Return the number of unfinished jobs in each lane, by state; every lane and both states are there."""
    found = dict.fromkeys(((lane, status) for lane in Lane for status in UNFINISHED), 0)
    counted = session.execute(
        select(Job.kind, Job.status, func.count())
        .where(Job.kind.in_(LANE_OF), Job.status.in_(UNFINISHED))
        .group_by(Job.kind, Job.status)
    )
    for kind, status, count in counted:
        found[LANE_OF[kind], status] += count
    return found


def images_waiting(session: Session) -> int:
    """Return how many images unfinished sample jobs still want. It looks at each such job."""
    left = select(func.coalesce(func.sum(Job.total - Job.cursor), 0))
    return int(session.scalar(left.where(Job.kind == JobKind.SAMPLE, Job.status.in_(UNFINISHED))) or 0)
