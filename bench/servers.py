"""The servers that bench/sampling.py compares, each started as its user would start it and stopped afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.cli import credential
from app.client import Client
from bench.results import ROOT

READY_S = 120.0
STOP_S = 40.0
PEER_STOP_S = 1.0  # they keep nothing
PICTURES, RESOLUTION = 64, 64  # what the model of the benchmark is trained on: enough for a checkpoint


class NotStarted(Exception):
    """A server did not come up; the message says why."""


@dataclass(frozen=True)
class Target:
    """A server that is up, and what a request to it looks like."""

    name: str
    url: str  # of the route
    body: Mapping[str, Any]  # of a request, beside its seed
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


@contextmanager
def darkroom(data_dir: Path, settings: Mapping[str, str]) -> Iterator[Client]:
    """The whole service on a data directory, as `darkroom up` runs it.

    Args:
        data_dir: kept afterwards; the next start finds the model again.
        settings: `DARKROOM_*` variables beside the defaults, which let one key ask as often as it can.

    Raises:
        NotStarted: it did not come up.
    """
    port = _free_port()
    argv = [sys.executable, "-m", "app.cli", "up", "--port", str(port), "--data-dir", str(data_dir)]
    url = f"http://127.0.0.1:{port}"
    with (
        _running(argv, f"{url}/readyz", data_dir / "up.log", {"DARKROOM_RATE_PER_KEY": "0", **settings}),
        Client(url, api_key=credential.kept(data_dir, url)) as client,
    ):
        yield client


def model_of(client: Client, data_dir: Path) -> tuple[str, Path]:
    """The id of the benchmark's model and the directory of its generator; trained for one step where there is none."""
    models = client.models()
    if not models:
        job = client.upload(_noise(), name="noise", resolution=RESOLUTION)
        _finish(client, job["id"])
        job = client.train(job["dataset"], kind="gan-dcgan", budget={"images": PICTURES}, name="bench")
        _finish(client, job["id"])
        models = client.models()
    (directory,) = {card.parent for card in (data_dir / "blobs/models" / models[0]["id"]).glob("*/generator.json")}
    return models[0]["id"], directory


def target_of(client: Client, model_id: str) -> Target:
    """How Darkroom is asked for one picture, and waited for."""
    headers = {"Accept": "image/png", **client.headers}
    return Target("darkroom", f"{client.url}/v1/generations", {"model": model_id, "n": 1}, headers, status=201)


@contextmanager
def litserve(
    directory: Path, log: Path, *, workers: int, threads: int, max_batch: int, timeout_s: float
) -> Iterator[Target]:
    """LitServe over the plain generator that lies in `directory`."""
    port = _free_port()
    argv = [sys.executable, "-m", "bench.peers.litserve_png", "--directory", str(directory), "--port", str(port)]
    argv += ["--workers", str(workers), "--threads", str(threads)]
    argv += ["--max-batch", str(max_batch), "--timeout", str(timeout_s)]
    with _running(argv, f"http://127.0.0.1:{port}/health", log, {}, stop_s=PEER_STOP_S):
        yield Target("litserve", f"http://127.0.0.1:{port}/predict", {})


@contextmanager
def mosec(directory: Path, log: Path, *, workers: int, threads: int, max_batch: int, wait_ms: int) -> Iterator[Target]:
    """mosec over the plain generator that lies in `directory`."""
    port = _free_port()
    said = {
        "PICTURE_DIRECTORY": str(directory),
        "PICTURE_BATCH": str(max_batch),
        "PICTURE_WAIT_MS": str(wait_ms),
        "PICTURE_WORKERS": str(workers),
        "PICTURE_THREADS": str(threads),
    }
    argv = [sys.executable, "-m", "bench.peers.mosec_png", "--port", str(port), "--timeout", "60000"]
    with _running(argv, f"http://127.0.0.1:{port}/metrics", log, said, stop_s=PEER_STOP_S):
        yield Target("mosec", f"http://127.0.0.1:{port}/inference", {})


@contextmanager
def _running(
    argv: list[str], ready: str, log: Path, variables: Mapping[str, str], *, stop_s: float = STOP_S
) -> Iterator[None]:
    """Runs a command until the block ends; the block begins once the URL `ready` answers with 200."""
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    with log.open("wb") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file, env=env, start_new_session=True)
        try:
            _wait_until(argv[2], ready, process, log)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(stop_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever it left behind
            process.wait()


def _wait_until(name: str, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(url, timeout=2)  # noqa: S310  # our own loopback
            return
        if process.poll() is not None or time.monotonic() > deadline:
            end = log.read_text(errors="replace")[-2000:]
            raise NotStarted(f"{name} did not come up:\n{end}")
        time.sleep(0.1)


def _finish(client: Client, job_id: str) -> None:
    for _ in client.events(job_id):
        pass
    job = client.job(job_id)
    if job["status"] != "succeeded":
        raise NotStarted(f"{job_id} did not succeed: {job['error']}")


def _noise() -> BytesIO:
    """A zip of pictures that hold nothing; what is measured does not depend on them."""
    source = np.random.default_rng(0)
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(PICTURES):
            picture = BytesIO()
            noise = source.integers(0, 256, (RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
            Image.fromarray(noise).save(picture, "PNG")
            file.writestr(f"{number:03d}.png", picture.getvalue())
    archive.seek(0)
    return archive


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
