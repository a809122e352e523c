"""What a training leaves behind on its way: checkpoints and previews, thinned to a few that tell its story."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from store.records import Job, JobStatus, Model, TrainingCheckpoint, TrainingPreview

LEADING = "fd_domain"  # the score by which checkpoints are compared; lower is better
CLEARLY = 0.9  # of the last score, below which an earlier checkpoint is more than luckily better


def add_checkpoint(
    session: Session,
    model: Model,
    *,
    images_seen: int,
    blob: str,
    scores: Mapping[str, float] | None,
    now: datetime,
    most: int,
) -> list[TrainingCheckpoint]:
    """Keep a new checkpoint and forget the ones that are too many.

    The newest, the best and the one that the model samples from always stay. Unless one was promoted by hand, the model
    follows the newest.

    Args:
        model: whose training it is; locked.
        images_seen: images that it has learned from.
        blob: prefix of its files.
        scores: what it scored; None: not measured.
        most: checkpoints to keep.

    Returns:
        all that are kept, oldest first.
    """
    session.merge(
        TrainingCheckpoint(
            model_id=model.id,
            images_seen=images_seen,
            blob=blob,
            scores=dict(scores) if scores is not None else None,
            created_at=now,
        )
    )
    if model.promoted is None:
        model.checkpoint, model.images_seen = blob, images_seen
    rows = read_checkpoints(session, model.id)
    favourite = best(rows)
    dear = {row.images_seen for row in rows if row.blob == model.checkpoint or row is favourite or row is rows[-1]}
    kept = thinned((row.images_seen for row in rows), most, dear)
    for row in rows:
        if row.images_seen not in kept:
            session.delete(row)
    return [row for row in rows if row.images_seen in kept]


def forget_old(session: Session, model: Model, *, before: datetime) -> list[str]:
    """Forget the checkpoints of an ended training that are old, but for the newest, the best, the current one and those that
    unfinished jobs need.

    Args:
        model: whose they are; locked.
        before: those kept before this moment are old.

    Returns:
        prefixes of their files.
    """
    rows = read_checkpoints(session, model.id)
    pins = select(Job.checkpoint).where(Job.status.in_((JobStatus.QUEUED, JobStatus.RUNNING)))
    dear = {model.checkpoint, *session.scalars(pins.where(Job.checkpoint.in_([row.blob for row in rows])))}
    old = [row for row in rows[:-1] if row.created_at < before and row is not best(rows) and row.blob not in dear]
    for row in old:
        session.delete(row)
    return [row.blob for row in old]


def score_checkpoint(session: Session, model_id: str, images_seen: int, scores: Mapping[str, float]) -> None:
    """Keep what a checkpoint scored, if there is one of so many images."""
    row = session.get(TrainingCheckpoint, (model_id, images_seen))
    if row is not None:
        row.scores = dict(scores)


def read_checkpoints(session: Session, model_id: str) -> list[TrainingCheckpoint]:
    """Return the checkpoints that a model's training has kept, oldest first."""
    session.flush()
    rows = select(TrainingCheckpoint).where(TrainingCheckpoint.model_id == model_id)
    return list(session.scalars(rows.order_by(TrainingCheckpoint.images_seen)))


def best(rows: Iterable[TrainingCheckpoint]) -> TrainingCheckpoint | None:
    """Return the one with the best score; None where none was measured."""
    measured = [row for row in rows if row.scores is not None and LEADING in row.scores]
    return min(measured, key=_score, default=None)


def clearly_better(rows: Iterable[TrainingCheckpoint]) -> TrainingCheckpoint | None:
    """Return the best one where it is more than luckily better than the one measured last; else None."""
    measured = [row for row in rows if row.scores is not None and LEADING in row.scores]
    favourite = best(measured)
    return favourite if favourite is not None and _score(favourite) < CLEARLY * _score(measured[-1]) else None


def promote(model: Model, row: TrainingCheckpoint, *, follow: bool) -> None:
    """Let the model sample from a checkpoint's weights.

    Args:
        model: locked.
        row: one of its checkpoints.
        follow: whether newer ones take its place, as they come.
    """
    model.checkpoint, model.images_seen = row.blob, row.images_seen
    model.promoted = None if follow else row.images_seen


def add_preview(
    session: Session, model: Model, *, images_seen: int, blob: str, now: datetime, most: int
) -> list[TrainingPreview]:
    """Keep a new preview, which becomes the model's, and forget the ones that are too many.

    Returns:
        all that are kept, oldest first; the first and the newest are always among them.
    """
    session.merge(TrainingPreview(model_id=model.id, images_seen=images_seen, blob=blob, created_at=now))
    model.preview = blob
    rows = read_previews(session, model.id)
    kept = thinned((row.images_seen for row in rows), most, {rows[0].images_seen, rows[-1].images_seen})
    for row in rows:
        if row.images_seen not in kept:
            session.delete(row)
    return [row for row in rows if row.images_seen in kept]


def read_previews(session: Session, model_id: str) -> list[TrainingPreview]:
    """Return the previews that a model's training has kept, oldest first."""
    session.flush()
    rows = select(TrainingPreview).where(TrainingPreview.model_id == model_id)
    return list(session.scalars(rows.order_by(TrainingPreview.images_seen)))


def cut_back(session: Session, model_id: str, images_seen: int) -> None:
    """Forget what came after the checkpoint that a training goes on from: it happens once more."""
    for record in (TrainingCheckpoint, TrainingPreview):
        session.execute(delete(record).where(record.model_id == model_id, record.images_seen > images_seen))


def thinned(counts: Iterable[int], most: int, dear: Collection[int] = ()) -> set[int]:
    """Return at most `most` of these counts, about evenly spaced, whatever was thinned before; those in `dear` all stay."""
    kept = sorted(set(counts))
    while len(kept) > most:
        # The one that leaves the smallest hole; before the first there is nothing.
        holes = [
            (kept[place + 1] - (kept[place - 1] if place else 0), place)
            for place in range(len(kept) - 1)
            if kept[place] not in dear
        ]
        if not holes:
            break
        del kept[min(holes)[1]]
    return set(kept)


def _score(row: TrainingCheckpoint) -> float:
    assert row.scores is not None
    return float(row.scores[LEADING])
