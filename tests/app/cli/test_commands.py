"""The commands, against the API behind a real server; hands play the worker at the same time."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from app.cli import main, watching
from app.cli.generate import _names
from app.client import Client
from store.jobs import Claim
from store.records import Dataset, DatasetStatus, JobKind, JobStatus, Model
from tests.app import conftest
from tests.app.conftest import Service, at_the_same_time, eventually, zip_of


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def run(service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("DARKROOM_URL", service.url)
    monkeypatch.setenv("DARKROOM_API_KEY", service.key)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        text = capsys.readouterr()
        return Ended(int(ended.value.code or 0), text.out, text.err)

    return run


def claimed(service: Service, kind: JobKind) -> Claim:
    """The job, taken as soon as it is submitted."""
    assert service.queue.rung.wait(10)
    return service.worker.claim(kind)


def importing(service: Service, refused: list[dict[str, str]]) -> None:
    """A worker that imports whatever comes."""
    claim = claimed(service, JobKind.IMPORT)
    assert claim.dataset_id is not None
    service.worker.report(claim, 1, 3)
    service.resources.blobs.put(
        f"datasets/{claim.dataset_id}/manifest.json", json.dumps({"images": [], "refused": refused}).encode()
    )
    with service.resources.database.transaction() as session:
        dataset = session.get_one(Dataset, claim.dataset_id)
        dataset.status, dataset.resolution, dataset.channels = DatasetStatus.READY, 32, 3
        dataset.classes = [{"name": "cat", "count": 1}, {"name": "dog", "count": 1}]
        dataset.image_count, dataset.refused_count = 2, len(refused)
    service.worker.succeed(claim, {"images": 2})


def test_importing_a_folder_shows_the_progress_and_at_the_end_what_was_refused(
    run: Run, service: Service, tmp_path: Path
) -> None:
    for name in ("cat/1.png", "dog/2.png", "dog/notes.txt"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_text(name)
    refused = [{"path": "dog/notes.txt", "reason": "not an image [really]"}]

    with at_the_same_time(lambda: importing(service, refused)):
        ended = run("dataset", "import", tmp_path / "pets")

    assert ended.status == 0
    assert "succeeded: 3/3 files" in ended.err
    assert "cat" in ended.out
    assert "1 file was refused" in ended.out
    assert "dog/notes.txt: not an image [really]" in ended.out
    assert service.http.get("/v1/datasets").json()["data"][0]["name"] == "pets"


def test_an_import_that_is_not_watched_prints_its_job(run: Run, service: Service, tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(zip_of(**{"cat/1.png": b"1"}))

    ended = run("dataset", "import", tmp_path / "pets.zip", "--name", "my pets", "--no-watch", "--json")

    assert ended.json["status"] == "queued"
    assert ended.json["request"]["name"] == "my pets"


def test_training_by_name_sends_what_was_said(run: Run, service: Service) -> None:
    dataset = service.add_dataset()

    ended = run(
        *("train", "pets", "--kind", "gan-dcgan", "--resolution", 32, "--images", 5000, "--seed", 3, "--name", "young"),
        *("--option", "base_channels=16", "-o", "conditional=false", "--no-watch", "--json"),
    )

    job = ended.json
    assert (job["dataset"], job["request"]["budget"], job["request"]["seed"]) == (dataset, {"images": 5000}, 3)
    assert job["request"]["options"]["base_channels"] == 16
    assert job["request"]["options"]["conditional"] is False
    assert run("models", "show", "young", "--json").json["resolution"] == 32


def test_a_kind_that_was_chosen_is_shown_with_the_reason(run: Run, service: Service) -> None:
    service.add_dataset()
    job = run("train", "pets", "--name", "young", "--no-watch", "--json").json
    assert "chosen" not in run("trainings", "show", "young").out
    reason = "vae-gan: 20 [unlabelled] pictures"
    with service.resources.database.transaction() as session:
        session.get_one(Model, job["model"]).metrics = {"choice": [reason]}

    assert reason in run("models", "show", "young").out
    assert reason in run("trainings", "show", "young").out


def test_a_training_that_fails_ends_the_command_with_1_and_the_reason(run: Run, service: Service) -> None:
    service.add_dataset()

    def fail() -> None:
        service.worker.fail(claimed(service, JobKind.TRAIN), "training_diverged", retryable=False)

    with at_the_same_time(fail):
        ended = run("train", "pets")

    assert ended.status == 1
    assert "training_diverged happened" in ended.err


def test_what_the_service_refuses_ends_the_command_with_2_and_the_remedy(run: Run, service: Service) -> None:
    service.add_dataset()

    ended = run("train", "pets", "--kind", "gan-dcgan", "--option", "base_channels=0")

    assert ended.status == 2
    assert "base_channels" in ended.err
    assert "4 to 256" in ended.err


def sampling(service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A worker that makes real pictures."""
    file = io.BytesIO()
    Picture.new("L", (32, 32), 90).save(file, "PNG")
    monkeypatch.setattr(conftest, "PNG", file.getvalue())

    def sample() -> None:
        assert service.queue.rung.wait(10)
        service.worker.sample()

    return sample


def test_generated_pictures_are_saved_under_their_seeds(
    run: Run, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add_model()

    with at_the_same_time(sampling(service, monkeypatch)):
        ended = run("generate", "pets 32", "-n", 3, "--seed", 7, "--label", "dog", "--out", tmp_path / "new", "--json")

    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["pets_32-7.png", "pets_32-8.png", "pets_32-9.png"]
    assert ended.json["files"] == [str(file) for file in files]
    assert [image["seed"] for image in ended.json["images"]] == [7, 8, 9]
    with Client(service.url, api_key=service.key) as client:
        for file, image in zip(files, ended.json["images"], strict=True):
            assert file.read_bytes() == client.content(image["id"])


def test_a_grid_is_one_file(run: Run, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = service.add_model()

    with at_the_same_time(sampling(service, monkeypatch)):
        ended = run("generate", model, "-n", 4, "--grid", "--out", tmp_path / "grid.png")

    assert ended.status == 0
    assert ended.out.split() == [str(tmp_path / "grid.png")]
    with Picture.open(tmp_path / "grid.png") as grid:
        assert grid.width == grid.height > 2 * 64


def test_pictures_are_saved_in_the_format_and_size_that_were_said(
    run: Run, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add_model()

    with at_the_same_time(sampling(service, monkeypatch)):
        ended = run("generate", "pets 32", "-n", 2, "--seed", 7, "--format", "jpeg", "--size", 48, "--out", tmp_path)

    assert ended.status == 0, ended.err
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["pets_32-7.jpg", "pets_32-8.jpg"]
    for file in files:
        with Picture.open(file) as picture:
            assert (picture.format, picture.size) == ("JPEG", (48, 48))


def test_the_name_of_the_file_says_the_format(
    run: Run, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add_model()

    with at_the_same_time(sampling(service, monkeypatch)):
        ended = run("generate", "pets 32", "--priority", "batch", "--out", tmp_path / "new.webp")

    assert ended.status == 0, ended.err
    with Picture.open(tmp_path / "new.webp") as picture:
        assert (picture.format, picture.size) == ("WEBP", (32, 32))
    (job,) = service.http.get("/v1/jobs").json()["data"]
    assert (job["priority"], job["request"]["n"]) == ("batch", 1)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--seeds", "9, 3,9"], {"n": 3, "seed": 9, "label": None, "seeds": [9, 3, 9]}),
        (["--seed", 4, "--labels", "dog,cat"], {"n": 2, "seed": 4, "label": None, "labels": [1, 0]}),
        (["--mix", "3:9"], {"n": 1, "seed": 3, "label": None, "mix": {"seeds": [3, 9], "weight": 0.5}}),
        (["--mix", "3:9:.25"], {"n": 1, "seed": 3, "label": None, "mix": {"seeds": [3, 9], "weight": 0.25}}),
    ],
)
def test_lists_and_mixes_are_asked_for_as_they_were_said(
    run: Run,
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[object],
    asked: dict[str, Any],
) -> None:
    service.add_model()

    with at_the_same_time(sampling(service, monkeypatch)):
        ended = run("generate", "pets 32", *options, "--out", tmp_path)

    assert ended.status == 0, ended.err
    (job,) = service.http.get("/v1/jobs").json()["data"]
    assert job["request"] == asked
    assert len(list(tmp_path.iterdir())) == asked["n"]


def test_pictures_of_one_seed_do_not_overwrite_each_other() -> None:
    names = _names("pets", [{"seed": 7}, {"seed": 7}], ".png")
    assert names == ["pets-0000-7.png", "pets-0001-7.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seeds", "3,,9"], "--seeds"),
        (["--seeds", "-1"], "--seeds"),
        (["--labels", "cat,"], "--labels"),
        (["--mix", "3"], "--mix"),
        (["--mix", "3:9:"], "--mix"),
        (["--format", "gif"], "--format"),
        (["--size", 8], "--size"),
        (["--priority", "now"], "--priority"),
        (["--grid", "--format", "webp"], "--grid"),
        (["--format", "webp", "--out", "new.png"], "new.png"),
        (["--seeds", "1,2", "--out", "new.png"], "2 pictures"),
        (["--seeds", "1,2", "--mix", "3:9"], "mix"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    run: Run, service: Service, options: list[object], words: str
) -> None:
    service.add_model()
    ended = run("generate", "pets 32", *options)
    assert ended.status == 2
    assert words in ended.err
    assert service.http.get("/v1/jobs").json()["data"] == []


def test_several_pictures_do_not_go_into_one_file_without_a_grid(run: Run, service: Service, tmp_path: Path) -> None:
    ended = run("generate", "pets", "-n", 4, "--out", tmp_path / "one.png")
    assert ended.status == 2
    assert "--grid" in ended.err


def test_ctrl_c_while_watching_says_that_the_job_goes_on(
    run: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add_dataset()

    def interrupt(view: object, kind: str, data: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching._LineView, "take", interrupt)
    ended = run("train", "pets")

    (job,) = run("jobs", "list", "--json").json
    assert ended.status == watching.INTERRUPTED
    assert f"darkroom jobs watch {job['id']}" in ended.err
    assert f"darkroom jobs cancel {job['id']}" in ended.err
    assert job["status"] == "queued"


def test_jobs_are_listed_shown_watched_and_canceled(run: Run, service: Service) -> None:
    service.add_dataset()
    job = run("train", "pets", "--no-watch", "--json").json
    assert job["id"] in run("jobs", "list", "--status", "queued", "--kind", "train").out
    assert job["id"] not in run("jobs", "list", "--status", "running").out

    canceled = run("jobs", "cancel", job["id"])
    assert "is canceled" in canceled.out

    shown = run("jobs", "show", job["id"])
    assert (shown.status, "canceled" in shown.out) == (0, True)
    watched = run("jobs", "watch", job["id"])
    assert watched.status == 1
    assert "was canceled" in watched.err

    # The model that was to come of it is still listed
    refused = run("jobs", "delete", job["id"], "--yes")
    assert (refused.status, "delete the model first" in refused.err) == (2, True)
    run("models", "delete", job["model"], "--yes")
    assert "is deleted" in run("jobs", "delete", job["id"], "--yes").err
    assert run("jobs", "show", job["id"]).status == 2


def test_watching_follows_a_job_to_its_end(run: Run, service: Service) -> None:
    service.add_dataset()
    job = run("train", "pets", "--no-watch", "--json").json
    claim = service.worker.claim(JobKind.TRAIN)

    def finish() -> None:
        eventually(lambda: bool(service.news._ears))
        service.worker.report(claim, 100, 600)
        service.worker.succeed(claim, {})

    with at_the_same_time(finish):
        ended = run("jobs", "watch", job["id"], "--json")

    assert ended.status == 0
    assert ended.json["status"] == JobStatus.SUCCEEDED


def test_what_is_deleted_is_gone_and_nothing_is_without_a_yes(
    run: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add_dataset()
    service.add_model()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run("models", "delete", "pets 32").status == 1
    assert "pets 32" in run("models", "list").out

    assert run("models", "delete", "pets 32", "--yes").status == 0
    assert run("dataset", "delete", "pets", "--yes").status == 0

    assert run("models", "list", "--json").json == []
    assert "darkroom dataset import" in run("dataset", "list").err


def test_kinds_are_listed_with_their_options_and_bounds(run: Run) -> None:
    out = run("kinds").out
    assert "gan-dcgan" in out
    assert "base_channels" in out
    assert "≥ 4, ≤ 256" in out


def test_a_model_is_measured_and_the_numbers_are_shown(run: Run, service: Service) -> None:
    dataset_id, model_id = service.add_dataset(), service.add_model()
    with service.resources.database.transaction() as session:
        session.get_one(Model, model_id).dataset_id = dataset_id
        session.get_one(Dataset, dataset_id).channels = session.get_one(Model, model_id).channels
    found = {
        "images_seen": 1000,
        "n": 60,
        "rounds": 1,
        "seed": 0,
        "extractor_sha256": "c0ffee" * 10,
        "n_reference": 80,
        "reference": "pets",
        "notes": [],
        "scores": {"kid": {"title": "KID", "better": "lower", "value": 0.25, "floor": 0.01, "spread": None}},
        "memorisation": {"copies": 0.0},
    }

    def measure() -> None:
        claim = claimed(service, JobKind.EVALUATE)
        assert claim.request["n"] == 60
        service.worker.report(claim, 50, 100)
        service.worker.succeed(claim, {"model": model_id, "evaluation": found})

    with at_the_same_time(measure):
        ended = run("evaluate", "pets 32", "-n", 60)

    assert ended.status == 0
    assert "100/100 percent" in ended.err
    assert "KID" in ended.out
    assert "0.25" in ended.out

    job = run("evaluate", model_id, "--no-watch", "--json").json
    assert (job["kind"], job["request"]["n"]) == ("evaluate", 2000)
