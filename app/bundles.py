"""All pictures of a generation in one file: as a zip, or as a contact sheet."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, BinaryIO, cast

import anyio.to_thread
from fastapi import APIRouter, Query
from sqlalchemy import func, select
from starlette.responses import Response, StreamingResponse

from app.auth import Caller, MayRead
from app.caching import REVALIDATE, etag_of, has_it, not_modified
from app.dependencies import Attached, Encoders, IfNoneMatch, JobId
from app.errors import NotFound, PictureDamaged
from app.grid import grid_of
from app.jobs import find
from store import records
from store.errors import BlobNotFound
from store.records import JobKind
from store.resources import Resources

MOST_IN_A_GRID = 256
CHUNK_BYTES = 2**18  # about what is held of a zip
ROWS_AT_ONCE = 500  # images of a large job are read in portions

router = APIRouter(prefix="/v1/jobs", tags=["images"])


@dataclass(frozen=True)
class _Made:
    """What a job has made so far."""

    count: int
    headers: dict[str, str]  # with an ETag that changes as images are added


@router.get(
    "/{job_id}/images.zip",
    summary="Get a generation's images as a zip",
    operation_id="get_job_zip",
    response_class=Response,
    responses={
        200: {"content": {"application/zip": {}}, "description": "The zip."},
        304: {"description": "Not modified."},
    },
)
def get_zip(caller: MayRead, resources: Attached, job_id: JobId, if_none_match: IfNoneMatch = None) -> Response:
    """The PNGs as far as made, named by position and seed, such as `000003-seed-10.png`. The zip is written while it is sent,
    however many there are.
    """
    made = _made(resources, caller, job_id, "zip")
    if has_it(if_none_match, made.headers["ETag"]):
        return not_modified(made.headers["ETag"], made.headers)
    headers = {**made.headers, "Content-Disposition": f'attachment; filename="{job_id}.zip"'}
    return StreamingResponse(_zip(resources, job_id, made.count), media_type="application/zip", headers=headers)


@router.head("/{job_id}/grid.png", include_in_schema=False)
@router.get(
    "/{job_id}/grid.png",
    summary="Get a generation's images as a contact sheet",
    operation_id="get_job_grid",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The PNG."}, 304: {"description": "Not modified."}},
)
async def get_grid(
    caller: MayRead,
    resources: Attached,
    encoders: Encoders,
    job_id: JobId,
    columns: Annotated[
        int | None,
        Query(ge=1, le=MOST_IN_A_GRID, description="Images in a row. Default: about as many as rows.", examples=[8]),
    ] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The images as far as made, by position, row by row; the first 256 of more. Small ones are enlarged by whole numbers."""
    return await anyio.to_thread.run_sync(_grid, resources, caller, job_id, columns, if_none_match, limiter=encoders)


def _grid(
    resources: Resources, caller: Caller, job_id: str, columns: int | None, if_none_match: str | None
) -> Response:
    made = _made(resources, caller, job_id, f"grid {columns}")
    if has_it(if_none_match, made.headers["ETag"]):
        return not_modified(made.headers["ETag"], made.headers)
    images = _images(resources, job_id, min(made.count, MOST_IN_A_GRID))
    pngs = [resources.blobs.get(image.blob) for image in images]  # 404 where one is deleted just now
    try:
        sheet = grid_of(pngs, columns)
    except (OSError, SyntaxError) as error:  # Pillow raises either
        raise PictureDamaged(f"a stored PNG of {job_id} can't be read any more: {error}") from error
    return Response(sheet, media_type="image/png", headers=made.headers)


def _made(resources: Resources, caller: Caller, job_id: str, form: str) -> _Made:
    with resources.database.snapshot() as session:
        job = find(session, caller, job_id)
        positions = select(func.count(), func.sum(records.Image.position)).where(records.Image.job_id == job_id)
        count, total = session.execute(positions).one()
    if count == 0:
        raise NotFound(
            f"{job_id} has no images" + (" yet" if job.kind is JobKind.SAMPLE else f", it is one of {job.kind.value}"),
            code="images_not_found",
            parameter="job_id",
            remedy="name a generation that has made some: `progress.done` of GET /v1/jobs/{id} counts them",
        )
    etag = f"W/{etag_of(f'{job_id} {count} {total} {form}'.encode())}"  # images may go as well as come
    return _Made(count, {"Cache-Control": REVALIDATE, "ETag": etag})


def _images(resources: Resources, job_id: str, count: int) -> Iterator[records.Image]:
    """Yield the first images of a job, by position."""
    last, left = -1, count
    while left > 0:
        wanted = select(records.Image).where(records.Image.job_id == job_id, records.Image.position > last)
        with resources.database.snapshot() as session:
            rows = session.scalars(wanted.order_by(records.Image.position).limit(min(left, ROWS_AT_ONCE))).all()
        if not rows:
            return
        yield from rows
        last, left = rows[-1].position, left - len(rows)


class _Window(io.BytesIO):
    """The end of a file that is written and sent at once: places count from its start, of which nothing is kept."""

    def __init__(self) -> None:
        super().__init__()
        self._sent_bytes = 0

    def tell(self) -> int:
        """Return the place in the whole file."""
        return self._sent_bytes + super().tell()

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place in the whole file that has not been sent yet."""
        return self._sent_bytes + super().seek(place - self._sent_bytes if whence == io.SEEK_SET else place, whence)

    @property
    def unsent_bytes(self) -> int:
        """How much there is to take."""
        return len(self.getbuffer())

    def take(self) -> bytes:
        """Return what has not been sent yet, and forget it."""
        content = self.getvalue()
        self._sent_bytes += len(content)
        super().seek(0)
        super().truncate(0)
        return content


def _zip(resources: Resources, job_id: str, count: int) -> Iterator[bytes]:
    window = _Window()
    # PNGs don't shrink any further, so they are stored as they are.
    with zipfile.ZipFile(cast(BinaryIO, window), "w", zipfile.ZIP_STORED) as archive:
        for image in _images(resources, job_id, count):
            entry = zipfile.ZipInfo(f"{image.position:06d}-seed-{image.seed}.png", image.created_at.timetuple()[:6])
            entry.external_attr = 0o644 << 16
            try:
                content = resources.blobs.get(image.blob)
            except BlobNotFound:
                with resources.database.snapshot() as session:
                    if session.get(records.Image, image.id) is not None:
                        raise
                continue  # it was deleted since its row was read
            archive.writestr(entry, content)
            if window.unsent_bytes >= CHUNK_BYTES:
                yield window.take()
    yield window.take()
