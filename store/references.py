"""Which blobs the rows refer to, and which ones unfinished jobs may be writing: what nobody may delete.

Blobs are written before the rows that refer to them, and deleted after these. What a job writes it commits under its fence,
so nothing of a job that has ended will ever be referred to unless it is already (docs/decisions/0019-kept-and-cleared-away.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.exports import export_folder, served_exports
from store.jobs import ENDED
from store.records import (
    Dataset,
    DatasetStatus,
    Image,
    Job,
    JobKind,
    JobStatus,
    Model,
    TrainingCheckpoint,
    TrainingPreview,
)
from store.strips import strips_key

JOB_ID = re.compile(r"job_[0-9a-z]+")
FOLDERS = ("datasets", "images", "models", "uploads")  # all that blobs lie in; of others nothing is known


@dataclass(frozen=True)
class References:
    """Keys, or folders of keys, of everything but images, at one moment."""

    required: frozenset[str]  # a row says that they are there
    guarded: frozenset[str]  # an unfinished job may be writing there
    checkpoints: frozenset[str]  # of `required`, those that trainings have kept

    def cover(self, key: str) -> bool:
        """Whether a blob must stay."""
        parts = key.split("/")
        return any(
            folder in self.required or folder in self.guarded
            for folder in ("/".join(parts[:length]) for length in range(1, len(parts) + 1))
        )


def read_references(session: Session) -> References:
    """Return what the rows refer to, images apart: these are many, so they are looked up in parts."""
    checkpoints = frozenset(session.scalars(select(TrainingCheckpoint.blob)))
    required = {*checkpoints, *session.scalars(select(TrainingPreview.blob))}
    guarded: set[str] = set()
    for pair in session.execute(select(Model.checkpoint, Model.preview)):
        required.update(blob for blob in pair if blob is not None)
    required.update(served_exports(session))
    for dataset_id, status in session.execute(select(Dataset.id, Dataset.status)):
        if status is DatasetStatus.READY:
            required.add(f"datasets/{dataset_id}")
        if status is DatasetStatus.IMPORTING:
            guarded.add(f"datasets/{dataset_id}")
    evaluations = select(Job.id, Job.model_id).where(
        Job.kind == JobKind.EVALUATE, Job.status == JobStatus.SUCCEEDED, Job.model_id.in_(select(Model.id))
    )
    required.update(strips_key(model_id or "", job_id) for job_id, model_id in session.execute(evaluations))
    # Generations are left out: they pin weights in great numbers, but few different ones.
    for job in session.scalars(select(Job).where(Job.status.not_in(ENDED), Job.kind != JobKind.SAMPLE)):
        guarded.update(_written_by(job))
        if "blob" in job.request.get("source", {}):  # what somebody uploaded
            required.add(job.request["source"]["blob"])
    pins = select(Job.checkpoint).where(Job.status.not_in(ENDED), Job.checkpoint.is_not(None))
    required.update(pin for pin in session.scalars(pins.distinct()) if pin is not None)
    return References(frozenset(required), frozenset(guarded), checkpoints)


def _written_by(job: Job) -> Iterator[str]:
    """Where an unfinished job writes, images and the data set of an import apart."""
    if job.model_id is None:
        return
    places = {
        JobKind.TRAIN: f"models/{job.model_id}",
        JobKind.IMPORT_MODEL: f"models/{job.model_id}",
        JobKind.EXPORT: export_folder(job.model_id),
        JobKind.EVALUATE: strips_key(job.model_id, job.id),
    }
    if job.kind in places:
        yield places[job.kind]


def images_to_stay(session: Session, keys: Iterable[str]) -> set[str]:
    """Return those of these blobs of images that a row refers to, or that an unfinished job may be about to commit."""
    named = {key: JOB_ID.search(key) for key in keys}
    jobs = {key: found[0] if found is not None else None for key, found in named.items()}
    ids = {job_id for job_id in jobs.values() if job_id is not None}
    unfinished = set(session.scalars(select(Job.id).where(Job.id.in_(ids), Job.status.not_in(ENDED))))
    referred = set(session.scalars(select(Image.blob).where(Image.job_id.in_(ids))))
    return {key for key, job_id in jobs.items() if key in referred or job_id is None or job_id in unfinished}
