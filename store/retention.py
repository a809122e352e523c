"""Retention: what the settings let go after a time, a batch at a pass, beside all other work.

Candidates are looked for without a lock, and judged again in the transaction that removes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select
from sqlalchemy.orm import Session

from store import kept
from store.blobs import Blobs
from store.database import Database
from store.identifiers import id_at
from store.jobs import ENDED
from store.records import (
    Dataset,
    DatasetStatus,
    Image,
    Job,
    JobKind,
    Model,
    ModelStatus,
    TrainingCheckpoint,
    Webhook,
    WebhookStatus,
)
from store.removal import delete_blobs, remove_images, remove_job
from store.settings import Settings

BATCH = 500  # rows of a sort that go in one pass

Remove = Callable[[Session, Sequence[Any], datetime], list[str]]


def retire(database: Database, blobs: Blobs, settings: Settings) -> Counter[str]:
    """Delete what is older than the settings keep it, at most a batch of each sort; a full batch may leave more.

    Returns:
        How many of each sort went.

    Raises:
        DatabaseUnavailable: the database does not answer; each sort goes whole or not at all.
    """
    gone: Counter[str] = Counter()
    for name, days, old, remove in (
        ("images", settings.keep_images_days, _old_images, _remove_images),
        ("jobs", settings.keep_jobs_days, _old_jobs, _remove_jobs),
        ("exports", settings.keep_exports_days, _old_exports, _remove_jobs),
        ("checkpoints", settings.keep_checkpoints_days, _old_checkpoints, _remove_checkpoints),
        ("failed data sets", settings.keep_failed_days, _failed_datasets, _remove_datasets),
        ("failed models", settings.keep_failed_days, _failed_models, _remove_models),
    ):
        if not days:
            continue
        with database.snapshot() as session:
            before = database.now(session) - timedelta(days=days)
            if session.execute(old(before).limit(1)).first() is None:
                continue
        with database.transaction() as session:
            rows = session.scalars(
                old(before).limit(BATCH).with_for_update(skip_locked=True)
            ).all()  # others retire too
            doomed = remove(session, rows, before)
        delete_blobs(blobs, doomed)
        gone[name] += len(doomed) if remove is _remove_checkpoints else len(rows)
    return +gone


def _old_images(before: datetime) -> Select[Any]:
    # Ids sort by the time they were made, so this needs no index of its own.
    unfinished = select(Job.id).where(Job.status.not_in(ENDED))
    return select(Image.id).where(Image.id < id_at("img", before), Image.job_id.not_in(unfinished))


def _remove_images(session: Session, ids: Sequence[str], _before: datetime) -> list[str]:
    return remove_images(session, Image.id.in_(ids))


def _old_jobs(before: datetime) -> Select[Any]:
    return select(Job).where(
        Job.id < id_at("job", before),
        Job.finished_at < before,
        or_(Job.kind.in_((JobKind.SAMPLE, JobKind.IMPORT)), ~exists().where(Model.id == Job.model_id)),
        ~exists().where(Image.job_id == Job.id),
        ~_somebody_waits(),
    )


def _old_exports(before: datetime) -> Select[Any]:
    return select(Job).where(
        Job.id < id_at("job", before), Job.finished_at < before, Job.kind == JobKind.EXPORT, ~_somebody_waits()
    )


def _somebody_waits() -> ColumnElement[bool]:
    """Whether the receiver of a job's webhook has not been told yet."""
    return exists().where(Webhook.job_id == Job.id, Webhook.status == WebhookStatus.PENDING)


def _remove_jobs(session: Session, rows: Sequence[Job], _before: datetime) -> list[str]:
    return [blob for job in rows for blob in remove_job(session, job)]


def _old_checkpoints(before: datetime) -> Select[Any]:
    """Models that have checkpoints to forget: more than the newest and the current one, at least."""
    newer = TrainingCheckpoint.__table__.alias()
    is_not_newest = exists().where(newer.c.model_id == Model.id, newer.c.images_seen > TrainingCheckpoint.images_seen)
    old = exists().where(
        TrainingCheckpoint.model_id == Model.id,
        TrainingCheckpoint.created_at < before,
        TrainingCheckpoint.blob != Model.checkpoint,
        is_not_newest,
    )
    return select(Model).where(Model.status != ModelStatus.TRAINING, old)


def _remove_checkpoints(session: Session, rows: Sequence[Model], before: datetime) -> list[str]:
    return [blob for model in rows for blob in kept.forget_old(session, model, before=before)]


def _failed_datasets(before: datetime) -> Select[Any]:
    needed = exists().where(Job.dataset_id == Dataset.id, Job.status.not_in(ENDED))
    return select(Dataset).where(Dataset.status == DatasetStatus.FAILED, Dataset.created_at < before, ~needed)


def _remove_datasets(session: Session, rows: Sequence[Dataset], _before: datetime) -> list[str]:
    for dataset in rows:
        session.delete(dataset)
    return [place for row in rows for place in (f"datasets/{row.id}", f"uploads/{row.id}.zip")]


def _failed_models(before: datetime) -> Select[Any]:
    needed = exists().where(Job.model_id == Model.id, Job.status.not_in(ENDED))
    return select(Model).where(
        and_(Model.status == ModelStatus.FAILED, Model.checkpoint.is_(None), Model.created_at < before, ~needed)
    )


def _remove_models(session: Session, rows: Sequence[Model], _before: datetime) -> list[str]:
    for model in rows:
        session.delete(model)
    return [f"models/{model.id}" for model in rows]
