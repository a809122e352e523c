"""`python -m bench.load`: a client that keeps an HTTP server busy, in a process of its own.

It speaks just enough HTTP/1.1 over connections that stay open, so that it takes little of the machine from the server it
measures: closed loop (each connection sends its next request when the last one is answered) or open loop (requests come at
the times of a Poisson process, whether the server keeps up or not; a request that must wait for a free connection has been
waiting since its time, so that nothing is omitted from the latencies).
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

DRAIN_S = 30.0  # longest wait for the last answers


@dataclass(frozen=True)
class Load:
    """What to send."""

    url: str
    body: dict[str, Any]  # JSON of each request; `seed` is added, a new one each time
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200  # what a good answer has
    connections: int = 1
    seconds: float = 5.0  # to measure, after the warm-up
    warmup_s: float = 1.0
    rate: float | None = None  # requests a second of an open loop; None: closed
    first_seed: int = 0
    keep: int = 0  # so many of the last answers' bodies are given back

    def request(self, seed: int) -> bytes:
        """The bytes of the request for this seed."""
        place = urlsplit(self.url)
        content = json.dumps({**self.body, "seed": seed}).encode()
        head = [f"POST {place.path} HTTP/1.1", f"Host: {place.netloc}", "Content-Type: application/json"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        head += [f"Content-Length: {len(content)}", "", ""]
        return "\r\n".join(head).encode() + content


@dataclass
class Served:
    """What came of it."""

    answered: int  # within the measured seconds
    errors: int
    images_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    kept: dict[int, str]  # by seed, base64
    first_error: str | None = None


class Connection(asyncio.Protocol):
    """One connection: sends a request, reads its answer, says so."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.seed = 0
        self.since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.failed(self, f"the connection was lost: {exc}")

    def send(self, seed: int, since: float) -> None:
        """Send the request for `seed`, which has been due since `since` (seconds of the monotonic clock)."""
        self.seed, self.since = seed, since
        assert self.transport is not None
        self.transport.write(self.client.load.request(seed))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in head else 0
        if len(self.buffer) < end + 4 + length:
            return
        status = int(head[9:12])
        body = bytes(self.buffer[end + 4 : end + 4 + length])
        self.buffer.clear()
        self.client.answered(self, status, body)


class Client:
    """All connections of one load, and what was measured."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.idle: deque[Connection] = deque()
        self.due: deque[tuple[int, float]] = deque()  # open loop: requests that wait for a connection
        self.seed = load.first_seed
        self.latencies: list[float] = []
        self.kept: deque[tuple[int, bytes]] = deque(maxlen=load.keep)
        self.errors = 0
        self.first_error: str | None = None
        self.in_flight = 0
        self.begins = self.ends = 0.0

    async def run(self) -> Served:
        """Open the connections, keep the server busy, and sum up."""
        loop = asyncio.get_running_loop()
        place = urlsplit(self.load.url)
        for _ in range(self.load.connections):
            host, port = place.hostname or "127.0.0.1", place.port or 80
            _, connection = await loop.create_connection(lambda: Connection(self), host, port)
            self.idle.append(connection)
        opened = list(self.idle)
        started = time.monotonic()
        self.begins = started + self.load.warmup_s
        self.ends = self.begins + self.load.seconds
        if self.load.rate is None:
            while self.idle:
                self._send(self.idle.popleft(), time.monotonic())
        else:
            await self._arrive(self.load.rate, started)
        while time.monotonic() < self.ends or (self.in_flight and time.monotonic() < self.ends + DRAIN_S):
            await asyncio.sleep(0.02)
        for connection in opened:
            assert connection.transport is not None
            connection.transport.close()
        await asyncio.sleep(0)
        times = np.asarray(self.latencies or [np.nan]) * 1000
        p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
        return Served(
            answered=len(self.latencies),
            errors=self.errors,
            images_per_s=len(self.latencies) / self.load.seconds,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            kept={seed: base64.b64encode(body).decode() for seed, body in self.kept},
            first_error=self.first_error,
        )

    async def _arrive(self, rate: float, started: float) -> None:
        arrivals = random.Random(0)  # the same times for every server
        when = started
        while (when := when + arrivals.expovariate(rate)) < self.ends:
            if (left := when - time.monotonic()) > 0:
                await asyncio.sleep(left)
            if self.idle:
                self._send(self.idle.popleft(), when)
            else:
                self.due.append((self._next_seed(), when))

    def _next_seed(self) -> int:
        self.seed += 1
        return self.seed

    def _send(self, connection: Connection, since: float, seed: int | None = None) -> None:
        self.in_flight += 1
        connection.send(self._next_seed() if seed is None else seed, since)

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """Note an answer, and send the next request."""
        now = time.monotonic()
        self.in_flight -= 1
        if status != self.load.status:
            self._count_error(f"status {status}: {body[:300]!r}")
        else:
            # A closed loop counts what is answered within the time, an open one what was due within it.
            moment = now if self.load.rate is None else connection.since
            if self.begins <= moment < self.ends:
                self.latencies.append(now - connection.since)
            if self.load.keep:
                self.kept.append((connection.seed, body))
        if self.due:
            seed, since = self.due.popleft()
            self._send(connection, since, seed)
        elif self.load.rate is None and now < self.ends:
            self._send(connection, now)
        else:
            self.idle.append(connection)

    def failed(self, connection: Connection, reason: str) -> None:
        """Note a connection that broke; it is not opened again."""
        if time.monotonic() < self.ends:
            self._count_error(reason)

    def _count_error(self, reason: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or reason


def main() -> None:
    """Reads a Load as JSON from standard input, writes what was Served to standard output."""
    load = Load(**json.load(sys.stdin))

    async def serve() -> Served:
        return await Client(load).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(asdict(runner.run(serve())), sys.stdout)


if __name__ == "__main__":
    main()
