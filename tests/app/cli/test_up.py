"""`darkroom up` with real processes: everything comes up, everything goes, on Ctrl-C and on kill -9."""

from __future__ import annotations

import fcntl
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.cli import credential, main
from app.client import Client
from tests.running import WITHIN_S, family, running


def has_started(processes: list[psutil.Process], words: str) -> bool:
    return any(words in " ".join(one.cmdline()) for one in processes)


def nobody_is_left(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=WITHIN_S)[1]


@pytest.mark.e2e
@pytest.mark.slow
def test_up_again_after_a_kill_loses_nothing_and_ctrl_c_ends_every_child(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"

    # Given a service that answers, with its three parts
    with running(data_dir) as (process, url):
        children = family(process)
        assert has_started(children, "redis-server")
        assert has_started(children, "app.serve")
        assert has_started(children, "worker.launch")
        with Client(url, api_key=credential.kept(data_dir, url)) as client:
            assert client.datasets() == []

        # When it is killed without a word
        process.kill()

        # Then nobody is left behind
        assert nobody_is_left(children)

    # And it starts again on the same directory, which no second one gets
    with running(data_dir) as (process, url):
        second = subprocess.run(
            [sys.executable, "-m", "app.cli", "up", "--port", "0", "--data-dir", str(data_dir)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 2
        assert "already runs" in second.stderr
        assert url in second.stderr

        # When Ctrl-C comes
        children = family(process)
        process.send_signal(signal.SIGINT)

        # Then every child has ended, and the command in good order
        assert process.wait(WITHIN_S) == 0
        assert nobody_is_left(children)


def test_a_data_directory_that_another_holds_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write('{"pid": 77, "url": "http://127.0.0.1:8000"}')
        lock.flush()

        with pytest.raises(SystemExit) as ended:
            main(["up", "--data-dir", str(tmp_path)])

    assert ended.value.code == 2
    assert "(process 77, http://127.0.0.1:8000)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["up.lock"]


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(SystemExit) as ended:
            main(["up", "--data-dir", str(tmp_path), "--port", str(port)])

    assert ended.value.code == 2
    assert f"port {port} of 127.0.0.1" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["up.lock"]


def test_a_wrong_setting_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DARKROOM_HOST", "0.0.0.0")  # noqa: S104  # the wrong value under test
    monkeypatch.setenv("DARKROOM_AUTH", "off")

    with pytest.raises(SystemExit) as ended:
        main(["up", "--data-dir", str(tmp_path)])

    assert ended.value.code == 2
    assert "DARKROOM_AUTH" in capsys.readouterr().err
