"""SIGTERM on a host: its launcher ends in time, and what its workers were doing goes on at once on another host."""

from __future__ import annotations

import io
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.client import Client
from bench.hosts import Part, Service, breakable
from bench.rows import Observer, Row
from bench.wishes import archive

WITHIN_S = 240.0  # a busy machine may need that long
COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
OPTIONS = {"base_channels": 4, "latent_dim": 8, "batch_size": 8}


def until(true: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := true()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def grace_s() -> float:
    """What docker waits after SIGTERM, s."""
    return float(yaml.safe_load(COMPOSE.read_text())["services"]["worker"]["stop_grace_period"].removesuffix("s"))


def ready(host: Part) -> bool:
    """Whether all three workers of its newest start listen."""
    newest = host.log.read_text().rpartition("launcher: devices")[2]
    return len(set(re.findall(r"ready for (\w+) jobs", newest))) == 3


def begun(row: Row) -> bool:
    return row.status == "running"


def progressed(row: Row) -> bool:
    return row.done > 0


def taken_again(row: Row) -> bool:
    return row.fence == 2


def host_with(service: Service, row: Row) -> Part:
    return service.host_of(next(worker for worker in service.workers() if worker.name == row.owner))


@pytest.mark.e2e
@pytest.mark.slow
def test_every_kind_of_job_goes_on_elsewhere_as_soon_as_its_host_is_stopped(tmp_path: Path) -> None:
    settings = {"CHECKPOINT_INTERVAL_S": "1000", "EVALUATION_SHARE": "0", "AUTH": "off"}
    with (
        breakable(tmp_path, "sqlite", settings) as service,
        Client(service.url) as client,
        Observer(service.database_url) as rows,
    ):

        def row(job_id: str) -> Row:
            return rows.rows[job_id]

        def is_so(job_id: str, check: Callable[[Row], bool]) -> bool:
            return job_id in rows.rows and check(row(job_id))

        def ended(job_id: str) -> Row:
            until(partial(is_so, job_id, lambda now: now.ended), f"{job_id} does not end")
            return row(job_id)

        dataset = client.upload(io.BytesIO(archive(64)), name="squares", resolution=32)
        assert ended(dataset["id"]).status == "succeeded"
        first = client.train(dataset["dataset"], kind="gan-dcgan", options=OPTIONS, budget={"images": 64}, seed=1)
        assert ended(first["id"]).status == "succeeded"
        model = first["model"]

        submissions: dict[str, Callable[[], dict[str, Any]]] = {
            "train": lambda: client.train(
                dataset["dataset"], kind="gan-dcgan", options=OPTIONS, budget={"images": 4000}, seed=1
            ),
            "sample": lambda: client.generate(model, n=3000, seed=1),
            "evaluate": lambda: client.evaluate(model, n=50),
            "export": lambda: client.export(model, "native"),
            "import": lambda: client.upload(io.BytesIO(archive(20_000)), name="many", resolution=32),
        }
        for kind, submit in submissions.items():
            for host in service.hosts:
                until(partial(ready, host), f"{host.name} is not ready")
            job_id = submit()["id"]
            until(partial(is_so, job_id, begun), f"{kind} does not begin")
            if kind in {"train", "sample", "evaluate"}:
                until(partial(is_so, job_id, progressed), f"{kind} makes no progress")
            host, before = host_with(service, row(job_id)), row(job_id)
            told_at = time.monotonic()
            host.end(signal.SIGTERM)
            assert host.process is not None
            assert host.process.returncode == 0
            assert time.monotonic() - told_at < grace_s()
            until(partial(is_so, job_id, taken_again), f"{kind} is taken by nobody")
            assert time.monotonic() - told_at < 30, f"{kind} waited for its lease to run out"
            after = row(job_id)
            assert after.attempts <= 1
            assert after.owner != before.owner
            if kind in {"train", "sample"}:
                assert after.cursor > 0  # the checkpoint that was written at SIGTERM; the slices before it
            host.start()
            assert ended(job_id).status == "succeeded"
            assert row(job_id).fence == 2
