"""docker-compose.yml, as far as it can be checked without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from store.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
COMPOSE = "\n".join((ROOT / name).read_text() for name in ("docker-compose.yml", "docker-compose.cpu.yml"))
OF_COMPOSE = {"DARKROOM_PICTURES"}  # read by the file itself, not by us


def test_make_env_writes_every_variable_that_has_no_default(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    subprocess.run(["make", "env"], cwd=tmp_path, check=True, capture_output=True)

    lines = [line.split("=") for line in (tmp_path / ".env").read_text().splitlines()]
    assert {name for name, _ in lines} == set(re.findall(r"\$\{(\w+)(?=[}?]|:\?)", COMPOSE))
    assert all(len(value) == 48 for _, value in lines)
    assert (tmp_path / "pictures").is_dir()


def test_compose_sets_only_what_is_a_setting() -> None:
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(rf"{PREFIX}\w+", COMPOSE)) <= settings | OF_COMPOSE


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    assert re.findall(r"ports: (.*)", COMPOSE) == ['["127.0.0.1:${DARKROOM_PORT:-8000}:8000"]']
