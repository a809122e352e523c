"""Learning curves of a training, thinned on the server to what a plot can show."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from app.dependencies import Attached, ModelId
from app.models import find
from store import curves, records

router = APIRouter(prefix="/v1/models", tags=["models"])

MOST_POINTS = 5000
EXAMPLE: dict[str, Any] = {
    "images_seen": 64_000,
    "elapsed_s": 68.8,
    "images_per_s": 930.2,
    "losses": {"D_real": 0.44, "D_fake": 0.45, "G": 1.6},
}


class Point(BaseModel):
    """What a training had to say at one moment."""

    images_seen: int = Field(description="Images that it had learned from, repetitions counted.")
    elapsed_s: float = Field(description="Seconds of training, pauses not counted.")
    images_per_s: float = Field(description="Its speed over the last few moments.")
    losses: dict[str, float] = Field(description="Means since the moment before, by name.")

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    @classmethod
    def of(cls, row: records.TrainingMetric) -> Point:
        """The row as clients see it."""
        return cls(
            images_seen=row.images_seen, elapsed_s=row.elapsed_s, images_per_s=row.images_per_s, losses=row.losses
        )


class Curves(BaseModel):
    """The learning curves of one training, oldest point first."""

    object: Literal["curves"] = Field("curves", description="Always `curves`.")
    model: str = Field(description="Whose training it is.")
    data: list[Point] = Field(description="Evenly spaced points; the newest is always among them.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"object": "curves", "model": "mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d", "data": [EXAMPLE]}]
        }
    )


@router.get("/{model_id}/metrics", summary="Get a model's learning curves", operation_id="get_model_metrics")
def get_metrics(
    resources: Attached,
    model_id: ModelId,
    points: Annotated[int, Query(ge=2, le=MOST_POINTS, description="About how many points at most.")] = 500,
) -> Curves:
    """Losses and speed over the images seen, also while the training goes on."""
    with resources.database.snapshot() as session:
        find(session, model_id)
        return Curves(
            model=model_id, data=[Point.of(row) for row in curves.read_points(session, model_id, most=points)]
        )
