"""Models: trained generators, and those still learning."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Table, bindparam, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.auth import Caller, MayRead, MayTrain
from app.caching import REVALIDATE, etag_of, has_it, not_modified
from app.datasets import refuse_if_in_use
from app.dependencies import AfterModel, Attached, IfNoneMatch, Limit, ModelId
from app.errors import InUse, NotFound
from app.pages import Page, example_page, newest_first
from app.refusals import refusals
from store import jobs, records
from store.database import core
from store.errors import BlobNotFound
from store.records import ModelStatus
from store.removal import delete_blobs
from store.resources import Resources

router = APIRouter(prefix="/v1/models", tags=["models"])

_MODEL = cast(Table, records.Model.__table__).c
# Columns, not a record, by a statement that is built once: generations ask for it many times a second.
WEIGHTS = (
    select(_MODEL.id, _MODEL.account, _MODEL.status, _MODEL.checkpoint, _MODEL.classes)
    .where(_MODEL.id == bindparam("model_id"))
    .with_for_update()
)

EXAMPLE: dict[str, Any] = {
    "id": "mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d",
    "object": "model",
    "name": "digits (gan-dcgan, 32 px)",
    "kind": "gan-dcgan",
    "status": "ready",
    "created_at": "2026-01-05T12:00:00Z",
    "dataset": "ds_019ad3a8c0de7c3f8f4d2b6a10c5e7f1",
    "dataset_name": "digits",
    "resolution": 32,
    "channels": 1,
    "classes": ["0", "1", "2", "3"],
    "options": {"batch_size": 64, "latent_dim": 100},
    "seed": 0,
    "images_seen": 120000,
    "init_from": None,
    "promoted": None,
    "metrics": {"losses": {"D": 0.71, "G": 1.9}, "images_per_s": 1210.5},
    "can_generate": True,
    "preview": "/v1/models/mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d/preview",
    "links": {
        "self": "/v1/models/mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d",
        "jobs": "/v1/jobs?model=mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d",
        "images": "/v1/images?model=mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d",
    },
}


class Model(BaseModel):
    """A generator."""

    id: str = Field(description="Id of the model.")
    object: str = Field("model", description="Always `model`.")
    name: str = Field(description="What people call it.")
    kind: str = Field(description="How it was trained; GET /v1/kinds describes it.")
    status: ModelStatus = Field(description="Whether it is still learning.")
    created_at: datetime = Field(description="When its training was asked for.")
    dataset: str | None = Field(description="What it learned from; may be deleted by now.")
    dataset_name: str | None = Field(description="How that was called.")
    resolution: int = Field(description="Side of the squares it makes, in pixels.")
    channels: int = Field(description="1 for grey, 3 for RGB.")
    classes: list[str] | None = Field(description="Labels that can be asked for, by index; null when it knows none.")
    options: dict[str, Any] = Field(description="The options of its training, with every default filled in.")
    seed: int = Field(description="The seed of its training.")
    images_seen: int = Field(description="Images that its weights have learned from.")
    init_from: dict[str, Any] | None = Field(
        description="What its training began with: `model`, `name` and `images_seen` of another model, as they were then; null "
        "where that was fresh weights."
    )
    promoted: int | None = Field(
        description="`images_seen` of the checkpoint that was chosen, by hand or at the end of the training as the best; null "
        "while it is the newest."
    )
    metrics: dict[str, Any] = Field(
        description="The last losses, gauges, scores and troubles, the training's speed, notes on what was done about "
        "troubles, and as `evaluation` the last measuring of it."
    )
    can_generate: bool = Field(description="Whether it has weights yet; also true while it is still learning.")
    preview: str | None = Field(
        description="Path of the newest grid of pictures from fixed seeds; null before the first."
    )
    links: dict[str, str] = Field(description="Paths of what belongs to it.")

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    @classmethod
    def of(cls, model: records.Model) -> Model:
        """The row as clients see it."""
        here = f"/v1/models/{model.id}"
        return cls(
            id=model.id,
            name=model.name,
            kind=model.kind,
            status=model.status,
            created_at=model.created_at,
            dataset=model.dataset_id,
            dataset_name=model.dataset_name,
            resolution=model.resolution,
            channels=model.channels,
            classes=model.classes,
            options=model.options,
            seed=model.seed,
            images_seen=model.images_seen,
            init_from=model.init_from,
            promoted=model.promoted,
            metrics=model.metrics,
            can_generate=model.checkpoint is not None,
            preview=f"{here}/preview" if model.preview is not None else None,
            links={"self": here, "jobs": f"/v1/jobs?model={model.id}", "images": f"/v1/images?model={model.id}"},
        )


class ModelPage(Page[Model]):
    """One page of models."""

    model_config = ConfigDict(json_schema_extra=example_page(EXAMPLE))


@router.get("", summary="List models", operation_id="list_models")
def list_models(caller: MayRead, resources: Attached, after: AfterModel = None, limit: Limit = 20) -> ModelPage:
    """Models, newest first."""
    with resources.database.snapshot() as session:
        rows, more = newest_first(
            session,
            caller.seen(select(records.Model), records.Model),
            records.Model.id,
            "mdl",
            after=after,
            limit=limit,
        )
        return ModelPage(data=[Model.of(model) for model in rows], has_more=more)


@router.get("/{model_id}", summary="Show a model", operation_id="get_model")
def get_model(caller: MayRead, resources: Attached, model_id: ModelId) -> Model:
    """One model."""
    with resources.database.snapshot() as session:
        return Model.of(find(session, caller, model_id))


@router.delete(
    "/{model_id}",
    summary="Delete a model",
    operation_id="delete_model",
    status_code=204,
    responses=refusals(InUse),
)
def delete_model(caller: MayTrain, resources: Attached, model_id: ModelId) -> None:
    """Deletes its weights for good; the images that it made stay. Refused while a job needs it."""
    with resources.database.transaction() as session:
        model = find(session, caller, model_id, locked=True)
        refuse_if_in_use(session, jobs.needs_model(model_id), f"the model {model_id}", "model_id")
        session.delete(model)
    delete_blobs(resources.blobs, [f"models/{model_id}"])
    shutil.rmtree(resources.settings.resolved_tensorboard_dir / model_id, ignore_errors=True)


@router.head("/{model_id}/preview", include_in_schema=False)
@router.get(
    "/{model_id}/preview",
    summary="Get a model's newest preview",
    operation_id="get_model_preview",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The PNG."}, 304: {"description": "Not modified."}},
)
def get_preview(caller: MayRead, resources: Attached, model_id: ModelId, if_none_match: IfNoneMatch = None) -> Response:
    """A grid of pictures from fixed seeds, so that two previews of one training can be compared."""
    try:
        return _preview(resources, caller, model_id, if_none_match)
    except BlobNotFound:
        return _preview(resources, caller, model_id, if_none_match)  # a newer one took its place just now


def _preview(resources: Resources, caller: Caller, model_id: str, if_none_match: str | None) -> Response:
    with resources.database.snapshot() as session:
        key = find(session, caller, model_id).preview
    if key is None:
        raise NotFound(
            f"{model_id} has no preview yet",
            code="preview_not_found",
            parameter="model_id",
            remedy="the training makes the first one soon after its start",
        )
    etag, headers = etag_of(key.encode()), {"Cache-Control": REVALIDATE}  # each preview has a key of its own
    if has_it(if_none_match, etag):
        return not_modified(etag, headers)
    return Response(resources.blobs.get(key), media_type="image/png", headers={**headers, "ETag": etag})


@dataclass(frozen=True)
class Weights:
    """What a generation needs to know of a model."""

    id: str  # of the model
    account: str
    status: ModelStatus
    checkpoint: str | None  # None: there are none yet
    classes: list[str] | None  # that can be asked for; None: it knows none


def find(
    session: Session, caller: Caller, model_id: str, *, locked: bool = False, parameter: str = "model_id"
) -> records.Model:
    """Return the row, until the transaction ends nobody else's where it is locked.

    Raises:
        NotFound: there is none that the caller may see.
    """
    model = session.get(records.Model, model_id, with_for_update=True if locked else None)
    if model is None or not caller.sees(model):
        raise _not_found(model_id, parameter)
    return model


def find_weights(session: Session, caller: Caller, model_id: str, *, parameter: str) -> Weights:
    """Return a model's weights, until the transaction ends nobody else's; they are looked up once in a transaction.

    Raises:
        NotFound: there is no such model that the caller may see.
    """
    found: dict[str, Weights] = session.info.setdefault("weights", {})  # a session is one transaction
    weights = found.get(model_id)
    if weights is None and (row := core(session).execute(WEIGHTS, {"model_id": model_id}).first()) is not None:
        weights = found[model_id] = Weights(*row)
    if weights is None or not caller.sees(weights):
        raise _not_found(model_id, parameter)
    return weights


def _not_found(model_id: str, parameter: str) -> NotFound:
    return NotFound(
        f"there is no model {model_id}",
        code="model_not_found",
        parameter=parameter,
        remedy="GET /v1/models lists the models that there are",
    )
