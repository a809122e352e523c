"""How much an account may ask for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.auth import Caller
from app.errors import QuotaExceeded
from app.quotas import Quotas, Wish
from store import jobs, usage
from store.database import Database
from store.events import MemoryBus
from store.memory_blobs import MemoryBlobs
from store.queue import MemoryQueue
from store.records import Image, JobKind, Scope
from store.resources import Resources
from store.settings import Settings
from tests.app.conftest import Service, assert_problem, running, zip_of

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
SHOP = Caller("key_1", "shop", frozenset({Scope.GENERATE}))
PRESS = Caller("key_2", "press", frozenset({Scope.GENERATE}))


def quotas_of(database: Database, directory: Path, **settings: Any) -> Quotas:
    given = Settings(_env_file=None, data_dir=directory, **settings)
    return Quotas(Resources(given, database, MemoryBlobs(), MemoryBus(), MemoryQueue()))


def take(quotas: Quotas, database: Database, wish: Wish, now: datetime = NOON) -> None:
    with database.transaction() as session:
        quotas.check(session, wish, now=now)
        jobs.submit(session, wish.kind, {}, now=now, model_id="m", total=wish.images, account=wish.caller.account)
        quotas.note(session, wish, now=now)


def test_images_of_a_day_are_counted_by_account_and_begin_anew_at_midnight(database: Database, tmp_path: Path) -> None:
    quotas = quotas_of(database, tmp_path, quota_images_per_day=10)
    take(quotas, database, Wish(SHOP, JobKind.SAMPLE, images=6))
    with pytest.raises(QuotaExceeded) as refused:
        take(quotas, database, Wish(SHOP, JobKind.SAMPLE, images=5))
    assert refused.value.retry_after_s == 12 * 3600
    assert refused.value.headers["RateLimit-Policy"] == '"images_per_day";q=10;w=86400'
    assert refused.value.headers["RateLimit"] == f'"images_per_day";r=4;t={12 * 3600}'

    take(quotas, database, Wish(SHOP, JobKind.SAMPLE, images=4))  # what was refused was not counted
    take(quotas, database, Wish(PRESS, JobKind.SAMPLE, images=10))
    take(quotas, database, Wish(SHOP, JobKind.SAMPLE, images=10), now=NOON + timedelta(hours=12))


def test_jobs_that_wait_and_trainings_at_once_are_bounded(database: Database, tmp_path: Path) -> None:
    quotas = quotas_of(database, tmp_path, quota_queued_jobs=3, quota_trainings=1)
    take(quotas, database, Wish(SHOP, JobKind.TRAIN))
    with pytest.raises(QuotaExceeded, match="trainings: 1 of 1"):
        take(quotas, database, Wish(SHOP, JobKind.TRAIN))
    with database.transaction() as session:
        [training] = jobs.claim(session, [JobKind.TRAIN], owner="w", now=NOON, lease_s=30)
    with pytest.raises(QuotaExceeded, match="trainings"):  # a running one is one at once, too
        take(quotas, database, Wish(SHOP, JobKind.TRAIN))
    for _ in range(3):
        take(quotas, database, Wish(SHOP, JobKind.EXPORT))
    with pytest.raises(QuotaExceeded, match="queued jobs: 3 of 3"):
        take(quotas, database, Wish(SHOP, JobKind.EXPORT))
    take(quotas, database, Wish(PRESS, JobKind.TRAIN))

    with database.transaction() as session:
        jobs.succeed(session, training, now=NOON, result={})
        jobs.claim(session, [JobKind.EXPORT], owner="w", now=NOON, lease_s=30)
    take(quotas, database, Wish(SHOP, JobKind.TRAIN))


def test_stored_bytes_are_bounded(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.quotas.REFRESH_S", 0.0)
    monkeypatch.setattr("app.quotas.LEAST_IDLE", 0)
    quotas = quotas_of(database, tmp_path, quota_stored_bytes=1000)
    take(quotas, database, Wish(SHOP, JobKind.IMPORT, size_bytes=1000))
    with pytest.raises(QuotaExceeded):
        take(quotas, database, Wish(SHOP, JobKind.IMPORT, size_bytes=1001))
    with database.transaction() as session:
        job = jobs.submit(session, JobKind.SAMPLE, {}, now=NOON, account="shop")
        session.flush()
        session.add(
            Image(
                id="img_1", account="shop", job_id=job.id, position=0, model_id="m", checkpoint="c", seed=0, width=1, height=1,
                blob="b", size_bytes=1000, sha256="s",
            )
        )  # fmt: skip
    with pytest.raises(QuotaExceeded, match="stored bytes: 1,000 of 1,000"):
        take(quotas, database, Wish(SHOP, JobKind.SAMPLE, images=1))
    take(quotas, database, Wish(PRESS, JobKind.SAMPLE, images=1))


def test_a_key_may_have_its_own_or_none(database: Database, tmp_path: Path) -> None:
    quotas = quotas_of(database, tmp_path, quota_images_per_day=1)
    more = Caller("key_3", "shop", frozenset({Scope.GENERATE}), {"images_per_day": 5})
    without = Caller("key_4", "shop", frozenset({Scope.GENERATE}), {"images_per_day": 0})
    take(quotas, database, Wish(more, JobKind.SAMPLE, images=5))
    for refused in (more, SHOP):
        with pytest.raises(QuotaExceeded):
            take(quotas, database, Wish(refused, JobKind.SAMPLE, images=1))
    take(quotas, database, Wish(without, JobKind.SAMPLE, images=100))


def test_those_who_ask_at_the_same_time_do_not_pass_it_together(database: Database, tmp_path: Path) -> None:
    quotas = quotas_of(database, tmp_path, quota_images_per_day=5)
    results: list[str] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        try:
            take(quotas, database, Wish(SHOP, JobKind.SAMPLE, images=1))
            results.append("in")
        except QuotaExceeded:
            results.append("out")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(results) == ["in"] * 5 + ["out"] * 3
    with database.snapshot() as session:
        assert usage.images_today(session, "shop", now=NOON) == 5


@pytest.fixture(scope="module")
def _metered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(
        tmp_path_factory.mktemp("metered"), quota_images_per_day=4, quota_trainings=1, quota_queued_jobs=50
    ) as service:
        yield service


@pytest.fixture
def metered(_metered: Service) -> Service:
    """An empty service with small quotas."""
    _metered.clear()
    return _metered


def test_the_service_refuses_what_is_too_much_and_makes_nothing(metered: Service) -> None:
    model_id, dataset_id = metered.add_model(), metered.add_dataset()

    def generate(n: int, **headers: str) -> httpx.Response:
        return metered.http.post("/v1/generations", json={"model": model_id, "n": n}, headers=headers)

    assert generate(3, **{"Idempotency-Key": "once"}).status_code == 202
    refused = generate(2)
    problem = assert_problem(refused, 429, "quota_exceeded")
    assert (problem["quota"], problem["limit"], problem["used"]) == ("images_per_day", 4, 3)
    assert int(refused.headers["retry-after"]) > 0
    assert (
        refused.headers["ratelimit-policy"].startswith('"images_per_day"') or "," in refused.headers["ratelimit-policy"]
    )
    assert generate(3, **{"Idempotency-Key": "once"}).status_code == 202  # the job that there is, and nothing more
    assert generate(1).status_code == 202
    assert len(metered.http.get("/v1/jobs").json()["data"]) == 2

    assert metered.http.post("/v1/trainings", json={"dataset": dataset_id}).status_code == 202
    refused = metered.http.post("/v1/trainings", json={"dataset": dataset_id})
    assert_problem(refused, 429, "quota_exceeded")
    assert len(metered.http.get("/v1/models").json()["data"]) == 2


def test_an_upload_that_is_too_much_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(tmp_path, quota_stored_bytes=10) as service:
        answer = service.http.post("/v1/datasets", files={"file": ("a.zip", zip_of(a=b"a" * 100))})
        assert_problem(answer, 429, "quota_exceeded")
        assert not [path for path in service.blob_files() if path.startswith("uploads")]
