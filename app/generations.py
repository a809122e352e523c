"""Generations: new pictures from a model, at once for who waits."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.accepting import JSON, picture_wanted
from app.auth import Caller, MayGenerate, scopes_of
from app.controls import Interpolation, Label, Mix, Seed, Variations, count_images, counts_up, request_of
from app.dependencies import (
    NO_NULL,
    CancelAfter,
    IdempotencyHeader,
    PreferHeader,
    checked_key,
    wait_preferred_s,
)
from app.errors import (
    InvalidParameter,
    JobCanceled,
    JobFailed,
    ModelNotReady,
    NotAcceptable,
    NotFound,
    QueueFull,
    QuotaExceeded,
    RateLimited,
)
from app.images import PICTURE_CONTENT, content_url, picture
from app.intake import Asked, Intake, Made, Seen
from app.jobs import Job, cancel, read, wait_for
from app.models import Weights, find_weights
from app.quotas import Wish
from app.refusals import refusals
from app.renditions import Rendition
from app.submissions import ACCEPTED, LOCATION, Idempotency, Submission, accepted
from app.values import Flag, Integer, Moment, Number
from app.webhooks import AskedWebhook, url_of
from models import catalog
from store import jobs, records
from store.ahead import Ahead
from store.errors import InvalidTransition
from store.identifiers import new_id
from store.records import JobKind, JobPriority, JobStatus
from store.resources import Resources
from store.settings import PREFIX

ROUTE = "/v1/generations"

# HTTP status of a failed job that somebody waited for, by its error code; others are 503 when retryable, else 500.
STATUS_OF_CODE = {"storage_full": 507, "data_missing": 409, "unknown_label": 422}

# What the shortcut understands; each other header of the route, and each other content, goes the whole way.
PLAIN = frozenset({JSON, f"{JSON}; charset=utf-8"})


class Shortcut(APIRoute):
    """Hands a request that is as most are to its route without FastAPI's parameters, which take longer than all else here.

    Whatever is wrong or unusual about one goes the whole way, so that FastAPI says what it always says.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        whole_way, scopes = super().get_route_handler(), frozenset(scopes_of(self.dependant))

        async def handle(request: Request) -> Response:
            caller: Caller = request.state.caller
            headers, body = request.headers, None
            if headers.get("content-type") in PLAIN and "cancel-after" not in headers and caller.scopes & scopes:
                with suppress(ValueError, RecursionError, ClientDisconnect):  # a ValidationError is a ValueError
                    body = Generation.model_validate(json.loads(await request.body()))
            if body is None:
                return await whole_way(request)
            key, prefer, accept = (headers.get(name) for name in ("idempotency-key", "prefer", "accept"))
            return await create_generation(caller, request, body, key, prefer, accept=accept)

        return handle


router = APIRouter(prefix=ROUTE, tags=["generations"], route_class=Shortcut)


class Generation(BaseModel):
    """Which pictures to make."""

    model: str = Field(pattern=NO_NULL, description="Id of a model that has weights already.")
    n: Integer = Field(1, ge=1, description="How many. `seeds`, `labels`, `interpolate` and `mix` say so themselves.")
    seed: Integer | None = Field(
        None,
        ge=0,
        le=catalog.MAX_SEED,
        description="Of the first picture; the k-th has seed + k. Default: a random one, in the job's `request`.",
    )
    label: Label | None = Field(
        None, description="A class of the model, by name or by index from 0. Default: any, drawn from the seed."
    )
    seeds: list[Seed] | None = Field(
        None, min_length=1, description="A seed for each image, in place of `seed` and `n`."
    )
    labels: list[Label] | None = Field(None, min_length=1, description="A class for each image, in place of `label`.")
    truncation: Number | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="psi: how far latents may lie from their mean. Less is more typical and less varied. Default: 1.",
    )
    interpolate: Interpolation | None = Field(None, description="Images on the way between two seeds.")
    variations: Variations | None = Field(None, description="`n` images near one seed; `seed` decides how they differ.")
    mix: Mix | None = Field(None, description="One image between two seeds.")
    priority: JobPriority | None = Field(
        None,
        description="`interactive`, or `batch`: lets interactive ones that come soon after it go first. Default: `interactive` "
        "where all images fit into one batch.",
    )
    deadline_at: Moment | None = Field(
        None,
        description="When nobody wants the images any more: what is not made by then is canceled, and not computed. "
        "`Cancel-After` says the same in seconds from now; the earlier of the two holds.",
    )
    cancel_on_disconnect: Flag = Field(
        False, description="Cancel the job when this request is closed by its client while it waits for the images."
    )
    webhook: AskedWebhook = None

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"model": "mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d", "n": 4, "seed": 7, "label": "3"},
                {
                    "model": "mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d",
                    "seeds": [3, 14],
                    "labels": ["1", "7"],
                    "truncation": 0.7,
                },
                {"model": "mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d", "interpolate": {"from": 7, "to": 8, "frames": 16}},
                {"model": "mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d", "n": 8, "variations": {"of": 7, "strength": 0.3}},
                {"model": "mdl_019ad3a5f00d7b6e9c8d1e2f3a4b5c6d", "mix": {"seeds": [7, 8], "weight": 0.5}},
            ]
        },
    )


@router.post(
    "",
    summary="Generate images",
    operation_id="create_generation",
    status_code=202,
    response_model=Job,
    responses={
        **ACCEPTED,
        201: {
            "model": Job,
            "description": "`Prefer: wait` was given and the images are made; with `Accept: image/png`, `image/webp` or "
            "`image/jpeg` the picture itself.",
            "content": PICTURE_CONTENT,
            "headers": LOCATION,
        },
        **refusals(NotFound, NotAcceptable, ModelNotReady, JobCanceled, RateLimited, QueueFull, QuotaExceeded),
    },
)
async def create_generation(
    caller: MayGenerate,
    request: Request,
    body: Generation,
    idempotency_key: IdempotencyHeader = None,
    prefer: PreferHeader = None,
    cancel_after_s: CancelAfter = None,
    accept: Annotated[
        str | None,
        Header(description="`image/png`, `image/webp` or `image/jpeg` answers with the picture itself, for n = 1."),
    ] = None,
) -> Response:
    """Asks for pictures. With `Prefer: wait=n` the answer comes when they are made, if that is within n seconds."""
    intake: Intake = request.app.state.intake
    resources, news = intake.resources, intake.news
    checked_key(idempotency_key)
    preferred_wait_s = wait_preferred_s(request.headers.getlist("prefer")) if prefer is not None else None
    n = count_images(body)
    rendition = picture_wanted(accept, n)
    longest = resources.settings.max_wait_s
    wait_s = min(preferred_wait_s, longest) if preferred_wait_s is not None else (longest if rendition else 0.0)
    job_id, picture_only = new_id("job"), rendition is not None and wait_s > 0

    async def look() -> Seen | Made:
        if ear.shown is not None:
            return Made(row.id, ear.shown.picture.id, ear.shown.picture.sha256, ear.shown.content)
        return await intake.look(Asked(row.id, content=picture_only))

    with ExitStack() as listening:
        # Before there is anything to hear of.
        ear = listening.enter_context(news.listen(job_id, end_only=True, picture=picture_only))
        alone = picture_only and news.is_for_one  # so a sampler may well have nothing to do
        submission = _submission(intake, caller, body, n, job_id, idempotency_key, cancel_after_s, alone=alone)
        row, is_new = await intake.submit(submission)
        seen: Seen | Made
        if is_new:
            seen = Seen(row, [])
        else:  # the same request has come before, perhaps long ago
            ear = listening.enter_context(news.listen(row.id, end_only=True, picture=picture_only))
            seen = await look()
        if wait_s > 0:
            seen = await wait_for(
                request,
                ear,
                look,
                until=lambda seen: seen.has_ended,
                timeout_s=wait_s,
                seen=seen,
            )
    if body.cancel_on_disconnect and not seen.has_ended and await request.is_disconnected():
        await anyio.to_thread.run_sync(_cancel, resources, caller, row.id)
    if isinstance(seen, Made):
        assert rendition is not None
        content = seen.content
        if not rendition.is_stored:
            content = await anyio.to_thread.run_sync(rendition.of, content, limiter=request.app.state.encoders)
        response = _picture(seen, rendition, content)
    elif wait_s <= 0:
        response = accepted(Job.of(seen.job, list(seen.images)))
    else:
        response = _answer(seen)
    if preferred_wait_s is not None:
        response.headers["Preference-Applied"] = f"wait={wait_s:g}"
    response.headers["Vary"] = "Accept, Prefer"
    return response


def _submission(
    intake: Intake,
    caller: Caller,
    body: Generation,
    n: int,
    job_id: str,
    key: str | None,
    cancel_after_s: float | None,
    *,
    alone: bool,
) -> Submission:
    settings = intake.resources.settings
    most = min(settings.max_images_per_request, settings.max_queued_images)
    if n > most:
        raise InvalidParameter(
            f"n: {n:,} images are more than the {most:,} that one request may ask for",
            parameter="/n",
            remedy=f"ask several times, or raise {PREFIX}MAX_IMAGES_PER_REQUEST (and MAX_QUEUED_IMAGES)",
            more={"bounds": f"integer from 1 to {most}"},
        )
    seed = body.seed if body.seed is not None else secrets.randbelow(catalog.MAX_SEED + 2 - n)
    if counts_up(body) and seed + n - 1 > catalog.MAX_SEED:
        raise InvalidParameter(
            f"seed: the last image would have seed {seed + n - 1}, more than {catalog.MAX_SEED}",
            parameter="/seed",
            remedy=f"choose a seed of at most {catalog.MAX_SEED - n + 1}",
        )
    idempotency = Idempotency.of(caller, ROUTE, key, body)

    def request(model: Weights) -> dict[str, Any]:
        return request_of(body, n, seed, lambda label, parameter: _label_index(model, label, parameter))

    def create(session: Session, now: datetime) -> records.Job:
        # Locked, so that the model is not deleted between this check and the job that needs it.
        model = find_weights(session, caller, body.model, parameter="/model")
        if model.checkpoint is None:
            raise ModelNotReady(
                f"the model {model.id} has no weights yet, it is {model.status.value}",
                parameter="/model",
                remedy="wait for the training's first checkpoint: `can_generate` of GET /v1/models/{id} is true then",
                more={"model_status": model.status.value},
            )
        intake.latest = model
        fits_a_batch = n <= settings.max_batch
        return jobs.new(
            JobKind.SAMPLE,
            request(model),
            now=now,
            priority=body.priority or (JobPriority.INTERACTIVE if fits_a_batch else JobPriority.BATCH),
            deadline_at=_deadline(body.deadline_at, cancel_after_s, now),
            model_id=model.id,
            checkpoint=model.checkpoint,
            total=n,
            unit="images",
            idempotency=idempotency.columns if idempotency else None,
            job_id=job_id,
            account=caller.account,
        )

    wish, url = Wish(caller, JobKind.SAMPLE, images=n), url_of(settings, body.webhook)
    ahead = _ahead(intake.latest, caller, body.model, request) if alone else None
    return Submission(idempotency, create, wish, url, ahead=ahead)


def _ahead(
    model: Weights | None, caller: Caller, model_id: str, request: Callable[[Weights], dict[str, Any]]
) -> Ahead | None:
    """What the job will be claimed with, by what was read of its model for an earlier one; None where that was another."""
    if model is None or model.id != model_id or model.checkpoint is None or not caller.sees(model):
        return None
    with suppress(InvalidParameter):  # the transaction says so
        return Ahead(model.id, model.checkpoint, request(model))
    return None


def _deadline(given: datetime | None, cancel_after_s: float | None, now: datetime) -> datetime | None:
    if given is not None and given <= now:
        raise InvalidParameter(
            f"deadline_at: {given.isoformat()} has passed, it is {now.isoformat(timespec='seconds')} here",
            parameter="/deadline_at",
            remedy="choose a later time, or say Cancel-After in seconds",
        )
    relative = now + timedelta(seconds=cancel_after_s) if cancel_after_s is not None else None
    return min((moment for moment in (given, relative) if moment is not None), default=None)


def _cancel(resources: Resources, caller: Caller, job_id: str) -> Job:
    try:
        return cancel(resources, caller, job_id)
    except InvalidTransition:  # it ended at that very moment
        return read(resources, caller, job_id)


def _label_index(model: Weights, label: Label | None, parameter: str) -> int | None:
    if label is None:
        return None
    if model.classes is None:
        raise InvalidParameter(
            f"{parameter[1:]}: the model {model.id} knows no classes",
            parameter=parameter,
            remedy="leave the label out",
        )
    if label in model.classes:
        return model.classes.index(str(label))
    # A name that looks like a number has been tried as a name first.
    index = int(label) if isinstance(label, int) or re.fullmatch(r"[0-9]{1,9}", label) else -1
    if not 0 <= index < len(model.classes):
        known = ", ".join(f"{index} {name}" for index, name in enumerate(model.classes))
        raise InvalidParameter(
            f"{parameter[1:]}: the model {model.id} has no class {label!r}",
            parameter=parameter,
            remedy=f"give the index or the name of one of: {known}",
            more={"classes": model.classes},
        )
    return index


def _picture(made: Made, rendition: Rendition, content: bytes) -> Response:
    """Return the answer that is the one image itself."""
    here = f"/v1/jobs/{made.job_id}"
    headers = {
        "Location": here,
        "Content-Location": content_url(made.image_id) + rendition.query,
        "Link": f'</v1/images/{made.image_id}>; rel="describedby", <{here}>; rel="related"',
        "Cache-Control": "private, no-store",  # it answers a POST; what the Content-Location names may be kept
    }
    return picture(made.sha256, rendition, content, 201, headers)


def _answer(seen: Seen) -> Response:
    """Return the answer in JSON to somebody who waited."""
    here = f"/v1/jobs/{seen.job.id}"
    job = Job.of(seen.job, list(seen.images))
    if job.status is JobStatus.FAILED and job.error is not None:
        status = STATUS_OF_CODE.get(job.error.code, 503 if job.error.retryable else 500)
        remedy = "send the request again" if job.error.retryable else f"see {here}"
        raise JobFailed(status, job.error.message, code=job.error.code, remedy=remedy, job=job.model_dump(mode="json"))
    if job.status is JobStatus.CANCELED:
        raise JobCanceled(
            f"{job.id} was canceled" + (f": {job.error.message}" if job.error is not None else " meanwhile"),
            remedy="ask again if you still want the images",
            more={"job": job.model_dump(mode="json")},
        )
    if job.status is not JobStatus.SUCCEEDED:
        return accepted(job)
    return Response(job.model_dump_json(), 201, media_type=JSON, headers={"Location": here})
