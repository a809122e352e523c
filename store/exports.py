"""Exports of models: where their files lie, and which of them is served."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.records import Job, JobKind, JobStatus, Model


def export_folder(model_id: str) -> str:
    """The blob folder of a model's exports."""
    return f"models/{model_id}/exports"


def export_key(model_id: str, job_id: str, fence: int) -> str:
    """The blob key of what one claim of an export job writes; a claim that comes late has a key of its own."""
    return f"{export_folder(model_id)}/{job_id}-{fence}.zip"


def newest_exports(session: Session, model_id: str) -> dict[str, Job]:
    """Return the newest export job that succeeded, by format: its file is the one that is served."""
    jobs = select(Job).where(Job.model_id == model_id, Job.kind == JobKind.EXPORT, Job.status == JobStatus.SUCCEEDED)
    return {job.request["format"]: job for job in session.scalars(jobs.order_by(Job.finished_at, Job.id))}


def served_exports(session: Session) -> set[str]:
    """Return the keys of the files that are served, of every model that there is."""
    jobs = select(Job).where(
        Job.kind == JobKind.EXPORT, Job.status == JobStatus.SUCCEEDED, Job.model_id.in_(select(Model.id))
    )
    newest = {
        (job.model_id, job.request["format"]): job for job in session.scalars(jobs.order_by(Job.finished_at, Job.id))
    }
    return {export_key(model_id or "", job.id, job.fence) for (model_id, _), job in newest.items()}


def unfinished_exports(session: Session, model_id: str) -> set[str]:
    """Return the ids of export jobs that may still be writing."""
    jobs = select(Job.id).where(
        Job.model_id == model_id,
        Job.kind == JobKind.EXPORT,
        Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]),
    )
    return set(session.scalars(jobs))
