"""The client that measures servers, and the figures that follow."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bench.load import Client, Load, Served
from bench.sampling import Round, figures
from bench.servers import NotStarted, _running

Answer = Callable[[bytes], Awaitable[bytes]]


async def served(answer: Answer, **load: object) -> Served:
    """What a load finds on a server that answers so."""

    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            writer.write(await answer(await reader.readexactly(length)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    settings = {"seconds": 0.3, "warmup_s": 0.05, "body": {"n": 1}, **load}
    found = await Client(Load(url=f"http://{host}:{port}/x", **settings)).run()  # type: ignore[arg-type]  # JSON
    server.close()
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    await server.wait_closed()
    return found


def picture(status: int, content: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(content)) + content


def test_a_closed_loop_sends_the_next_request_when_the_last_is_answered() -> None:
    seen: list[int] = []

    async def answer(body: bytes) -> bytes:
        seen.append(json.loads(body)["seed"])
        await asyncio.sleep(0.01)
        return picture(200, body)

    found = asyncio.run(served(answer, connections=4, keep=3, first_seed=100))

    assert found.errors == 0
    assert found.p50_ms >= 10
    assert found.answered <= 4 * 0.3 / 0.01 + 4
    assert sorted(seen) == list(range(101, 101 + len(seen)))  # each its own
    assert len(found.kept) == 3


def test_an_open_loop_counts_the_time_that_a_request_waits_for_a_connection() -> None:
    """Given a server that takes 50 ms on one connection, and 100 requests a second, I expect ever longer latencies."""

    async def answer(body: bytes) -> bytes:
        await asyncio.sleep(0.05)
        return picture(200, b"")

    found = asyncio.run(served(answer, connections=1, rate=100.0))

    assert found.p99_ms > 200


def test_answers_that_are_no_good_are_errors_and_not_throughput() -> None:
    async def answer(body: bytes) -> bytes:
        await asyncio.sleep(0.005)
        return picture(503, b"busy")

    found = asyncio.run(served(answer))

    assert (found.answered, found.images_per_s) == (0, 0)
    assert math.isnan(found.p50_ms)
    assert found.errors > 0
    assert "503" in (found.first_error or "")


def test_figures_are_ratios_of_medians_over_the_rounds() -> None:
    def rounds(*rates: float) -> list[Round]:
        made = []
        for rate in rates:
            one = Served(answered=1, errors=0, images_per_s=rate, p50_ms=1000 / rate, p90_ms=0, p99_ms=1, kept={})
            made.append(Round(dict.fromkeys((1, 16, 64, 256), one), {"0.5": one, "0.8": one}, rate))
        return made

    taken = {name: rounds(100, 300, 200) for name in ("darkroom-plain", "darkroom-single", "litserve", "mosec")}
    taken["darkroom"] = rounds(400, 100, 500)
    found = {
        "direct": {"prepared_one_png_s": 0.001, "prepared_bulk_s": 0.5, "plain_batch_s": 3.0, "prepared_batch_s": 2.0},
        "promises": {"same": 9, "of": 10, "canceled_while_queued": 5, "made_of_them": 0},
        "pairs": {"1": {"images_per_s": 10.0}, "2": {"images_per_s": 19.5, "images": 8, "positions": 8, "wanted": 8}},
    }

    by_name = {figure.name: figure for figure in figures(found, taken)}

    assert by_name["darkroom / litserve, images/s, c = 64"].value == 2
    assert by_name["darkroom / litserve, images/s, c = 64"].ok
    assert by_name["darkroom-plain / litserve, images/s, c = 64"].ok is False
    assert by_name["p50 at c = 1 minus a direct call, ms"].value == 1.5
    assert by_name["equal bytes alone and in company"].ok is False
    assert by_name["two samplers / one, images/s"].ok


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with (
        pytest.raises(NotStarted, match="no such model"),
        _running(argv, "http://127.0.0.1:9/ready", tmp_path / "log", {}),
    ):
        pass
