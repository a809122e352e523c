"""Jobs over HTTP: what they look like, listing, waiting for and canceling them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.auth import Caller, MayRead, MayWork
from app.caching import REVALIDATE, etag_of, has_it, not_modified
from app.dependencies import NO_NULL, AfterJob, Attached, IfNoneMatch, JobId, Limit, NewsOfJobs
from app.errors import InUse
from app.images import EXAMPLE as IMAGE_EXAMPLE
from app.images import Image, images_of_job
from app.news import Ear
from app.pages import Page, example_page, newest_first
from app.refusals import refusals
from store import jobs, records
from store.documents import job_document, progress_document
from store.errors import InvalidTransition, JobNotFound, Unavailable
from store.records import JobKind, JobPriority, JobStatus, Scope
from store.removal import delete_blobs, remove_job
from store.resources import Resources, status_notice

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Sight = TypeVar("Sight")  # what a waiter sees of a job

IMAGES_SHOWN = 100  # of a sample job, within the job itself
# What it takes to ask for a job, and to cancel it.
SCOPE_OF = dict.fromkeys(JobKind, Scope.TRAIN) | {JobKind.SAMPLE: Scope.GENERATE}
REREAD_S = 5.0  # a waiter looks at the row at least this often, in case the bus lost a word

EXAMPLE: dict[str, Any] = {
    "id": "job_019ad3a8b1ce7d10a6f1c37e2d40b9a5",
    "object": "job",
    "kind": "sample",
    "priority": "interactive",
    "deadline_at": None,
    "status": "succeeded",
    "created_at": "2026-01-05T12:00:30Z",
    "started_at": "2026-01-05T12:00:30Z",
    "finished_at": "2026-01-05T12:00:31Z",
    "progress": {"done": 1, "total": 1, "unit": "images", "rate": None, "eta_s": 0, "fraction": 1},
    "attempts": 1,
    "cancel_requested": False,
    "error": None,
    "result": {"images": 1},
    "dataset": None,
    "model": "mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d",
    "request": {"n": 1, "seed": 7, "label": 3},
    "request_id": "req_0f3b5c8d2e9a4b7f",
    "images": [IMAGE_EXAMPLE],
    "links": {
        "self": "/v1/jobs/job_019ad3a8b1ce7d10a6f1c37e2d40b9a5",
        "events": "/v1/jobs/job_019ad3a8b1ce7d10a6f1c37e2d40b9a5/events",
        "cancel": "/v1/jobs/job_019ad3a8b1ce7d10a6f1c37e2d40b9a5/cancel",
        "model": "/v1/models/mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d",
        "images": "/v1/images?job=job_019ad3a8b1ce7d10a6f1c37e2d40b9a5",
        "zip": "/v1/jobs/job_019ad3a8b1ce7d10a6f1c37e2d40b9a5/images.zip",
        "grid": "/v1/jobs/job_019ad3a8b1ce7d10a6f1c37e2d40b9a5/grid.png",
    },
}


class Progress(BaseModel):
    """How far a job is."""

    done: float = Field(description="How much is done, in `unit`.")
    total: float | None = Field(description="How much there is to do; null while it is not known.")
    unit: str = Field(description="What is counted: files, images, seconds or percent.")
    rate: float | None = Field(description="Units a second, while it runs.")
    eta_s: float | None = Field(description="Seconds left, as far as can be told.")
    fraction: float | None = Field(description="done / total, from 0 to 1; null while the total is not known.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "done": 24000,
                    "total": 200000,
                    "unit": "images",
                    "rate": 1210.5,
                    "eta_s": 145.4,
                    "fraction": 0.12,
                }
            ]
        }
    )


class JobError(BaseModel):
    """Why a job failed."""

    code: str = Field(description="A word for programs.")
    message: str = Field(description="What went wrong, and what to do about it.")
    retryable: bool = Field(description="Whether the same request may succeed another time.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"code": "no_usable_images", "message": "not one of the 12 files is an image", "retryable": False}
            ]
        }
    )


class Job(BaseModel):
    """A long action: an import, a training, a generation, an evaluation or an export."""

    id: str = Field(description="Id of the job.")
    object: str = Field("job", description="Always `job`.")
    kind: JobKind = Field(description="What it does.")
    priority: JobPriority = Field(description="`batch` lets `interactive` ones go first for a while; see docs/jobs.md.")
    deadline_at: datetime | None = Field(description="When it is canceled if it has not succeeded by then.")
    status: JobStatus = Field(description="Where it stands; succeeded, failed and canceled are final.")
    created_at: datetime = Field(description="When it was asked for.")
    started_at: datetime | None = Field(description="When a worker first took it.")
    finished_at: datetime | None = Field(description="When it ended.")
    progress: Progress
    attempts: int = Field(description="Times a worker took it since its last lasting progress.")
    cancel_requested: bool = Field(description="Whether its cancellation was asked for.")
    error: JobError | None = Field(
        description="Why it failed, or that it was canceled because its `deadline` had passed; null otherwise."
    )
    result: dict[str, Any] | None = Field(description="What came out; null until it has ended well.")
    dataset: str | None = Field(description="The data set that it makes or learns from.")
    model: str | None = Field(description="The model that it makes or uses.")
    request: dict[str, Any] = Field(description="What was asked for, with every default filled in.")
    request_id: str | None = Field(description="X-Request-Id of the request that made it: the service's logs name it.")
    images: list[Image] | None = Field(
        None,
        description=f"The first {IMAGES_SHOWN} images of a generation, as far as made; null in lists and for other "
        "kinds. `links.images` has all of them.",
    )
    links: dict[str, str] = Field(description="Paths of what belongs to it.")

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    @classmethod
    def of(cls, job: records.Job, images: list[records.Image] | None = None) -> Job:
        """The row as clients see it."""
        return cls(**job_document(job), images=[Image.of(image) for image in images] if images is not None else None)

    @property
    def has_ended(self) -> bool:
        """Whether its status is final."""
        return self.status in jobs.ENDED


class JobPage(Page[Job]):
    """One page of jobs."""

    model_config = ConfigDict(json_schema_extra=example_page({**EXAMPLE, "images": None}))


def progress_of(job: records.Job) -> Progress:
    """Return how far a job is."""
    return Progress(**progress_document(job))


def show(session: Session, job: records.Job) -> Job:
    """Return a job with its images."""
    if job.kind is not JobKind.SAMPLE:
        return Job.of(job)
    return Job.of(job, images_of_job(session, job.id, limit=IMAGES_SHOWN)[0])


def find(session: Session, caller: Caller, job_id: str, *, locked: bool = False) -> records.Job:
    """Return the row, until the transaction ends nobody else's where it is locked.

    Raises:
        JobNotFound: there is none that the caller may see.
    """
    job = session.get(records.Job, job_id, with_for_update=True if locked else None)
    if job is None or not caller.sees(job):
        raise JobNotFound(f"there is no job {job_id}")
    return job


def read(resources: Resources, caller: Caller, job_id: str) -> Job:
    """Return one job.

    Raises:
        JobNotFound: there is none that the caller may see.
    """
    with resources.database.snapshot() as session:
        return show(session, find(session, caller, job_id))


async def wait_for(
    request: Request,
    ear: Ear,
    look: Callable[[], Awaitable[Sight]],
    *,
    until: Callable[[Sight], bool],
    timeout_s: float,
    seen: Sight | None = None,
) -> Sight:
    """Return what is seen once `until` is true of it, or the last of it when the time is up or nobody waits any more.

    Args:
        request: whose client waits; it must have sent its whole body.
        ear: hears of the job since before it was last looked at, so that nothing falls between.
        look: looks at the job.
        until: what is waited for.
        timeout_s: longest wait, seconds.
        seen: what a look has shown already; None: looks at once.
    """
    deadline = anyio.current_time() + timeout_s
    found = seen if seen is not None else await look()
    gone = asyncio.create_task(_until_gone(request))
    gone.add_done_callback(lambda _: ear.wake())
    try:
        while not (until(found) or ear.closing or gone.done()) and (left := deadline - anyio.current_time()) > 0:
            await ear.wait(min(left, REREAD_S))
            try:
                found = await look()
            except Unavailable as error:
                log.warning("a wait goes on although: %s", error)
    finally:
        gone.cancel()
    return found


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.get("", summary="List jobs", operation_id="list_jobs")
def list_jobs(
    caller: MayRead,
    resources: Attached,
    status: Annotated[list[JobStatus] | None, Query(description="Only these; may be given several times.")] = None,
    kind: Annotated[list[JobKind] | None, Query(description="Only these; may be given several times.")] = None,
    model: Annotated[str | None, Query(pattern=NO_NULL, description="Only jobs that make or use this model.")] = None,
    dataset: Annotated[
        str | None, Query(pattern=NO_NULL, description="Only jobs that make or learn from this data set.")
    ] = None,
    after: AfterJob = None,
    limit: Limit = 20,
) -> JobPage:
    """Jobs, newest first."""
    wanted = caller.seen(select(records.Job), records.Job)
    if status:
        wanted = wanted.where(records.Job.status.in_(status))
    if kind:
        wanted = wanted.where(records.Job.kind.in_(kind))
    if model is not None:
        wanted = wanted.where(records.Job.model_id == model)
    if dataset is not None:
        wanted = wanted.where(records.Job.dataset_id == dataset)
    with resources.database.snapshot() as session:
        rows, more = newest_first(session, wanted, records.Job.id, "job", after=after, limit=limit)
        return JobPage(data=[Job.of(job) for job in rows], has_more=more)


@router.get(
    "/{job_id}",
    summary="Show a job, or wait for it",
    operation_id="get_job",
    response_model=Job,
    responses={304: {"description": "The client's ETag is still right."}},
)
async def get_job(
    caller: MayRead,
    request: Request,
    resources: Attached,
    news: NewsOfJobs,
    job_id: JobId,
    if_none_match: IfNoneMatch = None,
    wait: Annotated[
        float | None,
        Query(
            ge=0,
            description="Answer when the job has ended, or with If-None-Match when it has changed, "
            "or after so many seconds.",
        ),
    ] = None,
) -> Response:
    """One job. Poll it with `If-None-Match`, or give `wait` as well and the answer comes when there is something new."""

    def is_news(job: Job) -> bool:
        changed = if_none_match is not None and not has_it(if_none_match, etag_of(_json(job)))
        return job.has_ended or changed

    async def look() -> Job:
        return await anyio.to_thread.run_sync(read, resources, caller, job_id)

    if wait:
        with news.listen(job_id) as ear:
            job = await wait_for(request, ear, look, until=is_news, timeout_s=min(wait, resources.settings.max_wait_s))
    else:
        job = await look()
    content = _json(job)
    etag, headers = etag_of(content), {"Cache-Control": REVALIDATE}
    if has_it(if_none_match, etag):
        return not_modified(etag, headers)
    return Response(content, media_type="application/json", headers={**headers, "ETag": etag})


@router.post(
    "/{job_id}/cancel", summary="Cancel a job", operation_id="cancel_job", responses=refusals(InvalidTransition)
)
def cancel_job(caller: MayWork, resources: Attached, job_id: JobId) -> Job:
    """A queued job is canceled at once; a running one is asked to stop, and soon does. Asking twice does no harm. It takes the
    scope that asking for the job took.
    """
    return cancel(resources, caller, job_id)


def cancel(resources: Resources, caller: Caller, job_id: str) -> Job:
    """Return the job, canceled or asked to stop.

    Raises:
        JobNotFound: there is none that the caller may see.
        MissingScope: it is not of a kind that the caller may ask for.
        InvalidTransition: it has succeeded or failed.
    """
    with resources.database.transaction() as session:
        caller.require(SCOPE_OF[find(session, caller, job_id).kind])
        now = resources.database.now(session)
        job = jobs.request_cancel(session, job_id, now=now)
        answer = show(session, job)
    resources.tell(status_notice(job))
    upload = (job.request.get("source") or {}).get("blob")
    if upload is not None and job.status is JobStatus.CANCELED:
        resources.blobs.delete(upload)  # no worker will ever want it
    return answer


@router.delete(
    "/{job_id}", summary="Delete a job", operation_id="delete_job", status_code=204, responses=refusals(InUse)
)
def delete_job(caller: MayWork, resources: Attached, job_id: JobId) -> None:
    """Deletes a job that has ended, for good: a generation with all its images, an export with its file, an evaluation with its
    strips. What an import or a training has made stays; a training's job goes once its model is deleted. It takes the scope
    that asking for the job took.
    """
    with resources.database.transaction() as session:
        job = find(session, caller, job_id, locked=True)
        caller.require(SCOPE_OF[job.kind])
        if job.status not in jobs.ENDED:
            raise InUse(
                f"{job_id} is {job.status.value}",
                parameter="job_id",
                remedy="cancel it with POST /v1/jobs/{id}/cancel, or wait until it has ended",
            )
        if job.kind is JobKind.TRAIN and session.get(records.Model, job.model_id) is not None:
            raise InUse(
                f"{job_id} is the training of {job.model_id}, which is still there",
                parameter="job_id",
                remedy="delete the model first, with DELETE /v1/models/{id}",
            )
        blobs = remove_job(session, job)
    delete_blobs(resources.blobs, blobs)


def _json(job: Job) -> bytes:
    return job.model_dump_json().encode()
