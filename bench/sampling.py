"""`python -m bench.sampling`: Darkroom beside LitServe and mosec, the same generator, the same client, in turn."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from PIL import Image

from app.client import Client
from bench import pairs
from bench.figures import Figure, print_figures
from bench.load import Load, Served
from bench.results import ROOT, commit, cores, machine
from bench.servers import Target, darkroom, litserve, model_of, mosec, target_of
from models.console import say
from models.generator import Generator
from models.sampling import SampleItem, Sampler
from store.settings import Settings

CONNECTIONS = (1, 16, 64, 256)
ROUNDS, SECONDS, WARMUP_S = 3, 6.0, 1.5
SWEEP_S, SWEEP_CONNECTIONS = 5.0, 64
BULK, SAME, CANCELED = 256, 2000, 64
OPEN_SHARES = (0.5, 0.8)  # of the server's own throughput at SWEEP_CONNECTIONS
MORE_THAN_A_BATCH = Settings.model_fields["max_batch"].default + 8  # images, so that they may not overtake larger jobs
LEVELS = 1  # by how much a pixel may differ from the plain generator's

app = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False, add_completion=False)


@dataclass
class Round:
    """What one server did in one round."""

    closed: dict[int, Served] = field(default_factory=dict)  # by connections
    open: dict[str, Served] = field(default_factory=dict)  # by share of its capacity
    bulk_images_per_s: float | None = None


@dataclass(frozen=True)
class Contestant:
    """A server with its settings, started anew for each round."""

    name: str
    start: Callable[[], AbstractContextManager[tuple[Target, Client | None]]]
    settings: Mapping[str, Any]


@app.command(
    help="Nothing else should run on the machine. Prints ratios of medians over rounds taken in turn; 20 minutes."
)
def main(
    quick: Annotated[bool, typer.Option("--quick", help="Try everything in minutes; the numbers mean little.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write a figure a line as JSON.")] = False,
    rounds: Annotated[int, typer.Option(min=1)] = ROUNDS,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each load.")] = SECONDS,
    sweep: Annotated[bool, typer.Option(help="Try the peers' settings first; else take the last sweep's best.")] = True,
    results: Annotated[Path, typer.Option(metavar="FILE")] = ROOT / "bench/results/sampling.json",
) -> None:
    if quick:
        rounds, seconds, results = 1, 1.0, ROOT / "bench/.work/quick/sampling.json"
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), seconds, quick)
        before = json.loads(results.read_text()) if results.exists() else {}
        tried = run.sweep() if sweep or "sweep" not in before else before["sweep"]
        found = {"machine": machine("cpu"), "commit": commit(), "sweep": tried}
        taken: dict[str, list[Round]] = {}
        alone: list[dict[str, float]] = []
        for number in range(rounds):
            alone.append(run.direct())  # in each round: a machine is faster in one minute than in the next
            for contestant in run.contestants(tried):
                say(f"round {number + 1} of {rounds}: {contestant.name} {json.dumps(contestant.settings)}")
                taken.setdefault(contestant.name, []).append(run.round(contestant))
        found["direct"] = {name: statistics.median(one[name] for one in alone) for name in alone[0]}
        found["rounds"] = {name: [asdict(one) for one in many] for name, many in taken.items()}
        _keep(results, found)  # what took a quarter of an hour outlives a failure of what comes next
        found["promises"] = run.promises()
        found["pairs"] = {str(number): asdict(pairs.serve(number)) for number in (1, 2)}
    _keep(results, found)
    print_figures(list(figures(found, taken)), as_json, quick)


class Run:
    """Everything of one run: its folder, its model, its loads."""

    def __init__(self, folder: Path, seconds: float, quick: bool) -> None:
        self.folder, self.seconds, self.quick = folder, seconds, quick
        self.data_dir = folder / "darkroom"
        self._seeds = count(1_000_000, 1_000_000)  # each load has its own: nothing is made twice
        with self._darkroom({})() as (_, client):
            assert client is not None
            self.model, self.generator = model_of(client, self.data_dir)
        self._reference = Sampler(Generator.load(self.generator))

    def contestants(self, tried: Sequence[Mapping[str, Any]]) -> list[Contestant]:
        """Who takes part: ours, ours with the plain generator, ours without batches, and the peers at their best."""
        ours = {
            "darkroom": {},
            "darkroom-plain": {"DARKROOM_REWRITE_GENERATORS": "false"},
            "darkroom-single": {"DARKROOM_MAX_BATCH": "1"},
        }
        found = [Contestant(name, self._darkroom(settings), settings) for name, settings in ours.items()]
        for name in ("litserve", "mosec"):
            best = max((one for one in tried if one["server"] == name), key=lambda one: one["images_per_s"])
            found.append(Contestant(name, self._peer(name, best["settings"]), best["settings"]))
        return found

    def sweep(self) -> list[dict[str, Any]]:
        """The peers with other batch sizes, timeouts and workers, each under the same load."""
        crews = [(1, cores()), (cores(), 1)]
        waits_ms, batches = ((0, 5), (32, 64)) if not self.quick else ((1,), (32,))
        tried = []
        for name in ("litserve", "mosec"):
            for workers, threads in crews if not self.quick else crews[:1]:
                for max_batch in batches:
                    for wait_ms in waits_ms:
                        settings: dict[str, Any] = {"workers": workers, "threads": threads, "max_batch": max_batch}
                        if name == "litserve":
                            settings["timeout_s"] = wait_ms / 1000
                        else:
                            settings["wait_ms"] = max(1, wait_ms)
                        with self._peer(name, settings)() as (target, _):
                            served = self.load(target, SWEEP_CONNECTIONS, min(self.seconds, SWEEP_S))
                        say(f"{name} {json.dumps(settings)}: {served.images_per_s:.0f} images/s")
                        tried.append({"server": name, "settings": settings, "images_per_s": served.images_per_s})
        return tried

    def direct(self) -> dict[str, float]:
        """What the generator costs without a service."""
        command = [sys.executable, "-m", "bench.direct", str(self.generator), "--threads", str(cores())]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    def round(self, contestant: Contestant) -> Round:
        """All loads on one server."""
        taken = Round()
        with contestant.start() as (target, client):
            self.load(target, 8, 1.0)  # it is warm after that
            single = contestant.name == "darkroom-single"
            for connections in (SWEEP_CONNECTIONS,) if single else CONNECTIONS:
                taken.closed[connections] = self.load(target, connections, self.seconds, check=True)
            if single:
                return taken
            for share in OPEN_SHARES:
                rate = share * taken.closed[SWEEP_CONNECTIONS].images_per_s
                taken.open[f"{share:g}"] = self.load(target, 256, self.seconds, rate=rate)
            if client is not None:
                taken.bulk_images_per_s = self._bulk(client)
        return taken

    def load(
        self, target: Target, connections: int, seconds: float, *, rate: float | None = None, check: bool = False
    ) -> Served:
        """One load from a client in a process of its own; fails where an answer is not what it should be."""
        load = Load(
            url=target.url,
            body=dict(target.body),
            headers=dict(target.headers),
            status=target.status,
            connections=connections,
            seconds=seconds,
            warmup_s=min(WARMUP_S, seconds),
            rate=rate,
            first_seed=next(self._seeds),
            keep=8 if check else 0,
        )
        served = _send(load)
        if served.errors:
            raise RuntimeError(f"{target.name}: {served.errors} errors, the first {served.first_error}")
        for seed, content in served.kept.items():
            self._check(target.name, int(seed), base64.b64decode(content))
        served.kept = {}  # they would swell the results
        return served

    def promises(self) -> dict[str, Any]:
        """What must hold of Darkroom whatever the speed: equal bytes in any company, nothing made of what was canceled."""
        same = 50 if self.quick else SAME
        with self._darkroom({})() as (target, client):
            assert client is not None
            first = next(self._seeds)
            alone, company = (
                self._hashes(target, first, same, connections=connections) for connections in (1, SWEEP_CONNECTIONS)
            )
            return {
                "same": sum(alone[seed] == company[seed] for seed in alone),
                "of": len(alone),
                **self._canceled(client),
            }

    def _hashes(self, target: Target, first: int, number: int, *, connections: int) -> dict[int, str]:
        """Of the answers for so many seeds, asked for in an order of their own."""
        seeds = list(range(first, first + number))
        random.Random(connections).shuffle(seeds)
        with httpx.Client(limits=httpx.Limits(max_connections=connections), timeout=60) as http:

            def ask(seed: int) -> str:
                answer = http.post(target.url, json={**target.body, "seed": seed}, headers=dict(target.headers))
                answer.raise_for_status()
                return hashlib.sha256(answer.content).hexdigest()

            with ThreadPoolExecutor(connections) as pool:
                return dict(zip(seeds, pool.map(ask, seeds), strict=True))

    def _canceled(self, client: Client) -> dict[str, int]:
        """Cancel jobs while a large one keeps the sampler busy; what it made besides the large one is counted."""
        large = client.generate(self.model, n=4096)
        # Of the same sort as the large one and behind it: each may ride along as soon as a batch has room, which is never.
        small = [client.generate(self.model, n=MORE_THAN_A_BATCH) for _ in range(CANCELED)]
        canceled = [client.cancel(job["id"]) for job in small]
        never_begun = [job["id"] for job in canceled if job["status"] == "canceled" and job["started_at"] is None]
        client.cancel(large["id"])
        time.sleep(3)  # a batch that was under way is stored by then
        return {
            "canceled_while_queued": len(never_begun),
            "made_of_them": sum(len(client.images(i)) for i in never_begun),
        }

    def _bulk(self, client: Client) -> float:
        rates = []
        # One for all requests: it reads certificates when it is made, which is no part of the service.
        with httpx.Client(base_url=client.url, headers={"Prefer": "wait=60", **client.headers}, timeout=90) as http:
            for _ in range(1 if self.quick else 3):
                body = {"model": self.model, "n": BULK, "seed": next(self._seeds), "priority": "interactive"}
                began = time.monotonic()
                answer = http.post("/v1/generations", json=body)
                rates.append(BULK / (time.monotonic() - began))
                if answer.status_code != 201:
                    raise RuntimeError(f"bulk: {answer.status_code} {answer.text[:200]}")
        return float(statistics.median(rates))

    def _check(self, name: str, seed: int, content: bytes) -> None:
        pixels = np.asarray(Image.open(io.BytesIO(content)), dtype=np.int16)
        [reference] = self._reference.sample([SampleItem(seed)])
        off = int(np.abs(pixels - reference.pixels.transpose(1, 2, 0).astype(np.int16)).max())
        if off > LEVELS:
            raise RuntimeError(f"{name}: the picture of seed {seed} is off by {off} levels")

    def _darkroom(
        self, settings: Mapping[str, str]
    ) -> Callable[[], AbstractContextManager[tuple[Target, Client | None]]]:
        @contextmanager
        def start() -> Iterator[tuple[Target, Client | None]]:
            with darkroom(self.data_dir, settings) as client:
                yield target_of(client, getattr(self, "model", "")), client

        return start

    def _peer(
        self, name: str, settings: Mapping[str, Any]
    ) -> Callable[[], AbstractContextManager[tuple[Target, Client | None]]]:
        @contextmanager
        def start() -> Iterator[tuple[Target, Client | None]]:
            serve = litserve if name == "litserve" else mosec
            with serve(self.generator, self.folder / f"{name}.log", **settings) as target:
                yield target, None

        return start


def figures(found: Mapping[str, Any], taken: Mapping[str, Sequence[Round]]) -> Iterator[Figure]:
    """The figures that are claimed, from medians over the rounds."""

    def closed(name: str, connections: int, what: str) -> float:
        return float(statistics.median(getattr(one.closed[connections], what) for one in taken[name]))

    def ratio(name: str, value: float, bar: float, *, most: bool = False, note: str = "") -> Figure:
        return Figure(name, value, f"{'<=' if most else '>='} {bar:g}", value <= bar if most else value >= bar, note)

    direct = found["direct"]
    for connections in (64, 256):
        peer = closed("litserve", connections, "images_per_s")
        for name, bar in (("darkroom-plain", 1.1), ("darkroom", 1.7)):
            rate = closed(name, connections, "images_per_s")
            note = f"{rate:.0f} and {peer:.0f} images/s"
            yield ratio(f"{name} / litserve, images/s, c = {connections}", rate / peer, bar, note=note)
    for quantile in ("p50_ms", "p99_ms"):
        ours, peer = closed("darkroom", 64, quantile), closed("litserve", 64, quantile)
        note = f"{ours:.0f} and {peer:.0f} ms"
        yield ratio(f"darkroom / litserve, {quantile[:3]}, c = 64", ours / peer, 0.7, most=True, note=note)
    alone, least = closed("darkroom", 1, "p50_ms"), 1000 * direct["prepared_one_png_s"]
    note = f"{alone:.1f} and {least:.1f} ms; litserve {closed('litserve', 1, 'p50_ms'):.1f} ms"
    yield ratio("p50 at c = 1 minus a direct call, ms", alone - least, 5, most=True, note=note)
    bulk = statistics.median(one.bulk_images_per_s or 0 for one in taken["darkroom"])
    bare = BULK / direct["prepared_bulk_s"]
    yield ratio("bulk of 256 / bare loop with PNGs", bulk / bare, 0.85, note=f"{bulk:.0f} and {bare:.0f} images/s")
    rate, single = closed("darkroom", 64, "images_per_s"), closed("darkroom-single", 64, "images_per_s")
    note = f"{rate:.0f} and {single:.0f} images/s"
    yield ratio("c = 64 / the same service with max_batch = 1", rate / single, 2.5, note=note)
    yield ratio("prepared / plain generator, batch 32", direct["plain_batch_s"] / direct["prepared_batch_s"], 1.5)
    promises = found["promises"]
    note = f"of {promises['canceled_while_queued']} jobs"
    yield ratio("images made of jobs canceled while queued", promises["made_of_them"], 0, most=True, note=note)
    yield ratio(
        "equal bytes alone and in company", promises["same"] / promises["of"], 1, note=f"{promises['of']} requests"
    )
    one, two = found["pairs"]["1"], found["pairs"]["2"]
    note = f"{two['images']} images of {two['wanted']}, {two['images'] - two['positions']} twice"
    yield ratio("two samplers / one, images/s", two["images_per_s"] / one["images_per_s"], 1.9, note=note)
    for name in ("darkroom-plain", "darkroom"):
        rate, peer = closed(name, 64, "images_per_s"), closed("mosec", 64, "images_per_s")
        yield Figure(
            f"{name} / mosec, images/s, c = 64", rate / peer, "none", None, f"{rate:.0f} and {peer:.0f} images/s"
        )
    for share in map("{:g}".format, OPEN_SHARES):
        ours, peer = (
            statistics.median(one.open[share].p99_ms for one in taken[name]) for name in ("darkroom", "litserve")
        )
        name = f"open loop at {share} of its capacity, p99: darkroom / litserve"
        yield Figure(name, ours / peer, "none", None, f"{ours:.0f} and {peer:.0f} ms")


def _keep(results: Path, found: Mapping[str, Any]) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(found, indent=1) + "\n")


def _send(load: Load) -> Served:
    command = [sys.executable, "-m", "bench.load"]
    done = subprocess.run(
        command, input=json.dumps(asdict(load)), check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    return Served(**json.loads(done.stdout))


if __name__ == "__main__":
    app(prog_name="python -m bench.sampling")
