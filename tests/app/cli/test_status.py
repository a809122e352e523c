"""`darkroom status` shows what waits, and every worker."""

from __future__ import annotations

import json

import pytest

from app.cli import main
from store.settings import Settings
from tests.app.conftest import Service
from tests.app.reporting import sampler


def test_status_shows_what_waits_and_every_worker(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_URL", service.url)
    monkeypatch.setenv("DARKROOM_API_KEY", service.key)
    monkeypatch.setenv("COLUMNS", "250")
    service.http.post("/v1/generations", json={"model": service.add_model(), "n": 3})
    service.resources.reports.publish(sampler())

    with pytest.raises(SystemExit) as ended:
        main(["status"])
    text = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["status", "--json"])
    found = json.loads(capsys.readouterr().out)

    assert ended.value.code in {None, 0}
    assert "1 queued, 0 running" in text
    assert "3 of at most 100,000" in text
    assert "sample-cuda0-aa@x" in text
    assert "9.1/50.0/-/-/-" in text
    assert found["images_waiting"] == 3
    assert "that is little" not in text


def test_status_warns_of_a_disk_that_is_nearly_full(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_URL", service.url)
    monkeypatch.setenv("DARKROOM_API_KEY", service.key)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(Settings, "free_bytes", lambda _: 2**20)
    with pytest.raises(SystemExit):
        main(["status"])
    assert "1.0 MiB free" in (text := capsys.readouterr().out)
    assert "that is little" in text
