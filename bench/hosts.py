"""A service that may be broken: Redis, a database, the API and two hosts' launchers, each a process that can be hit alone.

Everything is on loopback. What dies is started again as docker would do it: the API and the launchers here, the workers by
their launchers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from bench.results import ROOT
from store import local_redis
from store.queue import Lane, celery_app
from tests.services import running_postgres

READY_S = 120.0  # a busy machine may need that long
STOP_S = 60.0
HOSTS = ("host-1", "host-2")


class NotStarted(Exception):
    """A part of the service did not come up; the message says which, and quotes its log."""


@dataclass(frozen=True)
class Worker:
    """A worker process."""

    pid: int
    name: str  # that its leases carry
    lane: Lane


class Part:
    """One process of the service with its log, in a session of its own."""

    def __init__(self, name: str, argv: list[str], log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self.name, self.log = name, log
        self._argv, self._env, self._cwd = argv, dict(env), cwd
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; it has ended, or was never started."""
        # A bench that is killed can't tidy up; where setpriv is (Linux), the kernel ends what it started.
        setpriv = shutil.which("setpriv")
        with_us = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                [*with_us, *self._argv], cwd=self._cwd, env=self._env, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip

    def end(self, number: signal.Signals, *, within_s: float = STOP_S) -> None:
        """Sends a signal and waits for the end; what does not end in time is killed."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def end_all(self) -> None:
        """SIGKILL for the process and everything below it, as when a machine loses its power."""
        assert self.process is not None
        family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.suspend()  # so that none sees another's end
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()

    def quoted(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "it has written nothing"


class Service:
    """The whole of it; made by `breakable`."""

    def __init__(
        self, folder: Path, database_url: str, server: local_redis.LocalRedis, settings: Mapping[str, str]
    ) -> None:
        self.folder, self.database_url = folder, database_url
        self.data_dir, self.redis_dir, self.redis_url = folder / "data", server.config.parent, server.url
        self.port = local_redis.free_port(local_redis.HOST)
        self.url = f"http://{local_redis.HOST}:{self.port}"
        self.bells = 0  # published on top of the service's own
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
        env = clean | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "DARKROOM_DATA_DIR": str(self.data_dir),
            "DARKROOM_DATABASE_URL": database_url,
            "DARKROOM_REDIS_URL": server.url,
            "DARKROOM_PORT": str(self.port),
            "DARKROOM_DEVICES": "cpu",
            "DARKROOM_TORCH_THREADS": "1",
            **{f"DARKROOM_{name}": value for name, value in settings.items()},
        }

        def part(name: str, *argv: str) -> Part:
            return Part(name, list(argv), folder / f"{name}.log", env, folder)

        self.redis = part("redis", *server.argv)
        self.api = part("api", sys.executable, "-m", "app.serve")
        self.hosts = [part(name, sys.executable, "-m", "worker.launch") for name in HOSTS]
        self._migration = part("migrate", sys.executable, "-m", "app.cli", "migrate")

    def start(self) -> None:
        """Starts all of it and waits until the API answers. Raises NotStarted."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._migration.start()
        assert self._migration.process is not None
        if self._migration.process.wait():
            raise NotStarted(f"the database could not be migrated: {self._migration.quoted()}")
        self.start_redis()
        for one in (self.api, *self.hosts):
            one.start()
        self.wait_ready()

    def stop(self) -> None:
        """Stops the service in good order, then Redis."""
        for host in self.hosts:
            if host.process is not None and host.process.poll() is None:
                host.process.terminate()
        for one in (*self.hosts, self.api, self.redis):
            if one.process is not None and one.process.poll() is None:
                one.end(signal.SIGTERM)

    def wait_ready(self) -> None:
        """Returns once the API says that its database, Redis and blobs answer. Raises NotStarted."""

        def ready() -> bool:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.url}/readyz", timeout=2)  # noqa: S310  # our own loopback
                return True
            return False

        self._until(ready, self.api)

    def start_redis(self) -> None:
        """Starts Redis and waits until it answers. Raises NotStarted."""
        self.redis.start()
        with redis.Redis.from_url(self.redis_url, socket_timeout=5) as client:

            def answers() -> bool:
                with contextlib.suppress(redis.RedisError):
                    return bool(client.ping())
                return False

            self._until(answers, self.redis)

    def restart_redis(self, *, away_s: float, empty: bool) -> None:
        """Kills Redis and starts it again.

        Args:
            away_s: how long it is away.
            empty: whether its data is gone when it comes back.
        """
        self.redis.end(signal.SIGKILL)
        time.sleep(away_s)
        if empty:
            for path in self.redis_dir.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.suffix in {".aof", ".rdb"}:
                    path.unlink()
        self.start_redis()

    def restart_api(self, number: signal.Signals) -> None:
        """Ends the API with a signal and starts it again at once; it may need a moment until it answers."""
        self.api.end(number)
        self.api.start()

    def workers(self) -> list[Worker]:
        """Every worker process that runs or is paused."""
        found = []
        for host in self.hosts:
            if host.process is None:
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(host.process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        if (words := child.cmdline()) and "worker.main" in words and "--lane" in words:
                            lane, name = (words[words.index(option) + 1] for option in ("--lane", "--name"))
                            found.append(Worker(child.pid, name, Lane(lane)))
        return found

    def host_of(self, worker: Worker) -> Part:
        """The launcher that started a worker."""
        for host in self.hosts:
            assert host.process is not None
            if any(child.pid == worker.pid for child in psutil.Process(host.process.pid).children(recursive=True)):
                return host
        raise LookupError(worker.name)

    def logs(self) -> str:
        """What all workers have written so far."""
        return "\n".join(host.log.read_text(errors="replace") for host in self.hosts if host.log.exists())

    @staticmethod
    def _until(true: Callable[[], bool], part: Part) -> None:
        deadline = time.monotonic() + READY_S
        while not true():
            if part.process is None or part.process.poll() is not None or time.monotonic() > deadline:
                raise NotStarted(f"{part.name} did not come up: {part.quoted()}")
            time.sleep(0.05)


class Doubler:
    """Publishes bells that nobody asked for, from a thread of its own, until the block ends."""

    def __init__(self, service: Service, every_s: float = 0.4, copies: int = 3) -> None:
        self._service, self._every_s, self._copies = service, every_s, copies
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="doubler", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _go_on(self) -> None:
        with celery_app(self._service.redis_url) as app:
            while not self._ended.wait(self._every_s):
                for lane in Lane:
                    # Past the coalescing of store/queue.py, where one bell at most lies unread.
                    with contextlib.suppress(Exception):  # Redis is being restarted
                        for _ in range(self._copies):
                            app.send_task(lane.queue_name, queue=lane.queue_name, ignore_result=True)
                            self._service.bells += 1


@contextmanager
def breakable(folder: Path, database: str, settings: Mapping[str, str]) -> Iterator[Service]:
    """The service, up, on an empty data directory; stopped when the block ends.

    Args:
        folder: for all its state and logs.
        database: sqlite or postgresql.
        settings: names of settings, without their prefix, and values.
    """
    with ExitStack() as stack:
        if database == "postgresql":
            url = stack.enter_context(running_postgres())
        else:
            url = f"sqlite:///{folder / 'data/darkroom.db'}"
        service = Service(folder, url, local_redis.prepare(folder / "redis"), settings)
        stack.callback(service.stop)
        service.start()
        yield service
