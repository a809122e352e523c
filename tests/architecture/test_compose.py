"""docker-compose.yml, as far as it can be checked without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

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


def test_docker_waits_longer_than_workers_may_take_to_hand_back_their_work() -> None:
    """Given that the launcher kills its workers after DARKROOM_DRAIN_S, I expect time left for it to put back their jobs."""
    (grace,) = re.findall(r"stop_grace_period: (\d+)s", COMPOSE)
    assert int(grace) >= Settings.model_fields["drain_s"].default + 15


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    assert re.findall(r"ports: (.*)", COMPOSE) == ['["127.0.0.1:${DARKROOM_PORT:-8000}:8000"]']


class Service(BaseModel):
    """What a service of docker-compose.yml is given, as far as it is looked at here."""

    image: str
    read_only: bool = False
    tmpfs: list[str] = []
    cap_drop: list[str] = []
    cap_add: list[str] = []
    security_opt: list[str] = []
    pids_limit: int = 0
    networks: list[str] = []
    ports: list[str] = []
    volumes: list[str] = []
    environment: dict[str, Any] = {}
    restart: str
    command: list[str] = []
    healthcheck: dict[str, Any] | None = None
    build: dict[str, str] | None = None
    privileged: bool = False
    network_mode: str | None = None
    user: str | None = None


FILE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = {name: Service.model_validate(service) for name, service in FILE["services"].items()}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# What the official images need to become the user that they run as; ours begin as theirs.
TO_BECOME_A_USER = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}

every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))


@every_service
def test_every_container_is_confined(service: Service) -> None:
    assert service.read_only
    assert any(place.startswith("/tmp") for place in service.tmpfs)  # noqa: S108
    assert service.cap_drop == ["ALL"]
    assert set(service.cap_add) <= (TO_BECOME_A_USER if service.build is None else set())
    assert service.security_opt == ["no-new-privileges:true"]
    assert service.pids_limit > 0
    assert not service.privileged
    assert service.network_mode is None
    assert not [volume for volume in service.volumes if "docker.sock" in volume or volume.startswith("/:")]


def test_our_images_run_as_a_user_of_their_own() -> None:
    for stage in DOCKERFILE.split("\nFROM ")[1:]:
        users = re.findall(r"^USER (.*)$", stage, re.MULTILINE)
        if " AS base" not in stage.splitlines()[0]:
            assert users == ["darkroom"], "the last word before its command"
            assert stage.index("USER darkroom") > stage.index("RUN pip install --no-deps")
    assert re.search(r"useradd .*--uid 10001 .*--shell /usr/sbin/nologin darkroom", DOCKERFILE)
    assert all(service.user is None for service in SERVICES.values())


def test_postgres_and_redis_are_published_nowhere_and_on_the_internal_network_alone() -> None:
    assert FILE["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "redis"):
        assert SERVICES[name].networks == ["inside"]
        assert SERVICES[name].ports == []
    assert [name for name, service in SERVICES.items() if service.ports] == ["api"]
    assert all("inside" in service.networks for service in SERVICES.values())


def test_postgres_and_redis_have_passwords_that_nobody_can_guess() -> None:
    assert SERVICES["postgres"].environment["POSTGRES_PASSWORD"] == "${POSTGRES_PASSWORD}"
    command = SERVICES["redis"].command
    assert command[command.index("--requirepass") + 1] == "${REDIS_PASSWORD}"
    assert ":?run" in SERVICES["api"].environment["DARKROOM_DATABASE_URL"]  # and compose does not start without


@every_service
def test_every_service_that_stays_up_says_how_it_is(service: Service) -> None:
    if service.restart == "no":
        return
    if service.build is None:
        assert service.healthcheck is not None
    else:
        stage = DOCKERFILE[DOCKERFILE.index(f"AS {service.build['target']}\n") :].partition("\nFROM ")[0]
        assert "HEALTHCHECK" in stage


def test_nothing_starts_before_the_migrations_have_ended_well() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    services = re.split(
        r"^  (\w+):$", text.partition("\nservices:\n")[2].partition("\nvolumes:")[0], flags=re.MULTILINE
    )
    bodies = dict(zip(services[1::2], services[2::2], strict=True))
    ours = {name for name, body in bodies.items() if "image: darkroom-" in body}
    assert ours == {"migrate", "api", "worker"}
    waits = {name for name in ours if "migrate: {condition: service_completed_successfully}" in bodies[name]}
    assert waits == {"api", "worker"}
