"""Learning curves of a training, thinned on the server to what a plot can show."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.auth import MayRead
from app.dependencies import Attached, ModelId
from app.models import find
from store import curves, records

router = APIRouter(prefix="/v1/models", tags=["models"])

MOST_POINTS = 5000
POINT_EXAMPLE: dict[str, Any] = {
    "images_seen": 64_000,
    "elapsed_s": 68.8,
    "images_per_s": 930.2,
    "losses": {"D_real": 0.44, "D_fake": 0.45, "G": 1.6},
    "gauges": {"D_real_logit": 1.2, "D_fake_logit": -1.3, "R_t": 0.6, "lr_D": 0.0002, "lr_G": 0.0002},
    "scores": {"fd_domain": 3.1, "fd_domain_floor": 0.4, "kid": 0.9, "coverage": 0.61, "ms_ssim": 0.3, "n": 1000},
}


PointsWanted = Annotated[int, Query(ge=2, le=MOST_POINTS, description="About how many points at most.")]


class Point(BaseModel):
    """What a training had to say at one moment."""

    images_seen: int = Field(description="Images that it had learned from, repetitions counted.")
    elapsed_s: float = Field(description="Seconds of training, pauses not counted.")
    images_per_s: float = Field(description="Its speed over the last few moments.")
    losses: dict[str, float] = Field(description="Means since the moment before, by name.")
    gauges: dict[str, float] = Field(
        description="What else there is to watch: learning rates, mean logits and the like."
    )
    scores: dict[str, float] | None = Field(
        description="FD-domain, KID, coverage, MS-SSIM of the averaged generator, and the N that they are of; null between "
        "measurements."
    )

    model_config = ConfigDict(json_schema_extra={"examples": [POINT_EXAMPLE]})

    @classmethod
    def of(cls, row: records.TrainingMetric) -> Point:
        """The row as clients see it."""
        return cls(
            images_seen=row.images_seen,
            elapsed_s=row.elapsed_s,
            images_per_s=row.images_per_s,
            losses=row.losses,
            gauges=row.gauges or {},
            scores=row.scores,
        )


class Curves(BaseModel):
    """The learning curves of one training, oldest point first."""

    object: Literal["curves"] = Field("curves", description="Always `curves`.")
    model: str = Field(description="Whose training it is.")
    data: list[Point] = Field(
        description="Evenly spaced points, and those with scores; the newest is always among them."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"object": "curves", "model": "mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d", "data": [POINT_EXAMPLE]}]
        }
    )


@router.get("/{model_id}/metrics", summary="Get a model's learning curves", operation_id="get_model_metrics")
def get_metrics(caller: MayRead, resources: Attached, model_id: ModelId, points: PointsWanted = 500) -> Curves:
    """Losses, gauges, scores and speed over the images seen, also while the training goes on."""
    with resources.database.snapshot() as session:
        find(session, caller, model_id)
        return read_curves(session, model_id, points)


def read_curves(session: Session, model_id: str, most: int) -> Curves:
    """Return a training's curves, thinned to about `most` points."""
    return Curves(model=model_id, data=[Point.of(row) for row in curves.read_points(session, model_id, most=most)])
