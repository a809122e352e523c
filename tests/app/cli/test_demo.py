"""The demo's steps, against the API behind a real server; hands play the worker at the same time."""

from __future__ import annotations

import io
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from PIL import Image as Picture

from app.cli import credential, digits, main
from store.jobs import Claim
from store.records import Dataset, DatasetStatus, JobKind, Model, ModelStatus
from tests.app import conftest
from tests.app.conftest import Service, at_the_same_time, eventually, zip_of


class Hands:
    """Imports, trains and samples until told to stop."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.stop = threading.Event()

    def work(self) -> None:
        service = self.service
        while not self.stop.is_set():
            if not service.queue.rung.wait(0.05):
                continue
            service.queue.rung.clear()
            kinds = [job["kind"] for job in service.http.get("/v1/jobs?status=queued&limit=100").json()["data"]]
            if "import" in kinds:
                self._import()
            if "train" in kinds:
                self._train()
            if "sample" in kinds:
                service.worker.sample()

    def _import(self) -> None:
        claim = self.service.worker.claim(JobKind.IMPORT)
        with self.service.resources.database.transaction() as session:
            dataset = session.get_one(Dataset, claim.dataset_id)
            dataset.status, dataset.resolution, dataset.channels = DatasetStatus.READY, 128, 3
            dataset.classes = [{"name": "cat", "count": 1}, {"name": "dog's", "count": 1}]
            dataset.image_count = 2
        self.service.worker.succeed(claim, {})

    def _train(self) -> None:
        self.finish(self.service.worker.claim(JobKind.TRAIN))

    def finish(self, claim: Claim) -> None:
        """Ends a training well."""
        with self.service.resources.database.transaction() as session:
            model = session.get_one(Model, claim.model_id)
            model.status, model.images_seen = ModelStatus.READY, 5000
            model.metrics = {"losses": {"D": 0.5, "G": 1.5}}
            model.checkpoint = f"models/{model.id}/000000005000-1"
        self.service.worker.succeed(claim, {})


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    path = tmp_path / "my pets.zip"
    path.write_bytes(zip_of(**{"cat/1.png": b"1", "dog's/2.png": b"2"}))
    return path


def demo_steps(service: Service, data_dir: Path, data: Path) -> int:
    (data_dir / "logs").mkdir(parents=True, exist_ok=True)
    (data_dir / "logs" / "workers.log").write_text("launcher: devices: cpu\n")
    credential.keep(data_dir, service.url, service.key)
    with pytest.raises(SystemExit) as ended:
        main(["demo-steps", service.url, str(data_dir), "--data", str(data)])
    return int(ended.value.code or 0)


@pytest.fixture
def hands(service: Service, monkeypatch: pytest.MonkeyPatch) -> Hands:
    file = io.BytesIO()
    Picture.new("L", (32, 32), 90).save(file, "PNG")
    monkeypatch.setattr(conftest, "PNG", file.getvalue())
    return Hands(service)


def test_the_demo_saves_a_grid_with_a_row_for_each_class_and_its_curl_lines_work(
    hands: Hands, tmp_path: Path, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def once() -> None:
        try:
            assert demo_steps(hands.service, tmp_path / "data", pets) == 0
        finally:
            hands.stop.set()

    with at_the_same_time(hands.work):
        once()

    # Then the grid is where it says
    text = capsys.readouterr()
    grid = tmp_path / "data" / "demo" / "grid.png"
    assert str(grid) in text.err.replace("\n", "")
    with Picture.open(grid) as picture:
        assert picture.width > 3 * picture.height  # two rows of eight
    # And the model's size was bounded, since the demo is to be quick
    (model,) = hands.service.http.get("/v1/models").json()["data"]
    assert (model["name"], model["resolution"]) == ("my pets", 64)

    # And when the lines are pasted, each of them works
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl and bash are not both installed")
    lines = text.out.partition("darkroom generate")[0].replace("curl ", "curl --fail -sS ")
    hands.stop.clear()

    def paste() -> None:
        try:
            subprocess.run(["bash", "-euc", lines], check=True, cwd=tmp_path, timeout=30, capture_output=True)
        finally:
            hands.stop.set()

    with at_the_same_time(hands.work):
        paste()
    assert (tmp_path / "new.png").read_bytes().startswith(b"\x89PNG")
    again = [model["name"] for model in hands.service.http.get("/v1/models").json()["data"]]
    assert again == ["my pets-again", "my pets"]


def test_a_training_that_an_earlier_demo_left_is_gone_on_with(
    hands: Hands, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given digits that were imported and are being trained on
    monkeypatch.setattr(digits, "COUNT", 20)
    monkeypatch.setattr(digits, "write_digits", lambda path: path)
    dataset = hands.service.add_dataset(resolution=32)
    with hands.service.resources.database.transaction() as session:
        session.get_one(Dataset, dataset).name = "digits"
    body = {"dataset": dataset, "name": "digits", "budget": {"seconds": 50}}
    job = hands.service.http.post("/v1/trainings", json=body).json()

    claim = hands.service.worker.claim(JobKind.TRAIN)

    def go_on() -> None:
        eventually(lambda: bool(hands.service.news._ears))  # somebody watches
        hands.finish(claim)
        hands.work()

    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "workers.log").write_text("launcher: devices: cpu\n")
    credential.keep(tmp_path, hands.service.url, hands.service.key)
    with at_the_same_time(go_on):
        try:
            with pytest.raises(SystemExit) as ended:
                main(["demo-steps", hands.service.url, str(tmp_path)])
        finally:
            hands.stop.set()

    assert not ended.value.code
    err = capsys.readouterr().err
    assert "already imported" in err
    assert f"going on with {job['id']}" in err
    assert [model["name"] for model in hands.service.http.get("/v1/models").json()["data"]] == ["digits"]


def test_a_demo_that_fails_says_why_and_that_the_service_stays_up(
    service: Service, tmp_path: Path, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        assert service.queue.rung.wait(10)
        service.worker.fail(service.worker.claim(JobKind.IMPORT), "no_usable_images", retryable=False)

    with at_the_same_time(fail):
        status = demo_steps(service, tmp_path / "data", pets)

    err = capsys.readouterr().err
    assert status == 1
    assert "no_usable_images happened" in err
    assert "the service stays up" in err
