"""`python -m models` prepares, trains and samples, and says what went wrong in a sentence."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from models.__main__ import app
from models.evaluation import MEASURES
from models.generator import Generator
from tests.models.conftest import pictures
from tests.models.gan.test_netg import example
from tests.pictures import prepared_shapes

TINY = ["--kind", "gan-dcgan", "--option", "base_channels=4", "--option", "latent_dim=8", "--option", "batch_size=8"]


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _json(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures in two folders, and one file that is none."""
    for index, picture in enumerate(pictures(12, 1, 32)):
        path = tmp_path / "pictures" / ("cats" if index % 2 else "dogs") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[0]).save(path)
    (tmp_path / "pictures" / "cats" / "note.png").write_text("not a picture")
    return tmp_path / "pictures"


def test_pictures_become_a_model_and_new_pictures(folder: Path, tmp_path: Path) -> None:
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "out" / "grid.png"

    (manifest,) = _json(_run("prepare", folder, data, "--json"))
    assert (manifest["count"], manifest["classes"], manifest["resolution"]) == (12, ["cats", "dogs"], 32)
    assert "note.png" in str(manifest["refused"])

    *_, end = _json(_run("train", data, run, "--images", "64", *TINY, "--json"))
    assert (end["event"], end["finished"], end["images_seen"]) == ("finished", True, 64)

    (made,) = _json(_run("sample", run, out, "-n", "4", "--seed", "9", "--label", "dogs", "--columns", "4", "--json"))
    assert [image["seed"] for image in made["images"]] == [9, 10, 11, 12]  # type: ignore[attr-defined] # JSON
    assert {image["label"] for image in made["images"]} == {1}  # type: ignore[attr-defined] # JSON
    first = out.read_bytes()
    with Image.open(out) as grid:
        assert grid.width > grid.height >= 32
        assert np.asarray(grid).std() > 0

    _run("sample", str(end["checkpoint"]), out, "-n", "4", "--seed", "9", "--label", "1", "--columns", "4")
    assert out.read_bytes() == first, "a class by its number, a checkpoint by its name: the same pictures"


def test_devices_that_cannot_share_a_batch_are_refused_at_once(folder: Path, tmp_path: Path) -> None:
    _run("prepare", folder, tmp_path / "data")
    refused = _run("train", tmp_path / "data", tmp_path / "run", "--images", "8", *TINY, "--devices", "cpu,cpu,cpu")
    assert refused.exit_code == 1
    assert "8 images cannot be shared by 3 devices" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_people_are_told_what_was_made_and_what_comes_next(folder: Path, tmp_path: Path) -> None:
    prepared = _run("prepare", folder, tmp_path / "data")
    assert "12 images in 2 classes, 32x32 grey" in prepared.stderr
    assert "refused cats/note.png" in prepared.stderr
    trained = _run("train", tmp_path / "data", tmp_path / "run", "--images", "16", *TINY)
    assert "needs about" in trained.stderr
    assert "trained on 16 images" in trained.stderr
    assert "python -m models sample" in trained.stderr


def test_a_model_is_made_one_s_own(folder: Path, tmp_path: Path) -> None:
    """Given a run, when another training begins with it, I expect its kind and options, and the same command to go on also
    when that run is gone."""
    data, source, run = tmp_path / "data", tmp_path / "source", tmp_path / "run"
    _run("prepare", folder, data)
    _run("train", data, source, "--images", "16", *TINY)
    begun: list[str | Path] = ["train", data, run, "--init-from", source, "--option", "freeze_layers=1"]
    told = _run(*begun, "--images", "16")
    assert "gan-dcgan, like the model that it begins with" in told.stderr
    shutil.rmtree(source)
    end = _json(_run(*begun, "--images", "32", "--json"))[-1]
    assert end["images_seen"] == 32
    card = Generator.load(Path(str(end["checkpoint"]))).card
    assert (card.options["base_channels"], card.options["freeze_layers"]) == (4, 1)
    assert "the lowest 1 layers stay fixed" in card.notes[0]

    refused = _run("train", data, tmp_path / "other", "--init-from", run, "--kind", "gan-r3", "--images", "8")
    assert refused.exit_code == 1
    assert "gan-r3 cannot begin with the weights of a gan-dcgan" in " ".join(refused.stderr.split())


@pytest.mark.slow
def test_ctrl_c_keeps_everything_and_the_same_command_goes_on(folder: Path, tmp_path: Path) -> None:
    """Given a training in a process of its own, when interrupted after a tick, I expect a checkpoint to go on from."""
    data, run = tmp_path / "data", tmp_path / "run"
    _run("prepare", folder, data)
    command = [sys.executable, "-m", "models", "train", str(data), str(run), "--images", "100000000", *TINY, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "tick"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    end = json.loads(output.splitlines()[-1])
    assert end["event"] == "stopped"
    assert Path(end["checkpoint"]).is_dir()

    on = _run("train", data, run, "--images", str(end["images_seen"] + 8), *TINY, "--json")
    assert _json(on)[-1]["images_seen"] == end["images_seen"] + 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kind", "gan-nope", "--images", "8"], "gan-dcgan"),
        (["--option", "wings=2", "--images", "8"], "no option of this name"),
        (["--option", "wings", "--images", "8"], "NAME=VALUE"),
        (["--option", "batch_size=1", "--images", "8"], "from 2 to 1024"),
        (["--resolution", "48", "--images", "8"], "32, 64, 96, 128"),
        (["--kind", "gan-dcgan", "--resolution", "64", "--images", "8"], "use 32 or less"),
        (["--kind", "gan-dcgan"], "neither images nor seconds"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(
    arguments: list[str], said: str, folder: Path, tmp_path: Path
) -> None:
    _run("prepare", folder, tmp_path / "data")
    refused = _run("train", tmp_path / "data", tmp_path / "run", *arguments)
    assert refused.exit_code == 1
    assert said in refused.stderr
    assert "Traceback" not in refused.output
    as_json = _run("train", tmp_path / "data", tmp_path / "run", *arguments, "--json")
    assert said in json.loads(as_json.stdout)["message"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    for arguments in (
        ("prepare", tmp_path / "nowhere", tmp_path / "data"),
        ("train", tmp_path / "nowhere", tmp_path / "run", "--images", "8"),
        ("sample", tmp_path / "nowhere", tmp_path / "out.png"),
    ):
        refused = _run(*arguments)
        assert refused.exit_code == 1
        assert "nowhere" in refused.stderr


def test_a_class_that_the_model_does_not_have_is_refused_with_those_it_has(folder: Path, tmp_path: Path) -> None:
    _run("prepare", folder, tmp_path / "data")
    _run("train", tmp_path / "data", tmp_path / "run", "--images", "8", *TINY)
    refused = _run("sample", tmp_path / "run", tmp_path / "out.png", "--label", "horses")
    assert refused.exit_code == 1
    assert "cats, dogs" in refused.stderr
    assert not (tmp_path / "out.png").exists()


def test_a_model_is_measured_by_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a model, when evaluated twice, I expect one lesson, equal numbers, and a table that names N and the extractor."""
    monkeypatch.setattr("models.evaluation.extractor.LESSON_IMAGES", 256)
    data, run = prepared_shapes(tmp_path, 80, channels=1), tmp_path / "run"
    _run("train", data, run, "--images", "8", *TINY)

    (first,) = _json(_run("evaluate", run, data, "-n", "12", "--json"))
    assert (data / "extractor-32.safetensors").exists()
    (again,) = _json(_run("evaluate", run, data, "-n", "12", "--json"))
    assert first["scores"] == again["scores"]
    assert set(first["scores"]) == set(MEASURES) - {"classifier_accuracy_score", "fid", "inception_score"}  # type: ignore[call-overload] # JSON
    assert (first["n"], first["images_seen"]) == (12, 8)

    shown = _run("evaluate", run, data, "-n", "12", "--strips", tmp_path / "out" / "strips.png")
    assert shown.exit_code == 0
    assert (tmp_path / "out" / "strips.png").read_bytes().startswith(b"\x89PNG")
    assert "FD-domain" in shown.stdout
    assert "N = 12" in shown.stderr
    assert str(first["extractor_sha256"])[:12] in shown.stderr


def test_what_cannot_be_measured_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    _run("prepare", folder, data)
    _run("train", data, run, "--images", "8", *TINY)
    refused = _run("evaluate", run, data)
    assert refused.exit_code == 1
    assert "12 images are too few" in refused.stderr
    assert "nowhere" in _run("evaluate", run, tmp_path / "nowhere").stderr


def test_a_model_is_handed_on(folder: Path, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    _run("prepare", folder, data)
    _run("train", data, run, "--images", "8", *TINY)
    (made,) = _json(_run("export", run, tmp_path / "copy", "--format", "native", "--json"))
    assert (made["format"], made["images_seen"], made["files"]) == (
        "native",
        8,
        ["generator.json", "generator.safetensors"],
    )
    for model in (run, tmp_path / "copy"):
        assert _run("sample", model, tmp_path / f"{model.name}.png", "-n", "2").exit_code == 0
    assert (tmp_path / "run.png").read_bytes() == (tmp_path / "copy.png").read_bytes()

    exported = _run("export", run, tmp_path / "program", "--format", "torch-export")
    assert "generator.pt2" in exported.stderr
    again = _run("export", run, tmp_path / "program", "--format", "torch-export")
    assert again.exit_code == 1
    assert "nothing is overwritten" in again.stderr
    assert "onnx" in _run("export", run, tmp_path / "other", "--format", "jpeg").output


def test_a_netg_of_the_dcgan_example_becomes_a_model(tmp_path: Path) -> None:
    torch.save(example(32, nz=8, ngf=4, nc=1).state_dict(), tmp_path / "netG.pth")
    imported = _run("import-dcgan", tmp_path / "netG.pth", tmp_path / "model")
    assert "32x32 grey, nz = 8, ngf = 4" in imported.stderr
    assert _run("sample", tmp_path / "model", tmp_path / "grid.png", "-n", "2").exit_code == 0

    (card,) = _json(_run("import-dcgan", tmp_path / "netG.pth", tmp_path / "other", "--json"))
    assert (card["kind"], card["resolution"]) == ("gan-dcgan", 32)
    refused = _run("import-dcgan", tmp_path / "grid.png", tmp_path / "third")
    assert refused.exit_code == 1
    assert "no file of tensors" in refused.stderr


@pytest.mark.parametrize("command", ["prepare", "train", "sample", "evaluate", "export", "import-dcgan"])
def test_help_shows_an_example(command: str) -> None:
    assert f"python -m models {command}" in _run(command, "--help").output
