"""Metrics for Prometheus: how long requests take here, what waits, and what workers count of themselves.

Requests are counted by this process. Everything else is looked up when somebody asks; where a resource does not answer, its
metrics are left out and `darkroom_up` says so. A worker's series is named by its place (`sample-cuda0@host`), which outlives
its restarts: its counters then begin at zero again, as Prometheus expects.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth import MayRead
from app.system import Survey
from store import reports
from store.reports import WorkerReport
from store.resources import Resources

REQUEST_BOUNDS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})  # a stranger may invent others

router = APIRouter(tags=["health"])


class Meter:
    """Measures every request, by method, route and status, until its response has been sent.

    Args:
        app: the application behind it.
        durations: where to; labels method, route and status.
    """

    def __init__(self, app: ASGIApp, *, durations: Histogram) -> None:
        self.app = app
        self.durations = durations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            # The template, and not the path: ids would make a series each, and so would whatever a stranger asks for.
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.durations.labels(method, route, status).observe(time.perf_counter() - began)


class Metrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.durations = Histogram(
            "darkroom_http_request_duration_seconds",
            "Time from a request to the end of its response, waiting asked for by the client included.",
            ("method", "route", "status"),
            buckets=REQUEST_BOUNDS_S,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)

    def text(self, resources: Resources) -> bytes:
        """Return everything in Prometheus's text format."""
        survey = CollectorRegistry()
        survey.register(_Survey(Survey.of(resources, partly=True)))
        return generate_latest(self._registry) + generate_latest(survey)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    operation_id="get_metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus's text format, 0.0.4."}},
)
def get_metrics(_caller: MayRead, request: Request) -> Response:
    """Queue depth, batches, waits, images, stages and cache of every worker, and how long requests to this process take."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(request.app.state.resources), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Survey(Collector):
    """One look at the system, as metrics."""

    def __init__(self, found: Survey) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        found = self._found
        yield InfoMetricFamily("darkroom", "This release.", {"version": version("darkroom")})
        up = GaugeMetricFamily("darkroom_up", "Whether the resource answers.", labels=["resource"])
        up.add_metric(["database"], found.jobs is not None)
        up.add_metric(["redis"], found.reports is not None)
        yield up
        yield GaugeMetricFamily("darkroom_free_bytes", "Bytes left where blobs live.", found.free_bytes)
        if found.jobs is not None and found.images is not None:
            depth = GaugeMetricFamily("darkroom_jobs", "Unfinished jobs.", labels=["lane", "status"])
            for (lane, status), count in found.jobs.items():
                depth.add_metric([lane, status], count)
            yield depth
            yield GaugeMetricFamily(
                "darkroom_images_waiting", "Images that unfinished generations still want.", found.images
            )
        yield from _of_workers(found.reports or [])


def _of_workers(found: Sequence[WorkerReport]) -> Iterable[Metric]:
    names = ["worker", "lane", "device"]
    seen = GaugeMetricFamily("darkroom_worker_seen_seconds", "Unix time of a worker's last report.", labels=names)
    images = CounterMetricFamily("darkroom_images", "Images made.", labels=names)
    rate = GaugeMetricFamily("darkroom_images_per_second", "Images a second, of about ten.", labels=names)
    cache = GaugeMetricFamily("darkroom_generator_cache_bytes", "Bytes of loaded generators.", labels=names)
    stages = SummaryMetricFamily(
        "darkroom_stage_seconds",
        "Time of each stage of a batch: claim, render, encode, store and commit; ahead: a lone picture in all.",
        labels=[*names, "stage"],
    )
    batches = HistogramMetricFamily("darkroom_batch_images", "Images in a batch.", labels=names)
    waits = HistogramMetricFamily("darkroom_job_wait_seconds", "From a job's submission to its claim.", labels=names)
    # Of a place where a successor has begun before its predecessor was forgotten, the successor speaks.
    newest = {report.place: report for report in sorted(found, key=lambda report: report.started_at)}
    for place, report in sorted(newest.items()):
        labels = [place, report.lane, report.device]
        seen.add_metric(labels, report.seen_at)
        images.add_metric(labels, report.images)
        rate.add_metric(labels, report.images_per_s)
        cache.add_metric(labels, report.cache_bytes)
        for stage, time_ in report.stages.items():
            stages.add_metric([*labels, stage], time_.count, time_.seconds)
        batches.add_metric(labels, _cumulative(report.batch_images), report.batch_images.total)
        waits.add_metric(labels, _cumulative(report.wait_s), report.wait_s.total)
    return seen, images, rate, cache, stages, batches, waits


def _cumulative(histogram: reports.Histogram) -> list[tuple[str, float]]:
    sofar, buckets = 0, []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        sofar += count
        buckets.append((bound, float(sofar)))
    return buckets
