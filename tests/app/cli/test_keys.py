"""`darkroom keys`, and which key the commands send."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from app.cli import credential, main
from store import keys
from store.database import Database
from tests.app.cli.test_commands import Run, run
from tests.app.conftest import Service

__all__ = ["run"]


def test_a_key_is_made_listed_and_revoked(run: Run, service: Service) -> None:
    made = run("keys", "create", "shop", "--scope", "generate", "--account", "shop", "--expires", "90d")
    token = made.out.strip()
    key_id = keys.id_of(token)
    assert key_id is not None
    assert key_id in made.err
    assert "shown this once" in made.err

    [row] = [row for row in run("keys", "list", "--json").json if row["id"] == key_id]
    assert (row["account"], row["scopes"], row["status"]) == ("shop", ["generate"], "active")
    assert run("keys", "revoke", key_id, "--yes").status == 0
    assert "revoked" in run("keys", "list").out


def test_a_key_may_be_made_with_limits_of_its_own(run: Run) -> None:
    made = run("keys", "create", "shop", "--scope", "generate", "--rate", 600, "--images-per-day", 0, "--json").json
    assert made["limits"] == {"requests_per_minute": 600, "images_per_day": 0}
    assert run("keys", "create", "shop", "--scope", "generate", "--json").json["limits"] == {}


def test_the_key_before_the_command_goes_before_the_variable(run: Run, service: Service) -> None:
    reader = service.make_key("read")
    assert run("--api-key", reader, "jobs", "list").status == 0
    refused = run("--api-key", reader, "keys", "list")
    assert refused.status == 2
    assert "needs a key with the scope admin" in refused.err


@pytest.mark.parametrize("expires", ["90", "d", "0d", "5m", "-1d"])
def test_a_time_span_that_is_none_is_refused(run: Run, expires: str) -> None:
    assert run("keys", "create", "x", "--scope", "read", f"--expires={expires}").status == 2


def test_on_the_machine_itself_a_key_is_made_without_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(f"sqlite:///{tmp_path}/darkroom.db")
    database.migrate()
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(tmp_path))

    def create(*options: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["keys", "create", "lost", "--local", *options])
        return int(ended.value.code or 0)

    assert create("--scope", "admin", "--expires", "1d") == 2
    assert "must not expire" in capsys.readouterr().err
    assert create("--scope", "root") == 2
    assert create("--scope", "read", "--account", "Not One") == 2
    capsys.readouterr()
    assert create("--scope", "admin") == 0
    token = capsys.readouterr().out.strip()
    with database.snapshot() as session:
        assert keys.find(session, keys.id_of(token) or "").hash == keys.digest(token)
    database.close()


def test_a_kept_key_is_its_user_s_alone_and_is_sent_to_no_other_address(tmp_path: Path) -> None:
    path = credential.keep(tmp_path, "http://127.0.0.1:8000", "dk_x")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert credential.kept(tmp_path, "http://127.0.0.1:8000") == "dk_x"
    assert credential.kept(tmp_path, "http://localhost:8000") == "dk_x"
    for elsewhere in ("http://127.0.0.1:8001", "https://127.0.0.1:8000", "http://example.org:8000", "http://127.0.0.1"):
        assert credential.kept(tmp_path, elsewhere) is None
    credential.keep_anew(tmp_path, "http://127.0.0.1:9000")
    assert credential.kept(tmp_path, "http://127.0.0.1:9000") == "dk_x"
    assert credential.kept(tmp_path / "nowhere", "http://127.0.0.1:8000") is None
    assert [path.name for path in tmp_path.iterdir()] == [credential.FILE]


def test_commands_and_curl_find_the_kept_key(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DARKROOM_URL", service.url)
    with pytest.raises(SystemExit) as ended:
        main(["jobs", "list"])
    assert ended.value.code == 2
    assert "needs an API key" in capsys.readouterr().err

    path = credential.keep(tmp_path, service.url, service.key)
    with pytest.raises(SystemExit) as ended:
        main(["jobs", "list"])
    assert not ended.value.code
    done = subprocess.run(
        ["curl", "-sf", "--noproxy", "*", "-K", str(path), f"{service.url}/v1/jobs"], capture_output=True, check=False
    )
    assert done.returncode == 0
