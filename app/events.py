"""Server-sent events of one job: a snapshot, then what happens, until it is done.

The bus is where events come from, the row is the truth: a lost Redis, or one that lost its data, never loses the end.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Header
from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse

from app.auth import Caller, MayRead
from app.caching import etag_of
from app.dependencies import Attached, JobId, NewsOfJobs
from app.jobs import Job, read
from app.news import News
from store.errors import RedisUnavailable, Unavailable
from store.events import Event
from store.resources import Resources

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

HEARTBEAT_S = 15.0  # longest silence, so that proxies keep the connection
REREAD_S = 3.0  # the row is looked at this often while there is no news
LINGER_S = 1.0  # a job's end is committed a moment before the bus hears of it
LONG_AGO_S = 10.0
RETRY_MS = 2000  # when a browser connects again
EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")
# Of what happened before the snapshot, only what it does not contain is worth telling.
WORTH_TELLING_LATE = frozenset({"metrics", "note", "preview", "done"})

EXAMPLE = (
    'event: snapshot\ndata: {"id":"job_019ad3a8…","object":"job","status":"running",…}\n\n'
    'event: progress\ndata: {"done":24000,"total":200000,"unit":"images","rate":1210.5,"eta_s":145.4}\nid: 1767614431000-0\n\n'
    'event: done\ndata: {"status":"succeeded","error":null}\nid: 1767614576000-0\n\n'
)
EVENT_SCHEMA = {  # of each event, as its fields are
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["snapshot", "status", "progress", "metrics", "preview", "image", "note", "done"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string", "description": "For `Last-Event-ID`."},
    },
}


@router.get(
    "/{job_id}/events",
    summary="Follow a job",
    operation_id="follow_job",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events: `snapshot` (the job), then `status`, `progress`, `metrics`, `preview`, `image` and `note` "
            "(a sentence) as they happen, and `done` as the last. Comments keep the connection alive.",
            "content": {"text/event-stream": {"itemSchema": EVENT_SCHEMA, "example": EXAMPLE}},
        }
    },
)
async def follow_job(
    caller: MayRead,
    resources: Attached,
    news: NewsOfJobs,
    job_id: JobId,
    last_event_id: Annotated[
        str | None, Header(description="Id of the last event that came through; browsers send it when they reconnect.")
    ] = None,
) -> StreamingResponse:
    """A stream of server-sent events, from a snapshot to `done`. Metrics and previews of the past are told as well."""
    await anyio.to_thread.run_sync(read, resources, caller, job_id)  # 404 while there still is a status to send
    after = last_event_id if last_event_id is not None and EVENT_ID.fullmatch(last_event_id) else None
    return StreamingResponse(
        _Follower(resources, news, caller, job_id, after).stream(),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


class _Follower:
    """One client's stream."""

    def __init__(self, resources: Resources, news: News, caller: Caller, job_id: str, after: str | None) -> None:
        self._resources, self._news, self._caller, self._job_id = resources, news, caller, job_id
        self._last = after  # id of the newest event that was told or passed over; None: the client is new
        self._shown = ""  # ETag of the newest snapshot that was told

    async def stream(self) -> AsyncIterator[bytes]:
        """The events, and comments where they are far between."""
        with self._news.listen(self._job_id) as ear:
            yield format_sse_event(retry=RETRY_MS)
            events = await self._events()  # before the row: what comes after it will be told
            job = await self._job()
            if job is not None:
                yield self._snapshot(job)
            told_at, has_lingered = anyio.current_time(), False
            while not ear.closing:
                for event in events or []:
                    yield _encoded(event.type, event.data, event.id)
                    told_at = anyio.current_time()
                    if event.type == "done":
                        return
                if events is None and job is not None and etag_of(job.model_dump_json().encode()) != self._shown:
                    yield self._snapshot(job)  # with Redis away, the row is all the news there is
                    told_at = anyio.current_time()
                if job is not None and job.has_ended:
                    if has_lingered or events is None or _ended_long_ago(job):
                        yield _encoded("done", {"status": job.status.value, "error": job.error and job.error.message})
                        return
                    has_lingered = True  # the bus has not said so yet, but probably is about to
                    await ear.wait(LINGER_S)
                    events = await self._events()
                    continue
                if anyio.current_time() - told_at >= HEARTBEAT_S:
                    yield b": still here\n\n"
                    told_at = anyio.current_time()
                has_news = await ear.wait(min(REREAD_S, HEARTBEAT_S))
                job = None if has_news and events is not None else await self._job()
                events = await self._events()

    async def _events(self) -> list[Event] | None:
        """What the bus has to tell after the last event; None when it is away."""
        try:
            events = await anyio.to_thread.run_sync(self._resources.bus.history, self._job_id, self._last)
        except RedisUnavailable as error:
            log.warning("events of %s are read from its row: %s", self._job_id, error)
            return None
        is_new, self._last = self._last is None, events[-1].id if events else self._last or "0-0"
        return [event for event in events if event.type in WORTH_TELLING_LATE] if is_new else events

    async def _job(self) -> Job | None:
        """The row; None when the database is away."""
        try:
            return await anyio.to_thread.run_sync(read, self._resources, self._caller, self._job_id)
        except Unavailable as error:
            log.warning("following %s goes on although: %s", self._job_id, error)
            return None

    def _snapshot(self, job: Job) -> bytes:
        content = job.model_dump_json()
        self._shown = etag_of(content.encode())
        return format_sse_event(event="snapshot", data_str=content)


def _encoded(event: str, data: dict[str, Any], event_id: str | None = None) -> bytes:
    return format_sse_event(event=event, data_str=json.dumps(data, separators=(",", ":")), id=event_id)


def _ended_long_ago(job: Job) -> bool:
    return job.finished_at is not None and datetime.now(UTC) - job.finished_at > timedelta(seconds=LONG_AGO_S)
