"""Generated pictures: their metadata, and their PNG."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.auth import Caller, MayGenerate, MayRead
from app.caching import IMMUTABLE, has_it, not_modified
from app.controls import recipe_of
from app.dependencies import NO_NULL, AfterImage, Attached, Encoders, IfNoneMatch, ImageId, Limit
from app.errors import InvalidParameter, NotFound
from app.pages import Page, cut, example_page, newest_first
from app.renditions import DEFAULT_QUALITY, LEAST_SIDE_PX, MOST_SIDE_PX, PictureFormat, Rendition
from store import records
from store.removal import delete_blobs, remove_images
from store.resources import Resources

router = APIRouter(prefix="/v1/images", tags=["images"])

PICTURE_CONTENT: dict[str, Any] = {Rendition(form).media_type: {} for form in PictureFormat}  # in OpenAPI
EXAMPLE: dict[str, Any] = {
    "id": "img_019ad3a8c0de7c3f8f4d2b6a10c5e7f1",
    "object": "image",
    "job": "job_019ad3a8b1ce7d10a6f1c37e2d40b9a5",
    "position": 0,
    "model": "mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d",
    "checkpoint": "models/mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d/000000120000-1",
    "seed": 7,
    "label": "3",
    "recipe": {"seed": 7},
    "width": 32,
    "height": 32,
    "size_bytes": 812,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "created_at": "2026-01-05T12:00:31Z",
    "url": "/v1/images/img_019ad3a8c0de7c3f8f4d2b6a10c5e7f1/content",
}


class Image(BaseModel):
    """A generated picture. The same model, checkpoint, seed and label always give the same bytes."""

    id: str = Field(description="Id of the image.")
    object: str = Field("image", description="Always `image`.")
    job: str = Field(description="The job that made it.")
    position: int = Field(description="Its place within the job, from 0.")
    model: str = Field(description="The model that made it; may be deleted by now.")
    checkpoint: str = Field(description="The weights that made it.")
    seed: int = Field(
        description="Its own seed: the request's plus its position, unless `seeds`, `interpolate` or `mix` say otherwise."
    )
    label: str | None = Field(description="Name of its class; null without classes.")
    recipe: dict[str, Any] = Field(
        description="What it was made of besides its label: the seed, and where they were asked for `truncation`, and `slerp` "
        "(to a seed, with a weight) or `variation` (of a seed, with a strength)."
    )
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    size_bytes: int = Field(description="Size of the PNG.")
    sha256: str = Field(description="Of the PNG.")
    created_at: datetime = Field(description="When it was made.")
    url: str = Field(description="Path of the PNG.")

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    @classmethod
    def of(cls, image: records.Image) -> Image:
        """The row as clients see it."""
        return cls(
            id=image.id,
            job=image.job_id,
            position=image.position,
            model=image.model_id,
            checkpoint=image.checkpoint,
            seed=image.seed,
            label=image.label,
            recipe=recipe_of(image.seed, image.recipe),
            width=image.width,
            height=image.height,
            size_bytes=image.size_bytes,
            sha256=image.sha256,
            created_at=image.created_at,
            url=content_url(image.id),
        )


class ImagePage(Page[Image]):
    """One page of images."""

    model_config = ConfigDict(json_schema_extra=example_page(EXAMPLE))


def content_url(image_id: str) -> str:
    """The path of an image's PNG."""
    return f"/v1/images/{image_id}/content"


def images_of_job(
    session: Session, job_id: str, *, caller: Caller | None = None, after: str | None = None, limit: int
) -> tuple[list[records.Image], bool]:
    """Return a job's images by position, and whether more follow.

    Args:
        job_id: whose images.
        caller: who sees them; None: that was looked at before.
        after: id of the last image of the page before; None: from the start.
        limit: length of the page.

    Raises:
        InvalidParameter: `after` is no image of this job.
    """
    rows = select(records.Image).where(records.Image.job_id == job_id)
    if caller is not None:
        rows = caller.seen(rows, records.Image)
    if after is not None:
        last = session.get(records.Image, after)
        if last is None or last.job_id != job_id or (caller is not None and not caller.sees(last)):
            raise InvalidParameter(
                f"after: {job_id} has no image {after!r}",
                parameter="after",
                remedy="pass the id of the last image of the page before",
            )
        rows = rows.where(records.Image.position > last.position)
    found, more = cut(session.scalars(rows.order_by(records.Image.position).limit(limit + 1)).all(), limit)
    return list(found), more


@router.get("", summary="List images", operation_id="list_images")
def list_images(
    caller: MayRead,
    resources: Attached,
    job: Annotated[str | None, Query(pattern=NO_NULL, description="Only this job's, by position.")] = None,
    model: Annotated[str | None, Query(pattern=NO_NULL, description="Only this model's.")] = None,
    after: AfterImage = None,
    limit: Limit = 20,
) -> ImagePage:
    """Images, newest first; a job's images come in the order of their positions."""
    with resources.database.snapshot() as session:
        if job is not None:
            if model is not None:
                raise InvalidParameter(
                    "model: a job's images are all of one model",
                    parameter="model",
                    remedy="give job or model, not both",
                )
            rows, more = images_of_job(session, job, caller=caller, after=after, limit=limit)
        else:
            wanted = caller.seen(select(records.Image), records.Image)
            if model is not None:
                wanted = wanted.where(records.Image.model_id == model)
            page, more = newest_first(session, wanted, records.Image.id, "img", after=after, limit=limit)
            rows = list(page)
        return ImagePage(data=[Image.of(image) for image in rows], has_more=more)


@router.get("/{image_id}", summary="Show an image's metadata", operation_id="get_image")
def get_image(caller: MayRead, resources: Attached, image_id: ImageId) -> Image:
    """What is known of one image."""
    return Image.of(_find(resources, caller, image_id))


@router.delete("/{image_id}", summary="Delete an image", operation_id="delete_image", status_code=204)
def delete_image(caller: MayGenerate, resources: Attached, image_id: ImageId) -> None:
    """Deletes the picture and all that is known of it for good; its job still counts it."""
    _find(resources, caller, image_id)
    with resources.database.transaction() as session:
        blobs = remove_images(session, records.Image.id == image_id)
    delete_blobs(resources.blobs, blobs)


@router.head("/{image_id}/content", include_in_schema=False)
@router.get(
    "/{image_id}/content",
    summary="Get an image",
    operation_id="get_image_content",
    response_class=Response,
    responses={
        200: {"content": PICTURE_CONTENT, "description": "The picture."},
        304: {"description": "Not modified."},
    },
)
async def get_content(
    caller: MayRead,
    resources: Attached,
    encoders: Encoders,
    image_id: ImageId,
    form: Annotated[
        PictureFormat, Query(alias="format", description="`png` loses nothing; `webp` and `jpeg` are smaller.")
    ] = PictureFormat.PNG,
    size: Annotated[
        int | None,
        Query(
            ge=LEAST_SIDE_PX,
            le=MOST_SIDE_PX,
            description="Pixels of the longer side, by Lanczos. Default: as it was made.",
            examples=[256],
        ),
    ] = None,
    quality: Annotated[
        int | None,
        Query(ge=1, le=100, description=f"Of `webp` and `jpeg`. Default: {DEFAULT_QUALITY}.", examples=[80]),
    ] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The picture itself: without parameters the PNG as it was made. It never changes, so it may be kept for ever. Whatever
    the form, it says that it is generated, as the PNG does.
    """
    rendition = Rendition(form, size, quality)
    limiter = None if rendition.is_stored else encoders
    return await anyio.to_thread.run_sync(
        _content, resources, caller, image_id, rendition, if_none_match, limiter=limiter
    )


def _content(
    resources: Resources, caller: Caller, image_id: str, rendition: Rendition, if_none_match: str | None
) -> Response:
    image = _find(resources, caller, image_id)
    etag, headers = rendition.etag(image.sha256), {"Cache-Control": IMMUTABLE}
    if has_it(if_none_match, etag):
        return not_modified(etag, headers)
    return picture(image.sha256, rendition, rendition.of(resources.blobs.get(image.blob)))


def picture(
    sha256: str, rendition: Rendition, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response that holds an image in a form.

    Args:
        sha256: of its PNG.
        rendition: the form.
        content: the image in it.
        status: of the response.
        headers: further ones, or other ones.
    """
    given = {"Cache-Control": IMMUTABLE, "ETag": rendition.etag(sha256), **(headers or {})}
    return Response(content, status, given, rendition.media_type)


def _find(resources: Resources, caller: Caller, image_id: str) -> records.Image:
    with resources.database.snapshot() as session:
        image = session.get(records.Image, image_id)
    if image is None or not caller.sees(image):
        raise NotFound(
            f"there is no image {image_id}",
            code="image_not_found",
            parameter="image_id",
            remedy="GET /v1/images lists the images that there are",
        )
    return image
