"""Trainings: from a data set to a model."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.auth import Caller, MayTrain
from app.datasets import find as find_dataset
from app.dependencies import NO_NULL, Attached, IdempotencyKey
from app.errors import DatasetNotReady, InvalidParameter, ModelNotReady, NotFound
from app.jobs import Job
from app.models import find as find_model
from app.quotas import Wish
from app.refusals import refusals
from app.submissions import ACCEPTED, Idempotency, accepted, submit
from app.values import Flag, Integer, Number
from app.webhooks import AskedWebhook
from models import catalog
from models.catalog import Kind, TrainOptions
from store import jobs, records
from store.identifiers import new_id
from store.records import Dataset, DatasetStatus, JobKind

ROUTE = "/v1/trainings"
DEFAULT_SECONDS = 600.0  # a budget in seconds suits any machine; ten minutes show something on every one

PASSED_ON = {"patience", "on_trouble", "stop_on_memorising", "init_from", "held_out", "promote_best"}  # as they came

router = APIRouter(prefix=ROUTE, tags=["trainings"])


class Budget(BaseModel):
    """How long to train: give exactly one."""

    images: Integer | None = Field(
        None, ge=1, le=catalog.MAX_BUDGET_IMAGES, description="Images to learn from, repetitions counted."
    )
    seconds: Number | None = Field(
        None, ge=1, le=catalog.MAX_BUDGET_S, allow_inf_nan=False, description="Seconds of training, pauses not counted."
    )

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"images": 200_000}, {"seconds": 600}],
            "oneOf": [
                {"required": ["images"], "properties": {"images": {"type": "integer"}}},
                {"required": ["seconds"], "properties": {"seconds": {"type": "number"}}},
            ],
        },
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Budget:
        if (self.images is None) == (self.seconds is None):
            raise ValueError("give exactly one of images and seconds")
        return self

    @property
    def total(self) -> float:
        """The budget in its unit."""
        return float(self.images if self.images is not None else self.seconds or 0)

    @property
    def unit(self) -> str:
        """What is counted."""
        return "images" if self.images is not None else "seconds"


class Training(BaseModel):
    """What to train, on what, for how long."""

    dataset: str = Field(pattern=NO_NULL, description="Id of a data set that is ready.")
    kind: str = Field(
        catalog.AUTO,
        description="What to train; GET /v1/kinds lists the kinds. `auto`: chosen by data, device and budget when the training "
        "begins; `options` then takes those that every kind has.",
    )
    preset: str | None = Field(
        None, description="Options of the kind that go together, by name; `options` take precedence. Default: none."
    )
    name: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=NO_NULL,
        description="What to call the model. Default: made of data set and kind.",
    )
    resolution: Integer | None = Field(
        None, description="Side of the squares to make, in pixels. Default: the largest that data set and kind allow."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="The kind's own options; what is left out has the kind's default."
    )
    budget: Budget = Field(default_factory=lambda: Budget(seconds=DEFAULT_SECONDS), description="Default: 600 seconds.")
    seed: Integer | None = Field(
        None,
        ge=0,
        le=catalog.MAX_SEED,
        description="Of everything random. Default: a random one, in the job's `request`.",
    )
    patience: Integer | None = Field(
        None,
        ge=1,
        le=catalog.MAX_PATIENCE,
        description="End before the budget does, when so many measurements in a row found no better FD-domain. Default: never.",
    )
    on_trouble: catalog.OnTrouble = Field(
        "note",
        description="What to do about collapse, overfitting or losses that are not finite: note them in the model's metrics, "
        "stop, or rollback: go back to the last healthy checkpoint and on with one remedy more, at most three times.",
    )
    init_from: str | None = Field(
        None,
        pattern=NO_NULL,
        description="Id of a model to begin with: its kind, resolution and options, where nothing else is asked for, and its "
        "weights as they are now. It may be deleted once the training has its first checkpoint. Default: fresh weights.",
    )
    stop_on_memorising: Flag | None = Field(
        None,
        description="End at the last healthy checkpoint when pictures repeat training pictures. Default: with `init_from`.",
    )
    held_out: Number = Field(
        0.0,
        ge=0,
        le=catalog.MAX_HELD_OUT,
        allow_inf_nan=False,
        description="Share of the pictures that are not learned from, so that overfitting can be told for certain.",
    )
    promote_best: Flag = Field(
        True,
        description="At the end, let the model be its best checkpoint by FD-domain, where that is clearly better; "
        "false: the newest.",
    )
    webhook: AskedWebhook = None

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "dataset": "ds_019ad3a8c0de7c3f8f4d2b6a10c5e7f1",
                    "kind": "gan-dcgan",
                    "name": "my digits",
                    "resolution": 32,
                    "options": {"batch_size": 64},
                    "budget": {"images": 200_000},
                    "seed": 0,
                }
            ]
        },
    )


@router.post(
    "",
    summary="Train a model",
    operation_id="create_training",
    status_code=202,
    response_model=Job,
    responses={**ACCEPTED, **refusals(NotFound, DatasetNotReady, ModelNotReady)},
)
def create_training(caller: MayTrain, resources: Attached, body: Training, idempotency_key: IdempotencyKey) -> Response:
    """Starts a training. The answer is its job; the job's `model` can generate as soon as it has its first checkpoint."""
    seed = body.seed if body.seed is not None else secrets.randbelow(catalog.MAX_SEED + 1)
    idempotency = Idempotency.of(caller, ROUTE, idempotency_key, body)

    def create(session: Session) -> records.Job:
        # Locked, so that neither is deleted between this check and the job that needs it.
        source = _source(session, caller, body.init_from)
        kind, options = _asked(body, source)
        is_open = kind.name == catalog.AUTO  # the worker fills in what is not asked for
        dataset = find_dataset(session, caller, body.dataset, locked=True, parameter="/dataset")
        resolution, channels = _fitting(dataset, kind, body.resolution if source is None else source.resolution)
        if source is not None:
            _check_pictures(source, body.resolution, channels)
        now = resources.database.now(session)
        model = records.Model(
            id=new_id("mdl"),
            account=caller.account,
            name=body.name or f"{dataset.name[:160]} ({'' if is_open else f'{kind.name}, '}{resolution} px)",
            kind=kind.name,
            created_at=now,
            dataset_id=dataset.id,
            dataset_name=dataset.name,
            resolution=resolution,
            channels=channels,
            classes=_classes(dataset, kind, options),
            options=options.model_dump(mode="json", exclude_unset=is_open),
            seed=seed,
            init_from=None
            if source is None
            else {"model": source.id, "name": source.name, "images_seen": source.images_seen},
        )
        session.add(model)
        request = {
            "kind": kind.name,
            "resolution": resolution,
            "options": model.options,
            "budget": body.budget.model_dump(exclude_none=True),
            "seed": seed,
            **body.model_dump(include=PASSED_ON, exclude_defaults=True),
        }
        return jobs.submit(
            session,
            JobKind.TRAIN,
            request,
            now=now,
            dataset_id=dataset.id,
            model_id=model.id,
            checkpoint=source.checkpoint if source is not None else None,
            total=body.budget.total,
            unit=body.budget.unit,
            idempotency=idempotency.columns if idempotency else None,
            account=caller.account,
        )

    job, _ = submit(resources, idempotency, create, Wish(caller, JobKind.TRAIN), webhook=body.webhook)
    return accepted(Job.of(job))


def _source(session: Session, caller: Caller, model_id: str | None) -> records.Model | None:
    """The model to begin with, locked; None where none is named."""
    if model_id is None:
        return None
    source = find_model(session, caller, model_id, locked=True, parameter="/init_from")
    if source.checkpoint is None:
        raise ModelNotReady(
            f"the model {source.id} has no weights to begin with yet, it is {source.status.value}",
            parameter="/init_from",
            remedy="wait for its training's first checkpoint: `can_generate` of GET /v1/models/{id} is true then",
            more={"model_status": source.status.value},
        )
    return source


def _asked(body: Training, source: records.Model | None) -> tuple[Kind, TrainOptions]:
    """The kind and the options that are asked for; of a model to begin with, those that it has."""
    wanted = catalog.wanted(body.kind)
    if source is None:
        return wanted, catalog.parse_options(body.kind, body.options, body.preset)
    if wanted.name not in (catalog.AUTO, source.kind):
        raise InvalidParameter(
            f"kind: {wanted.name} cannot begin with the weights of {source.id}, a {source.kind}",
            parameter="/kind",
            remedy="leave the kind out, or leave init_from out",
        )
    options = catalog.inherited_options(body.kind, body.options, source.kind, source.options, preset=body.preset)
    return catalog.kind(source.kind), options


def _check_pictures(source: records.Model, resolution: int | None, channels: int) -> None:
    """Refuse pictures of another size or colour than those of the model to begin with."""
    if resolution not in (None, source.resolution):
        raise InvalidParameter(
            f"resolution: {resolution} px asked for, but the model to begin with makes {source.resolution} px",
            parameter="/resolution",
            remedy="leave it out, or leave init_from out",
        )
    if channels != source.channels:
        raise InvalidParameter(
            f"init_from: {source.id} makes pictures of {source.channels} channels, the data set has {channels}",
            parameter="/init_from",
            remedy=f"import the pictures again with channels {source.channels}, or leave init_from out",
        )


def _fitting(dataset: Dataset, kind: Kind, wanted: int | None) -> tuple[int, int]:
    """Return resolution and channels of the training, or say why there is none."""
    if dataset.status is not DatasetStatus.READY or dataset.resolution is None or dataset.channels is None:
        remedy = (
            "wait for its import job to end"
            if dataset.status is DatasetStatus.IMPORTING
            else "import the pictures again"
        )
        raise DatasetNotReady(
            f"the data set {dataset.id} is {dataset.status.value}",
            parameter="/dataset",
            remedy=remedy,
            more={"dataset_status": dataset.status.value},
        )
    if dataset.channels not in kind.channels:
        raise InvalidParameter(
            f"kind: {kind.name} makes pictures of {_listed(kind.channels)} channels, the data set has {dataset.channels}",
            parameter="/kind",
            remedy=f"import the pictures again with channels {kind.channels[0]}",
        )
    if wanted is not None and wanted not in kind.resolutions:
        raise InvalidParameter(
            f"resolution: {kind.name} makes {_listed(kind.resolutions)} px, not {wanted}",
            parameter="/resolution",
            remedy=f"choose one of {_listed(kind.resolutions)}",
            more={"bounds": f"one of: {_listed(kind.resolutions)}"},
        )
    resolution = wanted or max((side for side in kind.resolutions if side <= dataset.resolution), default=None)
    if resolution is None or resolution > dataset.resolution:
        needed = resolution or min(kind.resolutions)
        raise InvalidParameter(
            f"resolution: {needed} px is more than the {dataset.resolution} px that the data set was prepared at",
            parameter="/resolution",
            remedy=f"import the pictures again with resolution {needed}, or choose a smaller one here",
            more={"bounds": f"at most {dataset.resolution}"},
        )
    return resolution, dataset.channels


def _classes(dataset: Dataset, kind: Kind, options: TrainOptions) -> list[str] | None:
    """Names of the classes that the model will know; None when it learns none."""
    wish: bool | None = getattr(options, "conditional", None)
    if dataset.classes is None:
        if wish:
            raise InvalidParameter(
                f"options.conditional: the data set {dataset.id} has no labels",
                parameter="/options/conditional",
                remedy="leave it out, or import the pictures again with one folder for each class",
            )
        return None
    if wish is False or "conditional" not in kind.abilities:
        return None
    return [one["name"] for one in dataset.classes]


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
