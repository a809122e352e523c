"""Metrics as Prometheus reads them."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from store.errors import DatabaseUnavailable, RedisUnavailable
from tests.app.conftest import Service
from tests.app.reporting import NOON, sampler

PLACE = {"worker": "sample-cuda0@x", "lane": "sample", "device": "cuda:0"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(service: Service) -> Samples:
    response = service.http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(response.text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_what_waits(service: Service) -> None:
    service.http.post("/v1/generations", json={"model": service.add_model(), "n": 3})
    samples = scraped(service)
    assert value(samples, "darkroom_jobs", lane="sample", status="queued") == 1
    assert value(samples, "darkroom_jobs", lane="train", status="running") == 0
    assert value(samples, "darkroom_images_waiting") == 3
    assert value(samples, "darkroom_free_bytes") > 0
    assert value(samples, "darkroom_up", resource="database") == value(samples, "darkroom_up", resource="redis") == 1


def test_what_workers_count(service: Service) -> None:
    service.resources.reports.publish(sampler())
    samples = scraped(service)
    assert value(samples, "darkroom_images_total", **PLACE) == 58
    assert value(samples, "darkroom_images_per_second", **PLACE) == 50
    assert value(samples, "darkroom_generator_cache_bytes", **PLACE) == 1000
    assert value(samples, "darkroom_worker_seen_seconds", **PLACE) == NOON + 60
    assert value(samples, "darkroom_stage_seconds_sum", **PLACE, stage="render") == 0.5
    assert value(samples, "darkroom_stage_seconds_count", **PLACE, stage="render") == 10
    for bound, count in (("1.0", 2), ("8.0", 10), ("+Inf", 10)):
        assert value(samples, "darkroom_batch_images_bucket", **PLACE, le=bound) == count
    assert value(samples, "darkroom_batch_images_sum", **PLACE) == 58
    for bound, count in (("0.01", 7), ("1.0", 9), ("+Inf", 10)):
        assert value(samples, "darkroom_job_wait_seconds_bucket", **PLACE, le=bound) == count


def test_a_worker_that_was_restarted_has_one_series_and_its_successor_speaks(service: Service) -> None:
    new = sampler("sample-cuda0-00@x").model_copy(update={"started_at": NOON + 90, "images": 1})
    for report in (sampler("sample-cuda0-ff@x"), new):
        service.resources.reports.publish(report)
    assert value(scraped(service), "darkroom_images_total", **PLACE) == 1


def test_requests_are_counted_by_their_route_s_template_and_not_by_what_was_asked_for(service: Service) -> None:
    def count(method: str, route: str, status: int) -> float:
        key = (
            "darkroom_http_request_duration_seconds_count",
            {"method": method, "route": route, "status": str(status)},
        )
        return scraped(service).get((key[0], frozenset(key[1].items())), 0)

    before = count("GET", "/v1/jobs/{job_id}", 404)
    strange = count("GET", "unknown", 404)
    for path in ("/v1/jobs/job_a", "/v1/jobs/job_b", "/wp-admin.php"):
        service.http.get(path)
    service.http.get("/v1/jobs", headers={"Host": "evil.example"})

    assert count("GET", "/v1/jobs/{job_id}", 404) == before + 2
    assert count("GET", "unknown", 404) == strange + 1
    assert count("GET", "unknown", 400) >= 1


def test_an_unknown_method_makes_no_series_of_its_own(service: Service) -> None:
    service.http.request("BREW", "/v1/jobs")
    assert "BREW" not in service.http.get("/metrics").text


def test_where_a_resource_is_away_the_rest_is_still_there(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_database(*_: object) -> None:
        raise DatabaseUnavailable("the database does not answer")

    def no_redis() -> None:
        raise RedisUnavailable("Redis does not answer")

    monkeypatch.setattr("app.system.jobs_waiting", no_database)
    monkeypatch.setattr(service.resources.reports, "current", no_redis)
    samples = scraped(service)
    assert value(samples, "darkroom_up", resource="database") == value(samples, "darkroom_up", resource="redis") == 0
    assert not [name for name, _ in samples if name in {"darkroom_jobs", "darkroom_images_total"}]
    assert value(samples, "darkroom_free_bytes") > 0
