"""The API as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from store import jobs
from store.blobs import LocalBlobs
from store.database import Database
from store.events import MemoryBus
from store.records import JobKind
from store.resources import Resources
from store.settings import Settings
from tests.app.conftest import AudibleQueue, eventually, serving


def test_the_process_says_that_it_is_local_and_stops_when_told(tmp_path: Path) -> None:
    redis = {"DARKROOM_REDIS_URL": "redis://127.0.0.1:1"}  # away: the service starts all the same
    env = {**os.environ, **redis, "DARKROOM_DATA_DIR": str(tmp_path), "DARKROOM_PORT": "0"}
    process = subprocess.Popen([sys.executable, "-m", "app.serve"], env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "running on" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=20)

    assert "loopback only" in "".join(lines)
    assert "because there are no API keys yet" in "".join(lines)
    assert process.returncode in {0, -signal.SIGTERM}, rest


def test_a_wrong_setting_ends_the_start_with_its_name(tmp_path: Path) -> None:
    env = {**os.environ, "DARKROOM_DATA_DIR": str(tmp_path), "DARKROOM_HOST": "0.0.0.0"}  # noqa: S104  # that is the point
    done = subprocess.run([sys.executable, "-m", "app.serve"], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "DARKROOM_HOST=0.0.0.0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    settings = Settings(_env_file=None, data_dir=tmp_path)
    database = Database(settings.resolved_database_url)
    database.migrate()
    return Resources(settings, database, LocalBlobs(settings.resolved_blobs_dir), MemoryBus(), AudibleQueue())


def test_a_stop_ends_streams_and_waits_at_once(resources: Resources) -> None:
    with resources.database.transaction() as session:
        job = jobs.submit(session, JobKind.SAMPLE, {"n": 1}, now=resources.database.now(session), total=1)
    answers: list[httpx.Response] = []

    with serving(resources) as (url, app, server):

        def get(path: str) -> None:
            answers.append(httpx.get(f"{url}/v1/jobs/{job.id}{path}", timeout=20, trust_env=False))

        threads = [threading.Thread(target=get, args=(path,)) for path in ("?wait=50", "/events")]
        for thread in threads:
            thread.start()
        eventually(lambda: app.state.news.listeners == 2)
        server.should_exit = True
        for thread in threads:
            thread.join(5)

    assert [answer.status_code for answer in answers] == [200, 200]
    resources.close()
