"""The API as a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from store import jobs
from store.blobs import LocalBlobs
from store.database import Database
from store.events import MemoryBus
from store.records import JobKind
from store.resources import Resources
from store.settings import Settings
from tests.app.conftest import AudibleQueue, client_of, eventually, make_key, serving


def test_the_process_shows_the_first_key_and_stops_when_told(tmp_path: Path) -> None:
    redis = {"DARKROOM_REDIS_URL": "redis://127.0.0.1:1"}  # away: the service starts all the same
    env = {**os.environ, **redis, "DARKROOM_DATA_DIR": str(tmp_path), "DARKROOM_PORT": "0"}
    Database(f"sqlite:///{tmp_path}/darkroom.db").migrate()
    process = subprocess.Popen([sys.executable, "-m", "app.serve"], env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "running on" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=20)

    assert len(re.findall(r"^    dk_[0-9a-f]{32}_[\w-]{43}$", "".join(lines), re.MULTILINE)) == 1
    assert process.returncode in {0, -signal.SIGTERM}, rest


def test_a_wrong_setting_ends_the_start_with_its_name(tmp_path: Path) -> None:
    env = {**os.environ, "DARKROOM_DATA_DIR": str(tmp_path), "DARKROOM_HOST": "0.0.0.0", "DARKROOM_AUTH": "off"}  # noqa: S104  # that is the point
    done = subprocess.run([sys.executable, "-m", "app.serve"], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "DARKROOM_HOST=0.0.0.0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", [("app.serve",), ("app.cli", "up")])
def test_on_a_database_of_a_later_release_nothing_starts_and_the_reason_is_said(
    tmp_path: Path, module: tuple[str, ...]
) -> None:
    database = Database(f"sqlite:///{tmp_path}/darkroom.db")
    database.migrate()
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    env = {**os.environ, "DARKROOM_DATA_DIR": str(tmp_path), "DARKROOM_PORT": "0", "COLUMNS": "300"}

    done = subprocess.run([sys.executable, "-m", *module], env=env, capture_output=True, text=True, timeout=60)

    assert done.returncode in {1, 2}
    assert "the database is at 9999, of a later release than this one" in done.stderr
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
    key, answers = make_key(resources.database, "read"), list[httpx.Response]()

    with serving(resources) as (url, app, server):

        def get(path: str) -> None:
            with client_of(url, key) as http:
                answers.append(http.get(f"/v1/jobs/{job.id}{path}"))

        threads = [threading.Thread(target=get, args=(path,)) for path in ("?wait=50", "/events")]
        for thread in threads:
            thread.start()
        eventually(lambda: app.state.news.listeners == 2)
        server.should_exit = True
        for thread in threads:
            thread.join(5)

    assert [answer.status_code for answer in answers] == [200, 200]
    resources.close()
