"""Jobs that kill their workers, or take all memory: real processes, kept by the real supervisor."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import pytest

from store import jobs
from store.processes import Supervisor
from store.records import Dataset, DatasetStatus, Job, JobKind, JobStatus
from store.resources import Resources
from store.settings import Settings
from worker.devices import CPU
from worker.launch import programs

WITHIN_S = 300.0


@pytest.mark.slow
def test_a_job_that_kills_its_worker_fails_with_the_reason_and_the_others_go_on(
    redis_url: str, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given poison, a job that takes all memory, and a good one in the line behind them, I expect the first two to fail with a
    reason each in its row, after as many attempts as are allowed, and the third to succeed."""
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=sqlite_url, redis_url=redis_url, max_attempts=2)
    for name in ("data_dir", "database_url", "redis_url", "max_attempts"):
        monkeypatch.setenv(f"DARKROOM_{name.upper()}", str(getattr(settings, name)))
    resources = Resources.open(settings)
    submitted = {}
    with resources.database.transaction() as session:
        for name in ("poison", "greedy", "good"):
            session.add(Dataset(id=f"ds_{name}", name=name))
            request, now = {"source": {}, "name": name}, resources.database.now(session)
            submitted[name] = jobs.submit(session, JobKind.IMPORT, request, now=now, dataset_id=f"ds_{name}").id

    def ended() -> dict[str, Job]:
        with resources.database.snapshot() as session:
            rows = {name: session.get_one(Job, job_id) for name, job_id in submitted.items()}
        return {name: row for name, row in rows.items() if row.finished_at is not None}

    def stop_when_all_have_ended() -> None:
        deadline = time.monotonic() + WITHIN_S
        while len(ended()) < len(submitted) and time.monotonic() < deadline:
            time.sleep(0.05)
        supervisor.stop()

    io = programs(settings, resources, [CPU])[0]

    def poisoned() -> list[str]:
        return ["tests.worker.poisoned" if word == "worker.main" else word for word in io.argv()]

    supervisor = Supervisor([dataclasses.replace(io, argv=poisoned)], grace_s=20)
    watcher = threading.Thread(target=stop_when_all_have_ended)
    watcher.start()
    supervisor.run()
    watcher.join()
    rows = ended()
    resources.close()

    assert {name: row.status for name, row in rows.items()} == {
        "poison": JobStatus.FAILED,
        "greedy": JobStatus.FAILED,
        "good": JobStatus.SUCCEEDED,
    }
    assert (rows["poison"].error_code, rows["poison"].attempts, rows["poison"].fence) == ("worker_lost", 2, 2)
    assert "died 2 times" in (rows["poison"].error_message or "")
    assert "by signal SIGKILL" in (rows["poison"].error_message or "")
    assert (rows["greedy"].error_code, rows["greedy"].error_retryable) == ("out_of_memory", True)
    with Resources.open(settings).database.snapshot() as session:
        assert session.get_one(Dataset, "ds_poison").status is DatasetStatus.FAILED
