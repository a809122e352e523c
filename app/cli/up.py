"""`darkroom up`: the whole service in one foreground process group, on one data directory."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.cli import credential, output
from app.cli.options import DataDirOption, PortOption, VerboseOption
from app.client import Client, ClientError

# What runs the service (databases, queues) is imported where it is used: the other commands start faster without it.

READY_WITHIN_S = 120.0


@dataclass(frozen=True)
class Service:
    """A service that is about to run: where it will be found."""

    url: str
    data_dir: Path

    @property
    def logs(self) -> Path:
        """Directory of one log for each child."""
        return self.data_dir / "logs"


def up(port: PortOption = None, data_dir: DataDirOption = None, verbose: VerboseOption = False) -> None:
    """Runs the whole service in the foreground until Ctrl-C.

    Starts a Redis of its own (unless DARKROOM_REDIS_URL names one), the API and the workers, all on this machine.
    Stopping and starting again loses nothing: queued work is still queued, a training goes on from its checkpoint.

    Example: darkroom up --port 8080 --data-dir ~/darkroom
    """
    serve(port, data_dir, verbose, with_demo=None)


def serve(port: int | None, data_dir: Path | None, verbose: bool, with_demo: Sequence[str] | None) -> None:
    """Runs the service until Ctrl-C, SIGTERM or SIGHUP.

    Args:
        port: of the API; 0: any free one; None: the setting.
        data_dir: directory of all state; None: the setting.
        verbose: whether the children's logs are shown as well.
        with_demo: arguments of `demo-steps`, which then runs once beside the service; None: no demo.

    Raises:
        ClientError: another `up` has the data directory, or the port is taken; nothing was started.
        StoreError: a setting is wrong, the database can't be reached, or there is no redis-server.
    """
    from store import local_redis
    from store.database import Database
    from store.keys import first_admin_key
    from store.processes import Program, Supervisor
    from store.settings import load_settings

    said = {"port": port, "data_dir": data_dir}
    settings = load_settings(**{name: value for name, value in said.items() if value is not None})
    with only_one(settings.data_dir) as lock:
        api_port = settings.port or local_redis.free_port(settings.host.strip("[]"))
        _check_free(settings.host.strip("[]"), api_port)
        service = Service(f"http://{_reached_at(settings.host)}:{api_port}", settings.data_dir)
        json.dump({"pid": os.getpid(), "url": service.url}, lock.open("w"))
        database = Database(settings.resolved_database_url)
        database.migrate()
        token = first_admin_key(database) if settings.auth == "on" else None
        database.close()
        if token is not None:
            _show_first_key(credential.keep(settings.data_dir, service.url, token), token)
        credential.keep_anew(settings.data_dir, service.url)

        python = [sys.executable, "-m"]
        env = {"DARKROOM_DATA_DIR": str(settings.data_dir), "DARKROOM_PORT": str(api_port)}
        children: list[Program] = []
        if "redis_url" not in settings.model_fields_set:
            redis = local_redis.prepare(settings.data_dir / "redis")
            env["DARKROOM_REDIS_URL"] = redis.url
            children.append(Program("redis", lambda: redis.argv, log=_log(service, "redis")))
        children += [
            Program("api", lambda: [*python, "app.serve"], env, _log(service, "api")),
            Program("workers", lambda: [*python, "worker.launch"], env, _log(service, "workers")),
        ]
        if verbose:
            follow = ["tail", "-n", "0", "-F", *(str(child.log) for child in children)]
            children.insert(0, Program("logs", lambda: follow))
        arguments = [service.url, str(service.data_dir), *(with_demo or [])]
        last = "announce" if with_demo is None else "demo-steps"
        children.append(Program(last, lambda: [*python, "app.cli", last, *arguments], restart=False))

        logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")
        output.notes().print("[dim]Starting Redis, the API and the workers …[/]")
        Supervisor(children, grace_s=settings.drain_s + 10).run()
        output.notes().print(f"Stopped. Everything is kept in {escape(str(service.data_dir))}.")


def announce(
    url: Annotated[str, typer.Argument(metavar="URL")],
    data_dir: Annotated[Path, typer.Argument(metavar="DIR")],
) -> None:
    """Waits until the service at URL is ready, then says where it is. `up` starts this beside the service."""
    service = Service(url, data_dir)
    with Client(url, api_key=credential.kept(data_dir, url)) as client:
        say_where(client, service)


def say_where(client: Client, service: Service) -> None:
    """Waits until the service is ready, then prints where it is.

    Raises:
        ClientError: it is not ready in time; the message names the log and quotes its end.
    """
    wait_until_ready(client, service)
    devices = _devices(service.logs / "workers.log")
    console = output.notes()
    console.print(f"\n[bold green]Darkroom is up[/] at [bold]{escape(service.url)}[/]")
    rows = [
        ("API docs", f"{service.url}/docs"),
        ("data", str(service.data_dir)),
        ("logs", str(service.logs)),
        ("devices", devices),
        ("stop", "Ctrl-C; nothing is lost"),
    ]
    for name, value in rows:
        console.print(f"  [dim]{name:<10}[/] {escape(value)}")


def _show_first_key(path: Path, token: str) -> None:
    console = output.notes()
    console.print("\n[bold]The first API key[/], with the scope admin. It is shown this once:\n")
    console.print(f"    {token}\n", markup=False)
    console.print(
        f"It is also kept in {path} for you: `darkroom` on this machine finds it there, and so does `curl -K {path} …`.\n"
        "Elsewhere set DARKROOM_API_KEY. `darkroom keys create NAME --scope generate` makes others.\n",
        markup=False,
    )


def _reached_at(host: str) -> str:
    """What this machine calls an address that the API listens on."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}.get(host, host)  # noqa: S104  # all of our addresses


def wait_until_ready(client: Client, service: Service, within_s: float = READY_WITHIN_S) -> None:
    """Returns once the database, Redis and blobs are within the API's reach; raises ClientError when they never are."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            client.ready()
            return
        except ClientError as error:
            if time.monotonic() > deadline:
                raise ClientError(
                    "not_ready",
                    f"the service was not ready within {within_s:.0f} s: {error.message}\n{_end_of(service.logs / 'api.log')}",
                    remedy=f"see the logs in {service.logs}",
                ) from error
        time.sleep(0.1)


def _devices(log: Path, within_s: float = 20.0) -> str:
    """What the launcher wrote last about the devices it found; it starts beside the API, so it may need a moment."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = [line for line in log.read_text(errors="replace").splitlines() if " devices: " in line]
        if found:
            return found[-1].partition(" devices: ")[2]
        time.sleep(0.1)
    return f"not known yet, see {log}"


def _log(service: Service, name: str) -> Path:
    """An empty log of this start; what the last start left is kept beside it."""
    path = service.logs / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size:
        shutil.move(path, path.with_suffix(".log.1"))
    path.touch()
    return path


def _end_of(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


@contextmanager
def only_one(data_dir: Path) -> Iterator[Path]:
    """Holds the data directory for this process; the kernel lets go of it however the process ends."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        path = data_dir / "up.lock"
        file = path.open("a+")
    except OSError as error:
        raise ClientError(
            "data_dir",
            f"the data directory {data_dir} can't be used: {error.strerror}",
            remedy="name another with --data-dir",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ClientError(
                "already_up",
                f"Darkroom already runs on {data_dir} {_who(file.read())}".rstrip(),
                remedy="use that one, stop it with Ctrl-C, or give this one another --data-dir and --port",
            ) from error
        yield path


def _who(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"(process {holder['pid']}, {holder['url']})"
    except (ValueError, KeyError, TypeError):
        return ""


def _check_free(host: str, port: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that lingers is no server
        try:
            probe.bind(address)
        except OSError as error:
            raise ClientError(
                "port_taken",
                f"port {port} of {host} can't be used: {error.strerror}",
                remedy="stop what listens there, or choose another with --port",
            ) from error
