"""Bringing a model in: the zip of a native export becomes a job that checks it and adds the model."""

from __future__ import annotations

from typing import Final

import anyio.to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.responses import Response

from app import uploads
from app.auth import Caller, MayTrain
from app.dependencies import NO_NULL, Attached, IdempotencyKey
from app.errors import CrossSite, Forbidden, UnsupportedMedia
from app.forms import FormWebhook, checked, media_type_of, typed
from app.jobs import Job
from app.quotas import Wish
from app.refusals import refusals
from app.submissions import ACCEPTED, Idempotency, accept_upload, submit
from app.webhooks import AskedWebhook
from store import jobs, records
from store.identifiers import new_id
from store.records import JobKind
from store.resources import Resources

PATH: Final = "/v1/models"
PICKLE = b"\x80"  # how pickles of protocol 2 and later begin, PyTorch's old files among them
ZIP_ENTRY, NAME_BYTES_AT, NAME_AT = b"PK\x03\x04", 26, 30  # of a zip's first entry
REMEDY = (
    "send the zip of a native export (POST /v1/models/{id}/exports, darkroom export --format native); a netG.pth of the "
    "PyTorch DCGAN example becomes one offline: python -m models import-dcgan netG.pth DIR, then zip the two files in DIR"
)

router = APIRouter(prefix=PATH, tags=["models"])


class ModelOptions(BaseModel):
    """The text fields of an uploaded model."""

    name: str | None = Field(
        None, min_length=1, max_length=200, pattern=NO_NULL, description="What to call it. Default: the file's name."
    )
    webhook: AskedWebhook = None

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "digits"}]})


class ModelForm(ModelOptions):
    """A native export: a zip of a generator's card (JSON) and weights (safetensors)."""

    file: str = Field(json_schema_extra={"format": "binary"}, description="The zip.")
    webhook: FormWebhook = None  # type: ignore[assignment]

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"file": "(the bytes of digits.zip)", "name": "digits"}]}
    )


@router.post(
    "",
    summary="Upload a model",
    operation_id="create_model",
    status_code=202,
    response_model=Job,
    responses={**ACCEPTED, **refusals(CrossSite, Forbidden)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/ModelForm"}}},
        }
    },
)
async def create_model(
    caller: MayTrain, request: Request, resources: Attached, idempotency_key: IdempotencyKey
) -> Response:
    """Send the zip of a native export. The job checks it and tries it out; its `model` is the new model's id. Pickles, such as
    PyTorch's `.pt` and `.pth`, are refused: to read one is to run it.
    """
    media_type = media_type_of(request)
    if media_type != "multipart/form-data":
        raise UnsupportedMedia(
            f"Content-Type is {media_type or 'missing'}",
            parameter="Content-Type",
            remedy="send the zip as multipart/form-data",
        )
    model_id = new_id("mdl")
    blob = f"uploads/{model_id}.zip"
    upload = await uploads.receive(
        request,
        resources.blobs,
        blob,
        fields=ModelOptions.model_fields,
        limit_bytes=resources.settings.max_upload_bytes,
        check=check_export,
    )
    return await anyio.to_thread.run_sync(_submit, resources, caller, upload, model_id, blob, idempotency_key)


def check_export(head: bytes, filename: str) -> None:
    """Raise UnsupportedMedia unless a file begins as a native export may; what it is called does not matter."""
    if head.startswith(ZIP_ENTRY):
        length = int.from_bytes(head[NAME_BYTES_AT : NAME_BYTES_AT + 2], "little")
        if not head[NAME_AT : NAME_AT + length].endswith(b".pkl"):
            return
    what = (
        "a pickle, which can run any code when it is read"
        if head.startswith((PICKLE, ZIP_ENTRY))
        else "no native export"
    )
    raise UnsupportedMedia(f"{uploads.FILE}: {filename[:100]!r} is {what}", parameter=uploads.FILE, remedy=REMEDY)


def _submit(
    resources: Resources, caller: Caller, upload: uploads.Upload, model_id: str, blob: str, key: str | None
) -> Response:
    def make() -> tuple[records.Job, bool]:
        idempotency = Idempotency.of(caller, PATH, key, upload.content)
        options = checked(ModelOptions, typed(upload.fields))
        name = options.name or upload.stem or "upload"

        def create(session: Session) -> records.Job:
            return jobs.submit(
                session,
                JobKind.IMPORT_MODEL,
                {"source": {"blob": blob}, "name": name},
                now=resources.database.now(session),
                model_id=model_id,
                total=1,
                unit="files",
                idempotency=idempotency.columns if idempotency else None,
                account=caller.account,
            )

        wish = Wish(caller, JobKind.IMPORT_MODEL, size_bytes=upload.size_bytes)
        return submit(resources, idempotency, create, wish, webhook=options.webhook)

    return accept_upload(resources, blob, make)
