"""`darkroom export`, against the API behind a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.client import Client, ClientError
from store.records import JobKind
from tests.app.cli.test_commands import Run, claimed, run
from tests.app.conftest import Service, at_the_same_time
from tests.app.test_exports import exporting

__all__ = ["run"]  # the fixture


def working(service: Service) -> None:
    assert service.queue.rung.wait(10)
    exporting(service, b"PK of a model")


def test_the_zip_is_saved_where_it_is_asked_for(run: Run, service: Service, tmp_path: Path) -> None:
    service.add_model()
    with at_the_same_time(lambda: working(service)):
        ended = run("export", "pets 32", "--format", "onnx", "--out", tmp_path / "new" / "pets.zip")
    assert ended.status == 0, ended.err
    assert (tmp_path / "new" / "pets.zip").read_bytes() == b"PK of a model"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["pets.zip"]
    assert ended.out.strip().endswith("pets.zip")


def test_its_name_is_that_of_the_model_unless_told(
    run: Run, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    service.add_model()
    with at_the_same_time(lambda: working(service)):
        ended = run("export", "pets 32", "--json")
    assert ended.json["file"] == "pets_32-onnx.zip"
    assert (tmp_path / "pets_32-onnx.zip").exists()


def test_a_failed_export_says_why_and_saves_nothing(run: Run, service: Service, tmp_path: Path) -> None:
    service.add_model()
    with at_the_same_time(
        lambda: service.worker.fail(claimed(service, JobKind.EXPORT), "export_differs", retryable=False)
    ):
        ended = run("export", "pets 32", "--out", tmp_path / "pets.zip")
    assert ended.status == 1
    assert "export_differs happened" in ended.err
    assert list(tmp_path.iterdir()) == []
    assert run("export", "pets 32", "--format", "jpeg").status == 2


def test_a_download_that_is_refused_or_has_no_place_leaves_nothing(service: Service, tmp_path: Path) -> None:
    with Client(service.url, api_key=service.key) as client:
        with pytest.raises(ClientError, match="export_not_found"):
            client.download(f"/v1/models/{service.add_model()}/exports/onnx", tmp_path / "a.zip")
        (tmp_path / "file").touch()
        with pytest.raises(ClientError, match="can't be written"):
            client.download("/healthz", tmp_path / "file" / "a.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
