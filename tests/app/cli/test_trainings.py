"""`darkroom trainings`, against the API behind a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.app.cli.test_commands import Run, run
from tests.app.conftest import PNG, Service
from tests.app.test_learning import training

__all__ = ["run", "training"]  # fixtures


@pytest.fixture
def model(service: Service, training: tuple[str, str]) -> str:
    """The name of the model of a training that has kept checkpoints 100, 200 (the best) and 300."""
    name: str = service.http.get(f"/v1/models/{training[1]}").json()["name"]
    return name


def test_trainings_are_listed_with_how_good_they_are(run: Run, training: tuple[str, str]) -> None:
    ended = run("trainings", "list")
    assert ended.status == 0
    assert training[0] in ended.out
    assert "30%" in ended.out
    assert run("trainings", "list", "--json").json[0]["best"]["images_seen"] == 200


def test_one_is_found_by_its_model_s_name(run: Run, training: tuple[str, str], model: str) -> None:
    out = run("trainings", "show", model).out
    assert "R_t 0.500" in out
    assert "1 after 200 images" in out
    assert run("trainings", "show", training[0], "--json").json["id"] == training[0]


def test_curves_are_a_table(run: Run, model: str) -> None:
    lines = run("trainings", "metrics", model).out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["100", "200", "300"]


def test_previews_are_saved(run: Run, model: str, tmp_path: Path) -> None:
    assert run("trainings", "previews", model, "--out", tmp_path).status == 0
    assert (tmp_path / "preview-000000000100.png").read_bytes() == PNG + b"100"
    assert "previews/300" in run("trainings", "previews", model).out


def test_a_checkpoint_is_promoted_as_it_was_listed(run: Run, model: str) -> None:
    assert "current" in run("trainings", "checkpoints", model).out
    assert "200 images" in run("trainings", "promote", model, 200).out
    listed = run("trainings", "checkpoints", model, "--json").json
    assert [row["images_seen"] for row in listed if row["current"]] == [200]
    assert run("trainings", "promote", model, 7).status == 2
