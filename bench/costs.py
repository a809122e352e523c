"""`python -m bench.costs`: what an image costs Darkroom, in CPU time by process, whatever else runs beside it.

Wall-clock times of a busy machine say little; the time that each process had a core for says more. Rows in the database are
counted, so that nothing is left out which a client did not wait for.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil
import typer

from app.client import Client
from bench.load import Load, Served
from bench.results import ROOT
from bench.servers import Target, darkroom, model_of, target_of
from models.console import say

BULK = 256
seeds = itertools.count(int(time.time()) % 4000 * 10**6, 10**5)  # nothing is made twice, or seldom

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(
    data_dir: Annotated[Path, typer.Option(help="Kept: the next run finds its model there.")],
    connections: Annotated[list[int] | None, typer.Option(metavar="N", help="Closed loops of so many.")] = None,
    seconds: Annotated[float, typer.Option(help="Of each load.")] = 8.0,
    setting: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A DARKROOM_* variable.")] = None,
    bulk: Annotated[int, typer.Option(help=f"Requests of {BULK} images, one after the other.")] = 6,
) -> None:
    """Prints a line of JSON for each load."""
    with darkroom(data_dir, dict(one.split("=", 1) for one in setting or [])) as client:
        model, _ = model_of(client, data_dir)
        target = target_of(client, model)
        _closed(target, 8, 1.0)  # it is warm after that
        for number in connections or [64, 1]:
            costs = _costs(data_dir, partial(_closed, target, number, seconds))
            print(json.dumps({"connections": number, **costs}))
        print(json.dumps({"bulk": BULK, **_costs(data_dir, partial(_bulk, client, target, bulk))}))


def _costs(data_dir: Path, load: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Milliseconds of CPU for each image of a load, by process."""
    before, images = _spent(data_dir), _images(data_dir)
    seen = load()
    time.sleep(0.3)
    made, after = _images(data_dir) - images, _spent(data_dir)
    spent = {name: 1000 * (after[name] - before.get(name, 0.0)) / made for name in after}
    times = {name: round(seen[name], 2) for name in ("images_per_s", "p50_ms", "p99_ms") if name in seen}
    return {"images": made, **times, "cpu_ms": {n: round(v, 3) for n, v in sorted(spent.items()) if v >= 0.002}}


def _spent(data_dir: Path) -> dict[str, float]:
    """Seconds on a core so far, user's and system's, of each process of the service."""
    up = json.loads((data_dir / "up.lock").read_text())["pid"]
    found: dict[str, float] = {}
    for process in [psutil.Process(up), *psutil.Process(up).children(recursive=True)]:
        command = process.cmdline()
        name = (
            command[command.index("--lane") + 1]
            if "--lane" in command
            else command[2]
            if command[1:2] == ["-m"]
            else Path(command[0]).name
        )
        times = process.cpu_times()
        found[name] = found.get(name, 0.0) + times.user + times.system
    return found


def _images(data_dir: Path) -> int:
    with sqlite3.connect(data_dir / "darkroom.db") as database:
        [number] = database.execute("SELECT COUNT(*) FROM images").fetchone()
    return int(number)


def _closed(target: Target, connections: int, seconds: float) -> dict[str, Any]:
    load = Load(
        target.url, dict(target.body), dict(target.headers), target.status,
        connections=connections, seconds=seconds, warmup_s=0.2, first_seed=next(seeds),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps(asdict(load)),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    served = Served(**json.loads(done.stdout))
    if served.errors:
        say(f"{served.errors} errors, the first {served.first_error}")
    return asdict(served)


def _bulk(client: Client, target: Target, requests: int) -> dict[str, float]:
    with httpx.Client(base_url=client.url, headers={"Prefer": "wait=60", **client.headers}, timeout=90) as http:
        began = time.monotonic()
        for _ in range(requests):
            body = {**target.body, "n": BULK, "seed": next(seeds), "priority": "interactive"}
            http.post("/v1/generations", json=body).raise_for_status()
        return {"images_per_s": BULK * requests / (time.monotonic() - began)}


if __name__ == "__main__":
    app(prog_name="python -m bench.costs")
