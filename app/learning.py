"""Trainings as they go on: what each has come to, its checkpoints and its previews."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.auth import Caller, MayRead, MayTrain
from app.caching import IMMUTABLE, etag_of, has_it, not_modified
from app.curves import POINT_EXAMPLE, Curves, Point, PointsWanted, read_curves
from app.dependencies import NO_NULL, AfterJob, Attached, IfNoneMatch, Limit
from app.errors import NotFound
from app.jobs import Progress, progress_of
from app.models import Model
from app.models import find as find_model
from app.pages import Page, example_page, newest_first
from models.catalog import MAX_BUDGET_IMAGES
from store import curves, jobs, kept, records
from store.errors import BlobNotFound
from store.records import JobKind, JobStatus

router = APIRouter(prefix="/v1/trainings", tags=["trainings"])

JOB, MODEL = "job_019ad3a8b1ce7d10a6f1c37e2d40b9a5", "mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d"
TrainingId = Annotated[
    str, Path(pattern=NO_NULL, description="Id of the training's job, or of the model that it makes.", examples=[JOB])
]
ImagesSeen = Annotated[
    int,
    Path(
        ge=0,
        le=MAX_BUDGET_IMAGES,
        description="Images that had been learned from at that moment.",
        examples=[64_000],
    ),
]

CHECKPOINT_EXAMPLE: dict[str, Any] = {
    "images_seen": 64_000,
    "scores": {"fd_domain": 3.1, "fd_domain_floor": 0.4, "kid": 0.9, "coverage": 0.61, "ms_ssim": 0.3, "n": 1000},
    "current": True,
    "best": True,
    "created_at": "2026-01-05T12:01:09Z",
}
PREVIEW_EXAMPLE: dict[str, Any] = {
    "images_seen": 64_000,
    "url": f"/v1/trainings/{JOB}/previews/64000",
    "created_at": "2026-01-05T12:01:09Z",
}
EXAMPLE: dict[str, Any] = {
    "id": JOB,
    "object": "training",
    "status": "running",
    "model": MODEL,
    "model_name": "digits (gan-dcgan, 32 px)",
    "dataset": "ds_019ad3a8c0de7c3f8f4d2b6a10c5e7f1",
    "request": {"kind": "gan-dcgan", "resolution": 32, "options": {}, "budget": {"images": 200_000}, "seed": 0},
    "progress": {
        "done": 64_000,
        "total": 200_000,
        "unit": "images",
        "rate": 930.2,
        "eta_s": 146.2,
        "fraction": 0.32,
    },
    "newest": POINT_EXAMPLE,
    "best": CHECKPOINT_EXAMPLE,
    "created_at": "2026-01-05T12:00:00Z",
    "finished_at": None,
    "links": {"self": f"/v1/trainings/{JOB}", "job": f"/v1/jobs/{JOB}", "model": f"/v1/models/{MODEL}"},
}


class Checkpoint(BaseModel):
    """Weights that a training kept on its way; any of them can become the model's."""

    images_seen: int = Field(description="Images that they have learned from.")
    scores: dict[str, float] | None = Field(description="What they scored; null where they were not measured.")
    current: bool = Field(description="Whether the model samples from them.")
    best: bool = Field(description="Whether no other kept ones have a lower FD-domain.")
    created_at: datetime = Field(description="When they were kept.")

    model_config = ConfigDict(json_schema_extra={"examples": [CHECKPOINT_EXAMPLE]})


class Checkpoints(BaseModel):
    """The checkpoints that a training has kept, oldest first."""

    object: str = Field("list", description="Always `list`.")
    data: list[Checkpoint] = Field(
        description="A few from all along the training; the newest and the best are among them."
    )

    model_config = ConfigDict(json_schema_extra={"examples": [{"object": "list", "data": [CHECKPOINT_EXAMPLE]}]})


class Preview(BaseModel):
    """A grid of pictures from fixed seeds; two of one training can be compared."""

    images_seen: int = Field(description="Images that had been learned from.")
    url: str = Field(description="Path of the PNG.")
    created_at: datetime = Field(description="When it was made.")

    model_config = ConfigDict(json_schema_extra={"examples": [PREVIEW_EXAMPLE]})


class Previews(BaseModel):
    """The previews that a training has kept, oldest first."""

    object: str = Field("list", description="Always `list`.")
    data: list[Preview] = Field(
        description="A few from all along the training; the first and the newest are among them."
    )

    model_config = ConfigDict(json_schema_extra={"examples": [{"object": "list", "data": [PREVIEW_EXAMPLE]}]})


class TrainingState(BaseModel):
    """A training, and what it has come to."""

    id: str = Field(description="Id of the training, which is that of its job.")
    object: str = Field("training", description="Always `training`.")
    status: JobStatus = Field(description="Where its job stands; succeeded, failed and canceled are final.")
    model: str | None = Field(description="The model that it makes; may be deleted by now.")
    model_name: str | None = Field(description="How that is called; null when it was deleted.")
    dataset: str | None = Field(description="What it learns from.")
    request: dict[str, Any] = Field(description="What was asked for, with every default filled in.")
    progress: Progress
    newest: Point | None = Field(description="The newest point of its learning curves; null before the first.")
    best: Checkpoint | None = Field(description="The best checkpoint by FD-domain; null where none was measured.")
    created_at: datetime = Field(description="When it was asked for.")
    finished_at: datetime | None = Field(description="When it ended.")
    links: dict[str, str] = Field(description="Paths of what belongs to it.")

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    @classmethod
    def of(cls, session: Session, job: records.Job) -> TrainingState:
        """The rows as clients see them."""
        here, model_id = f"/v1/trainings/{job.id}", job.model_id or ""
        model = session.get(records.Model, model_id)
        newest = curves.newest_point(session, model_id)
        best = [one for one in _checkpoints(session, model, model_id) if one.best]
        links = {"self": here, "job": f"/v1/jobs/{job.id}", "events": f"/v1/jobs/{job.id}/events"}
        links |= {name: f"{here}/{name}" for name in ("metrics", "previews", "checkpoints")}
        if model is not None:
            links["model"] = f"/v1/models/{model.id}"
        return cls(
            id=job.id,
            status=job.status,
            model=job.model_id,
            model_name=model.name if model is not None else None,
            dataset=job.dataset_id,
            request=job.request,
            progress=progress_of(job),
            newest=Point.of(newest) if newest is not None else None,
            best=best[0] if best else None,
            created_at=job.created_at,
            finished_at=job.finished_at,
            links=links,
        )


class TrainingPage(Page[TrainingState]):
    """One page of trainings."""

    model_config = ConfigDict(json_schema_extra=example_page(EXAMPLE))


@router.get("", summary="List trainings", operation_id="list_trainings")
def list_trainings(caller: MayRead, resources: Attached, after: AfterJob = None, limit: Limit = 20) -> TrainingPage:
    """Trainings, newest first, those that have ended too."""
    with resources.database.snapshot() as session:
        trainings = caller.seen(select(records.Job), records.Job).where(records.Job.kind == JobKind.TRAIN)
        rows, more = newest_first(session, trainings, records.Job.id, "job", after=after, limit=limit)
        return TrainingPage(data=[TrainingState.of(session, job) for job in rows], has_more=more)


@router.get("/{training_id}", summary="Show a training", operation_id="get_training")
def get_training(caller: MayRead, resources: Attached, training_id: TrainingId) -> TrainingState:
    """One training, with its newest numbers and its best checkpoint."""
    with resources.database.snapshot() as session:
        return TrainingState.of(session, find(session, caller, training_id))


@router.get("/{training_id}/metrics", summary="Get a training's learning curves", operation_id="get_training_metrics")
def get_metrics(caller: MayRead, resources: Attached, training_id: TrainingId, points: PointsWanted = 500) -> Curves:
    """Losses, gauges, scores and speed over the images seen, also while the training goes on."""
    with resources.database.snapshot() as session:
        return read_curves(session, find(session, caller, training_id).model_id or "", points)


@router.get("/{training_id}/previews", summary="List a training's previews", operation_id="list_training_previews")
def list_previews(caller: MayRead, resources: Attached, training_id: TrainingId) -> Previews:
    """Grids of pictures from the same seeds, from the first to the newest: one sees it learn."""
    with resources.database.snapshot() as session:
        job = find(session, caller, training_id)
        return Previews(
            data=[
                Preview(
                    images_seen=row.images_seen,
                    url=f"/v1/trainings/{job.id}/previews/{row.images_seen}",
                    created_at=row.created_at,
                )
                for row in kept.read_previews(session, job.model_id or "")
            ]
        )


@router.get(
    "/{training_id}/previews/{images_seen}",
    summary="Get one of a training's previews",
    operation_id="get_training_preview",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The PNG."}, 304: {"description": "Not modified."}},
)
def get_preview(
    caller: MayRead,
    resources: Attached,
    training_id: TrainingId,
    images_seen: ImagesSeen,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The grid of that moment, as long as it is kept."""
    with resources.database.snapshot() as session:
        row = session.get(records.TrainingPreview, (find(session, caller, training_id).model_id or "", images_seen))
        key = row.blob if row is not None else None
    missing = NotFound(
        f"{training_id} has kept no preview of {images_seen:,} images",
        code="preview_not_found",
        parameter="images_seen",
        remedy=f"GET /v1/trainings/{training_id}/previews lists those that are kept",
    )
    if key is None:
        raise missing
    etag, headers = etag_of(key.encode()), {"Cache-Control": IMMUTABLE}  # each has a key of its own
    if has_it(if_none_match, etag):
        return not_modified(etag, headers)
    try:
        content = resources.blobs.get(key)
    except BlobNotFound:
        raise missing from None  # thinned away just now
    return Response(content, media_type="image/png", headers={**headers, "ETag": etag})


@router.get(
    "/{training_id}/checkpoints", summary="List a training's checkpoints", operation_id="list_training_checkpoints"
)
def list_checkpoints(caller: MayRead, resources: Attached, training_id: TrainingId) -> Checkpoints:
    """Weights that the training has kept, with what they scored."""
    with resources.database.snapshot() as session:
        model_id = find(session, caller, training_id).model_id or ""
        return Checkpoints(data=_checkpoints(session, session.get(records.Model, model_id), model_id))


@router.post(
    "/{training_id}/checkpoints/{images_seen}/promote",
    summary="Let the model be one of its checkpoints",
    operation_id="promote_checkpoint",
)
def promote_checkpoint(
    caller: MayTrain, resources: Attached, training_id: TrainingId, images_seen: ImagesSeen
) -> Model:
    """The model samples from these weights from now on, also while its training goes on. Promoting the newest checkpoint of
    a training that goes on lets the model follow it again.
    """
    with resources.database.transaction() as session:
        job = find(session, caller, training_id)
        model = find_model(session, caller, job.model_id or "", locked=True, parameter="training_id")
        rows = kept.read_checkpoints(session, model.id)
        chosen = [row for row in rows if row.images_seen == images_seen]
        if not chosen:
            raise NotFound(
                f"{training_id} has kept no checkpoint of {images_seen:,} images",
                code="checkpoint_not_found",
                parameter="images_seen",
                remedy=f"GET /v1/trainings/{training_id}/checkpoints lists those that are kept",
            )
        kept.promote(model, chosen[0], follow=chosen[0] is rows[-1] and job.status not in jobs.ENDED)
        return Model.of(model)


def find(session: Session, caller: Caller, training_id: str) -> records.Job:
    """Return the job of a training, by its id or its model's.

    Raises:
        NotFound: there is none that the caller may see.
    """
    job = session.get(records.Job, training_id)
    if job is None:
        of_model = caller.seen(select(records.Job), records.Job).where(
            records.Job.model_id == training_id, records.Job.kind == JobKind.TRAIN
        )
        job = session.scalars(of_model.order_by(records.Job.id.desc()).limit(1)).first()
    if job is None or not caller.sees(job) or job.kind is not JobKind.TRAIN:
        raise NotFound(
            f"there is no training {training_id}",
            code="training_not_found",
            parameter="training_id",
            remedy="GET /v1/trainings lists the trainings that there are",
        )
    return job


def _checkpoints(session: Session, model: records.Model | None, model_id: str) -> list[Checkpoint]:
    rows = kept.read_checkpoints(session, model_id)
    best = kept.best(rows)
    return [
        Checkpoint(
            images_seen=row.images_seen,
            scores=row.scores,
            current=model is not None and row.blob == model.checkpoint,
            best=row is best,
            created_at=row.created_at,
        )
        for row in rows
    ]
