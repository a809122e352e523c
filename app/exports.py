"""Exports: a model as a file that runs elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.responses import Response, StreamingResponse

from app.auth import Caller, MayRead, MayTrain
from app.caching import REVALIDATE, has_it, not_modified
from app.dependencies import Attached, IdempotencyKey, IfNoneMatch, ModelId
from app.errors import ModelNotReady, NotFound
from app.jobs import Job
from app.models import find as find_model
from app.quotas import Wish
from app.refusals import refusals
from app.submissions import ACCEPTED, Idempotency, accepted, submit
from app.webhooks import AskedWebhook
from models.catalog import ExportFormat
from store import jobs, records
from store.errors import BlobNotFound
from store.exports import export_key, newest_exports
from store.records import JobKind
from store.resources import Resources

CHUNK_BYTES = 2**20

router = APIRouter(prefix="/v1/models/{model_id}/exports", tags=["exports"])


class Export(BaseModel):
    """How to hand a model on."""

    format: ExportFormat = Field(
        description="`onnx` runs without PyTorch, `torch-export` without Darkroom, `native` is what Darkroom itself loads."
    )
    webhook: AskedWebhook = None

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"format": "onnx"}]})


@router.post(
    "",
    summary="Export a model",
    operation_id="create_export",
    status_code=202,
    response_model=Job,
    responses={**ACCEPTED, **refusals(ModelNotReady)},
)
def create_export(
    caller: MayTrain, resources: Attached, model_id: ModelId, idempotency_key: IdempotencyKey, body: Export
) -> Response:
    """Writes the model's newest weights in another form, and compares its pictures with the model's own before it is kept.
    The job's `result` holds the path of the file, its size and hash.
    """
    idempotency = Idempotency.of(caller, f"/v1/models/{model_id}/exports", idempotency_key, body)

    def create(session: Session) -> records.Job:
        # Locked, so that it is not deleted between this check and the job that needs it.
        model = find_model(session, caller, model_id, locked=True)
        if model.checkpoint is None:
            raise ModelNotReady(
                f"the model {model.id} has no weights yet, it is {model.status.value}",
                parameter="model_id",
                remedy="wait for the training's first checkpoint: `can_generate` of GET /v1/models/{id} is true then",
                more={"model_status": model.status.value},
            )
        return jobs.submit(
            session,
            JobKind.EXPORT,
            {"format": body.format.value},
            now=resources.database.now(session),
            model_id=model.id,
            checkpoint=model.checkpoint,
            total=1,
            unit="files",
            idempotency=idempotency.columns if idempotency else None,
            account=caller.account,
        )

    job, _ = submit(resources, idempotency, create, Wish(caller, JobKind.EXPORT), webhook=body.webhook)
    return accepted(Job.of(job))


@router.head("/{format}", include_in_schema=False)
@router.get(
    "/{format}",
    summary="Get a model's newest export",
    operation_id="get_export",
    response_class=Response,
    responses={
        200: {"content": {"application/zip": {}}, "description": "The zip."},
        304: {"description": "Not modified."},
    },
)
def get_export(
    caller: MayRead,
    resources: Attached,
    model_id: ModelId,
    form: Annotated[ExportFormat, Path(alias="format", description="What the model was exported as.")],
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The zip that the last export in this format wrote. docs/exports.md says how to use what is in it."""
    try:
        return _zip(resources, caller, model_id, form, if_none_match)
    except BlobNotFound:
        return _zip(resources, caller, model_id, form, if_none_match)  # a newer one took its place just now


def _zip(
    resources: Resources, caller: Caller, model_id: str, form: ExportFormat, if_none_match: str | None
) -> Response:
    with resources.database.snapshot() as session:
        find_model(session, caller, model_id)
        job = newest_exports(session, model_id).get(form.value)
    if job is None or job.result is None:
        raise NotFound(
            f"{model_id} has not been exported as {form.value} yet",
            code="export_not_found",
            parameter="format",
            remedy=f"POST /v1/models/{model_id}/exports first, and wait for its job to end",
        )
    key = export_key(model_id, job.id, job.fence)
    headers = {"Cache-Control": REVALIDATE, "ETag": f'"{job.result["sha256"]}"'}
    if has_it(if_none_match, headers["ETag"]):
        return not_modified(headers["ETag"], headers)
    headers["Content-Length"] = str(resources.blobs.size(key))
    headers["Content-Disposition"] = f'attachment; filename="{model_id}-{form.value}.zip"'
    return StreamingResponse(_chunks(resources, key), media_type="application/zip", headers=headers)


def _chunks(resources: Resources, key: str) -> Iterator[bytes]:
    with resources.blobs.reader(key) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
