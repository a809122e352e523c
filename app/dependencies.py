"""What routes are given: the attached resources, the news, and the headers that several of them read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from anyio import CapacityLimiter
from fastapi import Depends, Header, Path, Query, Request

from app.errors import InvalidParameter
from app.news import News
from store.identifiers import Prefix
from store.resources import Resources

LONGEST_KEY = 150  # characters; the column also holds the route
KEY = rf"[\x21-\x7e]{{1,{LONGEST_KEY}}}"
MAX_PAGE = 100
NO_NULL = r"^[^\x00]*$"  # PostgreSQL keeps every character but this one


# These are async, so that none costs a trip to the thread pool.
async def _resources(request: Request) -> Resources:
    attached: Resources = request.app.state.resources
    return attached


async def _news(request: Request) -> News:
    news: News = request.app.state.news
    return news


async def _encoders(request: Request) -> CapacityLimiter:
    limiter: CapacityLimiter = request.app.state.encoders
    return limiter


# Headers of the busiest route are its own parameters: FastAPI takes a tenth of a request's time for each dependency.
IdempotencyHeader = Annotated[
    str | None,
    Header(
        description="Any unique text of at most 150 characters. The same key with the same request gives the same "
        "job again, so a request may be repeated after a lost connection.",
        examples=["2f1b7c1e-import-cats"],
        json_schema_extra={"pattern": f"^{KEY}$"},
    ),
]
PreferHeader = Annotated[
    str | None,
    Header(
        description="`wait=n`: answer when the job has ended, or after n seconds at most (RFC 7240).",
        examples=["wait=30"],
    ),
]
LONGEST_DEADLINE_S = 30 * 24 * 3600
CancelAfter = Annotated[
    float | None,
    Header(
        alias="cancel-after",
        gt=0,
        le=LONGEST_DEADLINE_S,
        description="Seconds after which nobody wants the result any more: what is not done by then is canceled, and "
        "not computed.",
        examples=[30],
    ),
]


def checked_key(idempotency_key: str | None) -> str | None:
    """Return the Idempotency-Key; raises InvalidParameter where it is none."""
    if idempotency_key is not None and not re.fullmatch(KEY, idempotency_key):
        raise InvalidParameter(
            f"Idempotency-Key has {len(idempotency_key)} characters or unusual ones",
            parameter="Idempotency-Key",
            remedy=f"use 1 to {LONGEST_KEY} visible ASCII characters without spaces, such as a UUID",
        )
    return idempotency_key


def wait_preferred_s(prefer: Sequence[str]) -> float | None:
    """Return how long the client would wait, by its Prefer headers; None where it says nothing of that."""
    # The header may come several times; each holds preferences between commas, each with parameters after semicolons.
    for preference in ",".join(prefer).split(","):
        found = re.fullmatch(r'wait\s*=\s*"?(\d{1,9}(?:\.\d{1,6})?)"?', preference.partition(";")[0].strip().lower())
        if found:
            return float(found[1])
    return None


async def _idempotency_key(idempotency_key: IdempotencyHeader = None) -> str | None:
    return checked_key(idempotency_key)


Attached = Annotated[Resources, Depends(_resources)]
NewsOfJobs = Annotated[News, Depends(_news)]
Encoders = Annotated[CapacityLimiter, Depends(_encoders)]  # bounds the threads that decode and encode pictures
IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]
IfNoneMatch = Annotated[str | None, Header(description="ETags that the client has; 304 when one is still right.")]

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Length of the page.")]


def _after(prefix: Prefix) -> Any:
    description = "Id of the last row of the page before; none: from the start."
    return Query(
        description=description, json_schema_extra={"pattern": rf"^{prefix}_[^\x00]*$"}
    )  # pages.py checks and explains it


AfterDataset = Annotated[str | None, _after("ds")]
AfterModel = Annotated[str | None, _after("mdl")]
AfterJob = Annotated[str | None, _after("job")]
AfterImage = Annotated[str | None, _after("img")]
AfterKey = Annotated[str | None, _after("key")]

DatasetId = Annotated[
    str, Path(pattern=NO_NULL, description="Id of a data set.", examples=["ds_019ad3a8c0de7c3f8f4d2b6a10c5e7f1"])
]
ModelId = Annotated[
    str, Path(pattern=NO_NULL, description="Id of a model.", examples=["mdl_019ad3a8c0de7c3f8f4d2b6a10c5e7f1"])
]
JobId = Annotated[
    str, Path(pattern=NO_NULL, description="Id of a job.", examples=["job_019ad3a8c0de7c3f8f4d2b6a10c5e7f1"])
]
ImageId = Annotated[
    str, Path(pattern=NO_NULL, description="Id of an image.", examples=["img_019ad3a8c0de7c3f8f4d2b6a10c5e7f1"])
]
