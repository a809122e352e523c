"""Bringing pictures in: a zip or a tar by upload, or a path inside the import root; either becomes an import job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.responses import Response

from app import uploads
from app.auth import Caller, MayTrain
from app.dependencies import NO_NULL, Attached, IdempotencyKey
from app.errors import (
    CrossSite,
    Forbidden,
    ImportsDisabled,
    OutsideImportRoot,
    SourceNotFound,
    SourceUnreadable,
    TooLarge,
    UnsupportedMedia,
)
from app.forms import FormWebhook, checked, media_type_of, typed
from app.jobs import Job
from app.middleware import MAX_BODY_BYTES, UPLOAD_PATH
from app.quotas import Wish
from app.refusals import refusals
from app.submissions import ACCEPTED, Idempotency, accept_upload, accepted, submit
from app.values import Integer
from app.webhooks import AskedWebhook, Webhook
from models import catalog
from store import jobs, records
from store.identifiers import new_id
from store.records import JobKind
from store.resources import Resources
from store.settings import PREFIX

router = APIRouter(prefix=UPLOAD_PATH, tags=["datasets"])

SMALLEST_RESOLUTION = min(min(kind.resolutions) for kind in catalog.KINDS.values())
NUMBERS = {"resolution", "channels"}  # fields of the form


class ImportOptions(BaseModel):
    """How pictures become a data set; also the text fields of an upload."""

    name: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=NO_NULL,
        description="What to call it. Default: the file's or folder's name.",
    )
    resolution: Integer | None = Field(
        None,
        ge=SMALLEST_RESOLUTION,
        le=catalog.MAX_RESOLUTION,
        description="Side of the prepared squares in pixels. Default: chosen by the images' size.",
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1 for grey, 3 for RGB. Default: grey when every image is."
    )
    background: str = Field(
        "#ffffff", pattern=r"^#[0-9a-fA-F]{6}$", description="Colour behind transparent pixels, #rrggbb."
    )
    duplicates: catalog.DuplicatePolicy = Field(
        catalog.DuplicatePolicy.KEEP,
        description="Pictures that are there more than once: keep them, drop all but the first of the same file, "
        "or drop near duplicates too. They are reported in any case.",
    )
    webhook: AskedWebhook = None

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "digits", "resolution": 32, "background": "#ffffff"}]}
    )


class ImportByPath(ImportOptions):
    """Pictures that already lie in the import root, a folder on the service's disks."""

    path: str = Field(
        min_length=1,
        max_length=4096,
        description="A folder, zip or tar inside the import root; relative to it, or absolute.",
    )

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"path": "cats-2026", "name": "cats", "resolution": 64}]}
    )


class UploadForm(ImportOptions):
    """An archive of pictures. Folders in it become classes."""

    file: str = Field(
        json_schema_extra={"format": "binary"},
        description="A zip, or a tar: plain, or compressed by gzip, bzip2 or xz.",
    )
    webhook: FormWebhook = None  # type: ignore[assignment]

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"file": "(the bytes of digits.zip)", "name": "digits"}]}
    )


@router.post(
    "",
    summary="Upload or import pictures",
    operation_id="create_dataset",
    status_code=202,
    response_model=Job,
    responses={**ACCEPTED, **refusals(CrossSite, Forbidden)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": {"$ref": "#/components/schemas/UploadForm"}},
                "application/json": {"schema": {"$ref": "#/components/schemas/ImportByPath"}},
            },
        }
    },
)
async def create_dataset(
    caller: MayTrain, request: Request, resources: Attached, idempotency_key: IdempotencyKey
) -> Response:
    """Send a zip or a tar as multipart upload, or name a path inside the import root. Answers with the job that imports it."""
    media_type = media_type_of(request)
    if media_type == "multipart/form-data":
        return await _from_upload(request, resources, caller, idempotency_key)
    if media_type == "application/json":
        body = checked(ImportByPath, await _small_body(request))
        return await anyio.to_thread.run_sync(_from_path, resources, caller, body, idempotency_key)
    raise UnsupportedMedia(
        f"Content-Type is {media_type or 'missing'}",
        parameter="Content-Type",
        remedy="send a zip or a tar as multipart/form-data, or a path as application/json",
    )


async def _from_upload(request: Request, resources: Resources, caller: Caller, key: str | None) -> Response:
    dataset_id = new_id("ds")
    blob = f"uploads/{dataset_id}.zip"
    upload = await uploads.receive(
        request,
        resources.blobs,
        blob,
        fields=ImportOptions.model_fields,
        limit_bytes=resources.settings.max_upload_bytes,
    )
    return await anyio.to_thread.run_sync(_submit_upload, resources, caller, upload, dataset_id, blob, key)


def _submit_upload(
    resources: Resources, caller: Caller, upload: uploads.Upload, dataset_id: str, blob: str, key: str | None
) -> Response:
    def make() -> tuple[records.Job, bool]:
        options = checked(ImportOptions, typed(upload.fields, numbers=NUMBERS))
        name = options.name or upload.stem or "upload"
        return _submit(
            resources,
            caller,
            Idempotency.of(caller, UPLOAD_PATH, key, upload.content),
            dataset_id,
            {"source": {"blob": blob}, **options.model_dump(exclude={"webhook"}), "name": name},
            options.webhook,
            size_bytes=upload.size_bytes,
        )

    return accept_upload(resources, blob, make)


def _from_path(resources: Resources, caller: Caller, body: ImportByPath, key: str | None) -> Response:
    source = _inside_import_root(resources, body.path)
    request = {
        "source": {"path": str(source)},
        **body.model_dump(exclude={"path", "webhook"}),
        "name": body.name or source.stem,
    }
    job, _ = _submit(
        resources, caller, Idempotency.of(caller, UPLOAD_PATH, key, body), new_id("ds"), request, body.webhook
    )
    return accepted(Job.of(job))


def _submit(
    resources: Resources,
    caller: Caller,
    idempotency: Idempotency | None,
    dataset_id: str,
    request: dict[str, Any],
    webhook: Webhook | None,
    *,
    size_bytes: int = 0,
) -> tuple[records.Job, bool]:
    def create(session: Session) -> records.Job:
        now = resources.database.now(session)
        name = request["name"][:200]
        session.add(records.Dataset(id=dataset_id, account=caller.account, name=name, created_at=now))
        return jobs.submit(
            session,
            JobKind.IMPORT,
            request,
            now=now,
            dataset_id=dataset_id,
            unit="files",
            idempotency=idempotency.columns if idempotency else None,
            account=caller.account,
        )

    wish = Wish(caller, JobKind.IMPORT, size_bytes=size_bytes)
    return submit(resources, idempotency, create, wish, webhook=webhook)


def _inside_import_root(resources: Resources, path: str) -> Path:
    root = resources.settings.import_root
    if root is None:
        raise ImportsDisabled(
            "path: imports by path are off, since no import root is set",
            parameter="/path",
            remedy=f"set {PREFIX}IMPORT_ROOT to a folder and restart, or upload a zip",
        )
    outside = OutsideImportRoot(
        f"path: {path!r} does not lie inside the import root",
        parameter="/path",
        remedy=f"{PREFIX}IMPORT_ROOT is {root}; name a path below it",
    )
    try:
        # Resolved before it is looked at, so that nothing outside is ever touched, nor told to be there or not.
        resolved = (root / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, or a null character
        raise outside from error
    if not resolved.is_relative_to(root):
        raise outside
    try:
        is_there = resolved.exists()
    except OSError as error:
        raise SourceUnreadable(
            f"path: {resolved} can't be looked at: {error.strerror}",
            parameter="/path",
            remedy="let the user that Darkroom runs as read it and every folder above it, or upload a zip",
        ) from error
    if not is_there:
        raise SourceNotFound(
            f"path: nothing is at {resolved}", parameter="/path", remedy="check its spelling; case matters"
        )
    return resolved


async def _small_body(request: Request) -> Any:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"the JSON body is larger than {MAX_BODY_BYTES:,} bytes", remedy="upload pictures as a zip")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        place = {"type": "json_invalid", "loc": ("body",), "msg": str(error), "input": {}, "ctx": {"error": str(error)}}
        raise RequestValidationError([place]) from error
