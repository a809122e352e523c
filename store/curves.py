"""Learning curves: what a training said at each moment, kept as rows, read back at the resolution of a plot."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from store.records import TrainingMetric


def add_point(
    session: Session,
    model_id: str,
    *,
    images_seen: int,
    elapsed_s: float,
    images_per_s: float,
    losses: Mapping[str, float],
) -> None:
    """Keep one moment of a training; a second one at the same count of images replaces the first."""
    point = TrainingMetric(
        model_id=model_id,
        images_seen=images_seen,
        elapsed_s=elapsed_s,
        images_per_s=images_per_s,
        losses=dict(losses),
    )
    session.merge(point)


def cut_back(session: Session, model_id: str, images_seen: int) -> None:
    """Forget what came after the checkpoint that a training goes on from: it happens once more."""
    session.execute(
        delete(TrainingMetric).where(TrainingMetric.model_id == model_id, TrainingMetric.images_seen > images_seen)
    )


def read_points(session: Session, model_id: str, *, most: int) -> list[TrainingMetric]:
    """Return at most about `most` points, evenly spaced, oldest first; the newest is always among them."""
    count = session.scalar(select(func.count()).select_from(TrainingMetric).where(TrainingMetric.model_id == model_id))
    step = max(1, -(-(count or 0) // most))
    place = func.row_number().over(order_by=TrainingMetric.images_seen)
    numbered = (
        select(TrainingMetric.images_seen, place.label("place")).where(TrainingMetric.model_id == model_id).subquery()
    )
    chosen = (
        select(TrainingMetric)
        .join(numbered, TrainingMetric.images_seen == numbered.c.images_seen)
        .where(
            TrainingMetric.model_id == model_id,
            or_(numbered.c.place % step == 0, numbered.c.place == count),
        )
        .order_by(TrainingMetric.images_seen)
    )
    return list(session.scalars(chosen))
