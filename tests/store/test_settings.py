"""Settings: read once, and wrong ones named with their remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.errors import SettingsError
from store.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's variables nor its `.env` reach these tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"DARKROOM_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_without_variables_everything_lives_in_the_data_directory(tmp_path: Path) -> None:
    settings = load_settings()

    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/data/darkroom.db"
    assert settings.resolved_blobs_dir == tmp_path / "data" / "blobs"
    assert settings.scratch_dir == tmp_path / "data" / "scratch"
    assert settings.import_root is None


def test_a_variable_goes_before_the_env_file_and_an_argument_before_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("DARKROOM_PORT=1001\nDARKROOM_MAX_BATCH=7\nDARKROOM_LEASE_S=50\nUNRELATED=1\n")
    monkeypatch.setenv("DARKROOM_PORT", "1002")
    monkeypatch.setenv("DARKROOM_MAX_BATCH", "8")

    settings = load_settings(max_batch=9)

    assert (settings.port, settings.max_batch, settings.lease_s) == (1002, 9, 50.0)


def test_every_wrong_variable_is_named_with_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "eighty")
    monkeypatch.setenv("DARKROOM_DEVICES", "gpu")

    with pytest.raises(SettingsError) as refused:
        load_settings()

    assert "DARKROOM_PORT" in str(refused.value)
    assert "'eighty'" in str(refused.value)
    assert "DARKROOM_DEVICES" in str(refused.value)
    assert "auto, cpu, or cuda:0,cuda:1" in str(refused.value)


@pytest.mark.parametrize("field", ["import_root", "blobs_dir", "database_url", "port", "devices"])
def test_an_empty_variable_is_as_good_as_none(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files hand on empty ones; an empty import root must not become the current directory."""
    before = load_settings()
    monkeypatch.setenv(f"DARKROOM_{field.upper()}", "")

    assert load_settings() == before


def test_an_empty_import_root_on_the_command_line_is_none() -> None:
    assert load_settings(import_root="").import_root is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_hosts_are_listened_on_without_keys_too(host: str) -> None:
    assert load_settings(host=host, auth="off").is_local


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])  # noqa: S104  # it is refused
def test_any_other_host_needs_api_keys(host: str) -> None:
    with pytest.raises(SettingsError, match=f"DARKROOM_HOST={host} is not a loopback address.*DARKROOM_AUTH"):
        load_settings(host=host, auth="off")

    assert load_settings(host=host).host == host


def test_a_heartbeat_that_can_miss_its_lease_is_refused() -> None:
    with pytest.raises(SettingsError, match="DARKROOM_HEARTBEAT_S=20 must be at most half of DARKROOM_LEASE_S=30"):
        load_settings(heartbeat_s=20)


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_DEVICES", "cuda:0, cuda:1")
    monkeypatch.setenv("DARKROOM_ALLOWED_HOSTS", "a.example,b.example")

    settings = load_settings()

    assert settings.devices == ["cuda:0", "cuda:1"]
    assert settings.allowed_hosts == ["a.example", "b.example"]


@pytest.mark.parametrize("devices", ["", ",", "auto,cpu", "cuda", "cuda:x", "cpu,cuda:0"])
def test_devices_that_make_no_sense_are_refused(devices: str) -> None:
    with pytest.raises(SettingsError, match="DARKROOM_DEVICES"):
        load_settings(devices=devices)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_usual_way_to_name_postgresql_means_our_driver(scheme: str) -> None:
    settings = load_settings(database_url=f"{scheme}://me:p%40ss@db/darkroom")

    assert settings.resolved_database_url == "postgresql+psycopg://me:p%40ss@db/darkroom"


@pytest.mark.parametrize(
    "url",
    ["mysql://me:hush@db/x", "postgresql+psycopg2://me:hush@db/x", "me:hush@db", "sqlite://", "sqlite:///:memory:"],
)
def test_databases_that_can_t_be_used_are_refused_without_telling_the_password(url: str) -> None:
    with pytest.raises(SettingsError, match="DARKROOM_DATABASE_URL") as refused:
        load_settings(database_url=url)

    assert "hush" not in str(refused.value)


def test_a_redis_of_another_protocol_is_refused_without_telling_the_password() -> None:
    with pytest.raises(SettingsError, match=r"DARKROOM_REDIS_URL.*redis://") as refused:
        load_settings(redis_url="amqp://me:hush@mq/")

    assert "hush" not in str(refused.value)


def test_settings_can_t_be_changed_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]  # which the type checker says as well


def test_a_wrong_secret_of_webhooks_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_WEBHOOK_SECRET", "hunter2")
    with pytest.raises(SettingsError, match="DARKROOM_WEBHOOK_SECRET") as refused:
        load_settings()
    assert "openssl rand" in str(refused.value)
    assert "hunter2" not in str(refused.value)
