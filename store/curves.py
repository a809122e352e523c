"""Learning curves: what a training said at each moment, kept as rows, read back at the resolution of a plot."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, Select, delete, func, or_, select
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
    gauges: Mapping[str, float] | None = None,
    scores: Mapping[str, float] | None = None,
) -> None:
    """Keep one moment of a training; a second one at the same count of images replaces the first."""
    point = TrainingMetric(
        model_id=model_id,
        images_seen=images_seen,
        elapsed_s=elapsed_s,
        images_per_s=images_per_s,
        losses=dict(losses),
        gauges=dict(gauges) if gauges else None,
        scores=dict(scores) if scores else None,
    )
    session.merge(point)


def cut_back(session: Session, model_id: str, images_seen: int) -> None:
    """Forget what came after the checkpoint that a training goes on from: it happens once more."""
    session.execute(
        delete(TrainingMetric).where(TrainingMetric.model_id == model_id, TrainingMetric.images_seen > images_seen)
    )


def newest_point(session: Session, model_id: str) -> TrainingMetric | None:
    """Return the last moment of a training; None before the first."""
    points = select(TrainingMetric).where(TrainingMetric.model_id == model_id)
    return session.scalars(points.order_by(TrainingMetric.images_seen.desc()).limit(1)).first()


def read_points(session: Session, model_id: str, *, most: int) -> list[TrainingMetric]:
    """Return at most about `most` points, evenly spaced, oldest first; the newest is always among them.

    Points with scores are few and far between, so they are thinned on their own: beside the others, at most about `most`.
    """
    of_model = TrainingMetric.model_id == model_id
    places = [_places(session, most, of_model), _places(session, most, of_model, TrainingMetric.scores.is_not(None))]
    chosen = or_(*(TrainingMetric.images_seen.in_(place) for place in places))
    return list(session.scalars(select(TrainingMetric).where(of_model, chosen).order_by(TrainingMetric.images_seen)))


def _places(session: Session, most: int, *conditions: ColumnElement[bool]) -> Select[tuple[int]]:
    """The images_seen of every n-th point that meets the conditions, and of the last one."""
    count = session.scalar(select(func.count()).select_from(TrainingMetric).where(*conditions)) or 0
    step = max(1, -(-count // most))
    place = func.row_number().over(order_by=TrainingMetric.images_seen).label("place")
    numbered = select(TrainingMetric.images_seen, place).where(*conditions).subquery()
    wanted = or_(numbered.c.place % step == 0, numbered.c.place == count)
    return select(numbered.c.images_seen).where(wanted)
