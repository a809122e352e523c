"""Evaluations: how good a model is, by pictures that are real."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.auth import Caller, MayRead, MayTrain
from app.caching import REVALIDATE, etag_of, has_it, not_modified
from app.datasets import find as find_dataset
from app.dependencies import NO_NULL, Attached, IdempotencyKey, IfNoneMatch, JobId
from app.errors import DatasetNotReady, InvalidParameter, ModelNotReady, NotFound
from app.jobs import Job
from app.models import find as find_model
from app.quotas import Wish
from app.refusals import refusals
from app.submissions import ACCEPTED, Idempotency, accepted, submit
from app.values import Integer
from app.webhooks import AskedWebhook
from models import catalog
from store import jobs, records
from store.errors import BlobNotFound
from store.records import DatasetStatus, JobKind
from store.strips import strips_key

ROUTE = "/v1/evaluations"
DEFAULT_N, LEAST_N, MOST_N = 2000, 50, 50_000

router = APIRouter(prefix=ROUTE, tags=["evaluations"])


class Evaluation(BaseModel):
    """What to measure, and how."""

    model: str = Field(pattern=NO_NULL, description="Id of a model that has weights.")
    dataset: str | None = Field(
        None,
        pattern=NO_NULL,
        description="Pictures to compare with that the model has not seen. Default: a part of those it learned from.",
    )
    n: Integer = Field(
        DEFAULT_N, ge=LEAST_N, le=MOST_N, description="How many pictures to generate and compare; more are surer."
    )
    seed: Integer = Field(
        0,
        ge=0,
        le=catalog.MAX_SEED + 1 - MOST_N,
        description="Of the first picture, the others count up; it decides every random choice of the measures too.",
    )
    webhook: AskedWebhook = None

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"model": "mdl_019ad3a8c0de7c3f8f4d2b6a10c5e7f1", "n": 4000, "seed": 0}]},
    )


@router.post(
    "",
    summary="Measure a model",
    operation_id="create_evaluation",
    status_code=202,
    response_model=Job,
    responses={**ACCEPTED, **refusals(NotFound, DatasetNotReady, ModelNotReady)},
)
def create_evaluation(
    caller: MayTrain, resources: Attached, body: Evaluation, idempotency_key: IdempotencyKey
) -> Response:
    """Compares pictures of the model's newest weights with real ones. The numbers, each with its floor, are the job's
    `result`, and `metrics.evaluation` of the model. The first one for a data set takes longer: a feature extractor learns it.
    """
    idempotency = Idempotency.of(caller, ROUTE, idempotency_key, body)

    def create(session: Session) -> records.Job:
        # Locked, so that nothing is deleted between this check and the job that needs it.
        model = find_model(session, caller, body.model, locked=True, parameter="/model")
        if model.checkpoint is None:
            raise ModelNotReady(
                f"the model {model.id} has no weights yet, it is {model.status.value}",
                parameter="/model",
                remedy="wait for the training's first checkpoint: `can_generate` of GET /v1/models/{id} is true then",
                more={"model_status": model.status.value},
            )
        dataset, against = _datasets(session, caller, model, body.dataset)
        return jobs.submit(
            session,
            JobKind.EVALUATE,
            {"n": body.n, "seed": body.seed, "against": against.id if against is not None else None},
            now=resources.database.now(session),
            dataset_id=dataset.id,
            model_id=model.id,
            checkpoint=model.checkpoint,
            total=100,
            unit="percent",
            idempotency=idempotency.columns if idempotency else None,
            account=caller.account,
        )

    job, _ = submit(resources, idempotency, create, Wish(caller, JobKind.EVALUATE), webhook=body.webhook)
    return accepted(Job.of(job))


@router.head("/{job_id}/strips", include_in_schema=False)
@router.get(
    "/{job_id}/strips",
    summary="Get an evaluation's nearest neighbours",
    operation_id="get_evaluation_strips",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The PNG."}, 304: {"description": "Not modified."}},
)
def get_strips(caller: MayRead, resources: Attached, job_id: JobId, if_none_match: IfNoneMatch = None) -> Response:
    """The generated pictures that lie nearest to training pictures, one a row, each with its nearest training pictures beside
    it: a model that copies is found out by eye. Seeds and file names are the evaluation's `suspects`.
    """
    etag, headers = etag_of(job_id.encode()), {"Cache-Control": REVALIDATE}
    with resources.database.snapshot() as session:
        job = session.get(records.Job, job_id)
        is_there = job is not None and caller.sees(job) and job.kind is JobKind.EVALUATE
        model_id = job.model_id if job is not None and is_there else None
    try:
        if model_id is None:
            raise BlobNotFound(job_id)
        sheet = resources.blobs.get(strips_key(model_id, job_id))
    except BlobNotFound as error:
        raise NotFound(
            f"{job_id} has no strips",
            code="strips_not_found",
            parameter="job_id",
            remedy="name an evaluation that has succeeded, of a model that is still there",
        ) from error
    if has_it(if_none_match, etag):
        return not_modified(etag, headers)
    return Response(sheet, media_type="image/png", headers={**headers, "ETag": etag})


def _datasets(
    session: Session, caller: Caller, model: records.Model, wanted: str | None
) -> tuple[records.Dataset, records.Dataset | None]:
    """The data set whose features are looked at, and the other one that is compared with, if any.

    Features are those of what the model learned from, while that is there: so models of one data set can be compared.
    """
    own = session.get(records.Dataset, model.dataset_id, with_for_update=True) if model.dataset_id else None
    if not caller.sees(own):  # an administrator's model may have learned from what is not its account's
        own = None
    if wanted is None:
        if own is None:
            raise InvalidParameter(
                f"the data set that {model.id} learned from was deleted",
                parameter="/dataset",
                remedy="name another one with pictures of the same sort",
            )
        return _fitting(own, model), None
    other = _fitting(find_dataset(session, caller, wanted, locked=True, parameter="/dataset"), model)
    if own is None or own.id == other.id:
        return other, None
    return _fitting(own, model), other


def _fitting(dataset: records.Dataset, model: records.Model) -> records.Dataset:
    if dataset.status is not DatasetStatus.READY or dataset.resolution is None:
        raise DatasetNotReady(
            f"the data set {dataset.id} is {dataset.status.value}",
            parameter="/dataset",
            remedy="wait for its import job to end, or import the pictures again",
            more={"dataset_status": dataset.status.value},
        )
    if dataset.channels != model.channels or dataset.resolution < model.resolution:
        raise InvalidParameter(
            f"dataset: {dataset.id} has {dataset.resolution} px and {dataset.channels} channels, "
            f"the model makes pictures of {model.resolution} px and {model.channels}",
            parameter="/dataset",
            remedy=f"import it with resolution {model.resolution} and channels {model.channels}",
        )
    return dataset
