"""The API key that commands send: the one they are told, else the one that `darkroom up` keeps for this machine.

It is kept in the data directory as a file of options for curl, so that `curl -K data/curlrc …` sends it too. It is a key to one
address, and is sent to no other.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.client import LOOPBACK, Client

FILE = "curlrc"
FORM = '# Made by `darkroom up`: the API key of {url}\nheader = "Authorization: Bearer {token}"\n'
FOUND = re.compile(
    r"the API key of (?P<url>\S+)$.*^header = \"Authorization: Bearer (?P<token>\S+)\"$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Said:
    """What was said before the command, or by variables."""

    api_key: str | None = None
    data_dir: Path | None = None


_said: ContextVar[Said | None] = ContextVar("said", default=None)


def hear(said: Said) -> None:
    """Take note of what was said, for the command that follows."""
    _said.set(said)


def connect(url: str) -> Client:
    """Return a client of a service, with the key for it."""
    said = _said.get() or Said()
    return Client(url, api_key=said.api_key or _kept_for(url, said.data_dir))


def keep(data_dir: Path, url: str, token: str) -> Path:
    """Keep a key for this machine's commands, readable for its user alone, and return the file."""
    path, unfinished = data_dir / FILE, data_dir / f".{FILE}.{os.getpid()}"
    with open(unfinished, "w", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, 0o600)) as file:
        file.write(FORM.format(url=url, token=token))
    unfinished.replace(path)
    return path


def kept(data_dir: Path, url: str) -> str | None:
    """Return the key that is kept in a data directory for this address; None where there is none."""
    try:
        found = FOUND.search((data_dir / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found["token"] if found is not None and _place(found["url"]) == _place(url) else None


def keep_anew(data_dir: Path, url: str) -> None:
    """Write down that the service of a kept key has another address by now."""
    with suppress(OSError, ValueError):
        found = FOUND.search((data_dir / FILE).read_text())
        if found is not None and found["url"] != url:
            keep(data_dir, url, found["token"])


def _place(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    host = "loopback" if parts.hostname in LOOPBACK else parts.hostname
    return parts.scheme, host, parts.port


def _kept_for(url: str, data_dir: Path | None) -> str | None:
    if urlsplit(url).hostname not in LOOPBACK:
        return None
    if data_dir is not None:
        return kept(data_dir, url)
    token = kept(Path("data"), url)
    if token is None and Path(".env").exists():
        # Settings are slow to load; only where a file may name another directory is it worth it.
        from store.errors import SettingsError
        from store.settings import load_settings

        with suppress(SettingsError):
            token = kept(load_settings().data_dir, url)
    return token
