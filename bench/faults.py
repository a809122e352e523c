"""What is done to the service: faults drawn from a seed, each at a moment when it hurts."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.clients import Clients
from bench.hosts import Service, Worker
from bench.rows import Observer, Recovery, Row
from bench.wishes import Studio, Wish

Sort = Literal["kill", "host", "redis", "flush", "pause", "api"]

# Kinds of job whose workers are killed, in turn; what takes long to begin anew is hit seldom.
HIT = ("sample", "train", "import", "export", "sample", "train", "sample", "train", "import", "evaluate")

ATTEMPTS = 3  # that a job gets without progress, by default
FIND_S = 30.0  # how long a fault waits for a worker with such a job
RECOVER_S = 90.0  # how long is waited for one recovery
TAKEN_S = 90.0  # how long a worker stays paused at most
LATE_S = 30.0  # how soon a worker that goes on tries to commit


@dataclass(frozen=True)
class Fault:
    """Something to do."""

    sort: Sort
    kind: str | None = None  # of the job whose worker is hit
    wait_s: float = 0.0  # from the moment at which it is at work
    away_s: float = 0.0  # of Redis
    number: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        if self.sort in {"kill", "pause"}:
            return (
                f"{'kill' if self.sort == 'kill' else 'pause past its lease'}: the worker of a job of kind {self.kind}"
            )
        return {
            "host": "kill: a launcher and all its workers at once",
            "redis": f"Redis is killed, and away for {self.away_s:.1f} s",
            "flush": f"Redis is killed, and comes back after {self.away_s:.1f} s without its data",
            "api": f"the API gets {self.number.name}, and is started again",
        }[self.sort]


@dataclass
class Pause:
    """A worker that was paused for longer than its lease, and went on."""

    kind: str
    job_id: str
    taken_s: float | None = None  # until another worker had its job
    refusal: str | None = None  # the line that says that its late commit was refused


@dataclass
class Found:
    """What came of all faults, beside what the observer saw."""

    pauses: list[Pause] = field(default_factory=list)
    kills: int = 0
    idle_kills: int = 0  # of workers that had no job at that moment


def draw(source: random.Random, *, kills: int, redis: int, pauses: Sequence[str]) -> list[Fault]:
    """Return faults in the order in which they happen.

    Args:
        source: of all choices.
        kills: of workers; the last of more than ten is of a whole host.
        redis: restarts of Redis; in one of them its data is gone.
        pauses: kinds of job whose workers are paused.
    """
    hosts = 1 if kills > 10 else 0
    kinds = [HIT[number % len(HIT)] for number in range(kills - hosts)]
    faults = [Fault("kill", kind, wait_s=source.uniform(0, 1.5)) for kind in kinds]
    faults += [Fault("host", "train") for _ in range(hosts)]
    faults += [Fault("flush" if number == 0 else "redis", away_s=source.uniform(0.2, 4)) for number in range(redis)]
    faults += [Fault("pause", kind, wait_s=source.uniform(0, 0.2)) for kind in pauses]
    faults += [Fault("api", number=signal.SIGKILL), Fault("api", number=signal.SIGTERM)]
    source.shuffle(faults)
    return faults


class Breaker:
    """Does what faults say."""

    def __init__(self, service: Service, observer: Observer, clients: Clients, studio: Studio) -> None:
        self.found = Found()
        self._service, self._observer, self._clients, self._studio = service, observer, clients, studio
        self._probes = 0

    def do(self, fault: Fault) -> str:
        """Does it and waits until the service has recovered, or too long; returns what there is to say of it."""
        if fault.sort in {"kill", "host"}:
            return self._kill(fault)
        if fault.sort == "pause":
            return self._pause(fault)
        if fault.sort == "api":
            began = time.monotonic()
            self._service.restart_api(fault.number)
        else:
            began = time.monotonic()
            self._service.restart_redis(away_s=fault.away_s, empty=fault.sort == "flush")
        return self._probe("Redis" if fault.sort != "api" else "API", began)

    def _kill(self, fault: Fault) -> str:
        worker, _ = self._at_work(fault)
        whole = fault.sort == "host"
        if whole:
            host = self._service.host_of(worker)
            names = {one.name for one in self._service.workers() if self._service.host_of(one) is host}
            held = [row for row in self._observer.running() if row.owner in names]
            host.end_all()
            host.start()
        else:
            names = {worker.name}
            held = [row for row in self._observer.running() if row.owner == worker.name]
            os.kill(worker.pid, signal.SIGKILL)
        now = time.monotonic()
        self.found.kills += 1
        self.found.idle_kills += not held
        of = "host" if whole else f"{worker.lane.value} worker"
        recoveries = [self._observer.track(Recovery(of, row.id, row.kind, row.fence, now)) for row in held]
        return self._awaited(recoveries)

    def _pause(self, fault: Fault) -> str:
        assert fault.kind is not None
        worker, row = self._stopped(fault)
        # A sampler has several jobs, of which one may be canceled meanwhile, or not be in the batch that comes late.
        held = [row, *(one for one in self._observer.running() if one.owner == worker.name and one.id != row.id)]
        pause, began = Pause(fault.kind, row.id), time.monotonic()
        self.found.pauses.append(pause)
        try:
            if self._until(lambda: any(self._observer.fence_of(one.id) > one.fence for one in held), TAKEN_S):
                pause.taken_s = time.monotonic() - began
        finally:
            os.kill(worker.pid, signal.SIGCONT)

        def refused() -> bool:
            lines = self._service.logs().splitlines()
            ours = (line for line in lines if worker.name in line and "no longer this worker's" in line)
            late = (line for line in ours if any(one.id in line for one in held))
            pause.refusal = next(late, None)
            return pause.refusal is not None

        self._until(refused, LATE_S)
        taken = "never" if pause.taken_s is None else f"after {pause.taken_s:.1f} s"
        return f"taken over {taken}; its late commit was {'refused' if pause.refusal else 'not seen'}"

    def _stopped(self, fault: Fault) -> tuple[Worker, Row]:
        """A worker that is paused in mid-work, not in mid-transaction of SQLite: there it would hold up everybody."""
        while True:
            worker, row = self._at_work(fault)
            os.kill(worker.pid, signal.SIGSTOP)
            if self._is_free():
                now = self._observer.running(fault.kind)
                if any(one.id == row.id and one.owner == worker.name and one.fence == row.fence for one in now):
                    return worker, row
            os.kill(worker.pid, signal.SIGCONT)
            time.sleep(0.05)

    def _is_free(self) -> bool:
        """Whether a writer can get at the database."""
        url = self._observer.engine.url
        if url.get_backend_name() != "sqlite":
            return True
        connection = sqlite3.connect(url.database or "", timeout=2, isolation_level=None)
        with contextlib.closing(connection):
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                return False
        return True

    def _at_work(self, fault: Fault) -> tuple[Worker, Row]:
        """A worker that has a job of the fault's kind, a moment after it was seen so. Raises LookupError."""
        deadline = time.monotonic() + FIND_S
        while time.monotonic() < deadline + FIND_S:
            kind = fault.kind if time.monotonic() < deadline else None  # rather any worker than none
            # Whoever has a job at its last attempt is spared: that job would fail, and rightly.
            last = {row.owner for row in self._observer.running() if row.attempts >= ATTEMPTS}
            by_name = {worker.name: worker for worker in self._service.workers() if worker.name not in last}
            seen = [row for row in self._observer.running(kind) if row.owner in by_name]
            if not seen and not self._observer.unfinished() and kind is not None:
                self._clients.ask([self._bait(kind)])
            if seen:
                time.sleep(fault.wait_s)
                for row in self._observer.running(kind):
                    if row.owner in by_name and row.attempts < ATTEMPTS:
                        return by_name[row.owner], row
            time.sleep(0.02)
        raise LookupError(f"no worker has had a job for {2 * FIND_S:.0f} s")

    def _bait(self, kind: str) -> Wish:
        """A job for a worker to be hit at, where none is left."""
        self._probes += 1
        model = self._studio.models[0]
        wanted: dict[str, tuple[str, dict[str, Any]]] = {
            "sample": ("/v1/generations", {"model": model, "n": 600, "seed": self._probes}),
            "train": (
                "/v1/trainings",
                {
                    "dataset": self._studio.dataset, "kind": "gan-dcgan", "resolution": 32, "seed": 1,
                    "options": {"base_channels": 4, "latent_dim": 8, "batch_size": 8}, "budget": {"images": 1200},
                },
            ),
            "evaluate": ("/v1/evaluations", {"model": model, "n": 50, "seed": 0}),
            "import": ("/v1/datasets", {"archive": "lots", "name": "squares", "resolution": 32}),
            "export": (f"/v1/models/{model}/exports", {"format": "native"}),
        }  # fmt: skip
        path, body = wanted[kind]
        return Wish(f"bait-{self._probes:04d}", kind, path, body, 0.0, None, False)

    def _probe(self, of: str, began: float) -> str:
        """How soon a job ends that is asked for now."""
        self._probes += 1
        body = {"model": self._studio.models[0], "n": 1, "seed": self._probes}
        wish = Wish(f"probe-{self._probes:04d}", "sample", "/v1/generations", body, 0.0, None, False)
        job_id = self._clients.submit(wish)
        if job_id is None:
            return "nothing is taken any more"
        return self._awaited([self._observer.track(Recovery(of, job_id, "sample", 0, began))])

    def _awaited(self, recoveries: Sequence[Recovery]) -> str:
        self._until(lambda: all(one.took_s is not None for one in recoveries), RECOVER_S)
        if not recoveries:
            return "it had no job"
        return ", ".join(
            f"{one.kind} {'does not go on' if one.took_s is None else f'goes on after {one.took_s:.1f} s'}"
            for one in recoveries
        )

    @staticmethod
    def _until(true: Callable[[], bool], within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while not true():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True
