"""Removing what is of no more use. Each function returns the blobs to delete after the commit: a row that is there always has
its blobs, and blobs that a crash leaves behind are garbage (store/garbage.py)."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from store.blobs import Blobs
from store.errors import BlobNotFound, Unavailable
from store.exports import export_key
from store.records import Image, Job, JobKind
from store.strips import strips_key

log = logging.getLogger(__name__)


def remove_images(session: Session, *conditions: ColumnElement[bool]) -> list[str]:
    """Remove the images that meet all conditions."""
    blobs = list(session.scalars(select(Image.blob).where(*conditions)))
    session.execute(delete(Image).where(*conditions))
    return blobs


def remove_job(session: Session, job: Job) -> list[str]:
    """Remove an ended job with its images; an export with its file, an evaluation with its strips."""
    blobs = remove_images(session, Image.job_id == job.id)
    own = {
        JobKind.EXPORT: export_key(job.model_id or "", job.id, job.fence),
        JobKind.EVALUATE: strips_key(job.model_id or "", job.id),
    }
    session.delete(job)
    return [*blobs, *([own[job.kind]] if job.kind in own else [])]


def delete_blobs(blobs: Blobs, prefixes: Iterable[str]) -> None:
    """Delete what removed rows pointed to. What can't be deleted now takes space until `darkroom gc`, and is never seen."""
    for prefix in prefixes:
        try:
            blobs.delete(prefix)
        except (Unavailable, BlobNotFound) as error:
            log.warning("%s is left behind: %s", prefix, error)
