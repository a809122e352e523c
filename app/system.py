"""The system as a whole: what waits, which workers there are, and how fast they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.auth import MayRead
from app.dependencies import Attached
from store.depth import images_waiting, jobs_waiting
from store.errors import DatabaseUnavailable, RedisUnavailable
from store.queue import Lane
from store.records import JobStatus
from store.reports import Histogram, WorkerReport
from store.resources import Resources

router = APIRouter(prefix="/v1/system", tags=["health"])

STAGE_EXAMPLE: dict[str, Any] = {"count": 120, "mean_s": 0.0031, "total_s": 0.372}
BINS_EXAMPLE: dict[str, Any] = {"bounds": [1, 8, 32], "counts": [3, 10, 107, 0], "count": 120, "mean": 27.4}
WORKER_EXAMPLE: dict[str, Any] = {
    "name": "sample-cuda:0-1f2e3d4c@gpu-host",
    "lane": "sample",
    "device": "cuda:0",
    "version": "0.1.0",
    "started_at": "2026-01-05T12:00:00Z",
    "seen_at": "2026-01-05T12:10:00Z",
    "images": 3288,
    "images_per_s": 310.5,
    "image_s": 0.0029,
    "cache_bytes": 14200000,
    "stages": {"claim": STAGE_EXAMPLE, "render": STAGE_EXAMPLE},
    "batch_images": BINS_EXAMPLE,
    "wait_s": {"bounds": [0.01, 0.1, 1], "counts": [3000, 200, 88, 0], "count": 3288, "mean": 0.02},
}
DEPTH_EXAMPLE: dict[str, Any] = {"queued": 3, "running": 1}


class Depth(BaseModel):
    """Unfinished jobs of one lane."""

    queued: int = Field(description="They wait for a worker.")
    running: int = Field(description="A worker has them.")

    model_config = ConfigDict(json_schema_extra={"examples": [DEPTH_EXAMPLE]})


class StageTime(BaseModel):
    """Time that one stage of the work took, since the worker began."""

    count: int = Field(description="How often: each stage once a batch; a claim may also find nothing.")
    mean_s: float = Field(description="Seconds each time.")
    total_s: float = Field(description="Seconds in all; stages of neighbouring batches overlap.")

    model_config = ConfigDict(json_schema_extra={"examples": [STAGE_EXAMPLE]})


class Bins(BaseModel):
    """How often values fell where, since the worker began."""

    bounds: list[float] = Field(description="Largest value of each bin; one bin more holds what is larger.")
    counts: list[int] = Field(description="Values in each bin.")
    count: int = Field(description="Values in all.")
    mean: float | None = Field(description="Their mean; null without any.")

    model_config = ConfigDict(json_schema_extra={"examples": [BINS_EXAMPLE]})


class Worker(BaseModel):
    """One worker process that has reported within the last half minute."""

    name: str = Field(description="Its name, unique for each start; leases carry it.")
    lane: Lane = Field(description="Whose jobs it works on.")
    device: str = Field(description="What its host calls the device where its tensors live.")
    version: str = Field(description="Its release of Darkroom.")
    started_at: datetime = Field(description="When it started, by its own clock.")
    seen_at: datetime = Field(description="When it last reported, by its own clock.")
    images: int = Field(description="Images that it has made.")
    images_per_s: float = Field(description="Images a second, over about ten seconds, idle ones included.")
    image_s: float | None = Field(description="Seconds that an image takes while it is busy; null before the first.")
    cache_bytes: int = Field(description="Bytes of the generators that it has loaded.")
    stages: dict[str, StageTime] = Field(
        description="Times of claim, render, encode, store and commit; `ahead`: of lone pictures, all of it."
    )
    batch_images: Bins = Field(description="Images in a batch.")
    wait_s: Bins = Field(description="Seconds between a job's submission and its claim.")

    model_config = ConfigDict(json_schema_extra={"examples": [WORKER_EXAMPLE]})

    @classmethod
    def of(cls, report: WorkerReport) -> Worker:
        """The report as clients see it."""
        stages = {
            name: StageTime(count=stage.count, total_s=stage.seconds, mean_s=stage.seconds / max(stage.count, 1))
            for name, stage in report.stages.items()
        }
        return cls(
            **report.model_dump(
                include={"name", "device", "version", "images", "images_per_s", "image_s", "cache_bytes"}
            ),
            lane=Lane(report.lane),
            started_at=datetime.fromtimestamp(report.started_at, UTC),
            seen_at=datetime.fromtimestamp(report.seen_at, UTC),
            stages=stages,
            batch_images=_bins(report.batch_images),
            wait_s=_bins(report.wait_s),
        )


class System(BaseModel):
    """The system as a whole."""

    version: str = Field(description="Release of the API.")
    queue: dict[Lane, Depth] = Field(description="Unfinished jobs by lane.")
    images_waiting: int = Field(description="Images that unfinished generations still want.")
    max_queued_images: int = Field(description="How many may wait.")
    devices: list[str] = Field(description="Where samplers are, as `device@host`.")
    images_per_s: float = Field(description="Images a second of all samplers, over about ten seconds.")
    cache_bytes: int = Field(description="Bytes of the generators that all samplers have loaded.")
    free_bytes: int = Field(description="Bytes left where blobs live.")
    disk_bytes: int = Field(description="Bytes of that disk.")
    low_on_disk: bool = Field(description="Whether less is left than DARKROOM_MIN_FREE_BYTES.")
    workers: list[Worker] = Field(description="Every worker that has reported within the last half minute, by name.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": "0.1.0",
                    "queue": dict.fromkeys(("sample", "train", "io"), DEPTH_EXAMPLE),
                    "images_waiting": 640,
                    "max_queued_images": 100000,
                    "devices": ["cuda:0@gpu-host"],
                    "images_per_s": 310.5,
                    "cache_bytes": 14200000,
                    "free_bytes": 812000000000,
                    "disk_bytes": 1000000000000,
                    "low_on_disk": False,
                    "workers": [WORKER_EXAMPLE],
                }
            ]
        }
    )


@dataclass(frozen=True)
class Survey:
    """What could be found out; None or nothing where the resource that knows does not answer."""

    jobs: Mapping[tuple[Lane, JobStatus], int] | None
    images: int | None
    reports: list[WorkerReport] | None
    free_bytes: int

    @classmethod
    def of(cls, resources: Resources, *, partly: bool) -> Survey:
        """A look at everything, which may wait on each resource.

        Args:
            resources: what to look at.
            partly: go on where one does not answer, rather than raise what it raised.

        Raises:
            DatabaseUnavailable: the database does not answer.
            RedisUnavailable: Redis does not answer.
        """
        waiting, images, reports = None, None, None
        try:
            with resources.database.snapshot() as session:
                waiting, images = jobs_waiting(session), images_waiting(session)
        except DatabaseUnavailable:
            if not partly:
                raise
        try:
            reports = resources.reports.current()
        except RedisUnavailable:
            if not partly:
                raise
        return cls(waiting, images, reports, resources.settings.free_bytes())


@router.get("", summary="Show the system", operation_id="get_system")
def get_system(_caller: MayRead, resources: Attached) -> System:
    """What waits, which workers there are and how fast, and how much disk is left. `/metrics` has the same for Prometheus."""
    found = Survey.of(resources, partly=False)
    waiting, reports = found.jobs or {}, found.reports or []
    return System(
        version=version("darkroom"),
        queue={
            lane: Depth(queued=waiting[lane, JobStatus.QUEUED], running=waiting[lane, JobStatus.RUNNING])
            for lane in Lane
        },
        images_waiting=found.images or 0,
        max_queued_images=resources.settings.max_queued_images,
        devices=sorted({f"{report.device}@{report.host}" for report in reports if report.lane == Lane.SAMPLE}),
        images_per_s=sum(report.images_per_s for report in reports),
        cache_bytes=sum(report.cache_bytes for report in reports),
        free_bytes=found.free_bytes,
        disk_bytes=resources.settings.disk_bytes(),
        low_on_disk=found.free_bytes < resources.settings.min_free_bytes,
        workers=[Worker.of(report) for report in reports],
    )


def _bins(histogram: Histogram) -> Bins:
    count = histogram.count
    return Bins(
        bounds=list(histogram.bounds),
        counts=list(histogram.counts),
        count=count,
        mean=histogram.total / count if count else None,
    )
