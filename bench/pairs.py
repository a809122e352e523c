"""Two samplers on one queue: what a second device brings, with a generator that sleeps instead of computing.

Both run in this process, on threads, on one SQLite file: what they share is the queue, which is what is measured.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from sqlalchemy import func, select
from torch import Tensor, nn

from models.generator import Generator, GeneratorCard
from models.sampling import Sampler
from store import jobs
from store.blobs import LocalBlobs
from store.database import Database
from store.events import MemoryBus
from store.queue import MemoryQueue
from store.records import Image, Job, JobKind, JobStatus
from store.resources import Resources
from store.settings import Settings
from worker.generator_cache import GeneratorCache
from worker.heartbeat import Heartbeat
from worker.running import Station
from worker.sampler import SliceSampler

PASS_S = 0.25  # of the pretended forward pass
BATCH, BATCHES = 8, 24


class Asleep(nn.Module):
    """A network whose device takes `pass_s` for a batch, and no processor: [N, D] to grey [N, 1, 32, 32]."""

    grey: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grey", torch.zeros(1, 32, 32))
        self.pass_s = 0.0

    def forward(self, latents: Tensor, _: Tensor | None = None) -> Tensor:
        time.sleep(self.pass_s)
        return self.grey.expand(len(latents), 1, 32, 32)


def _sleeper() -> Sampler:
    network = Asleep()
    card = GeneratorCard(kind="gan-dcgan", options={}, resolution=32, channels=1, images_seen=0)
    sampler = Sampler(Generator(network, card), (BATCH,))
    network.pass_s = PASS_S  # its probe is through
    return sampler


@dataclass(frozen=True)
class Served:
    """What so many samplers did."""

    images_per_s: float
    images: int
    positions: int  # different ones; fewer than images: some twice
    wanted: int


def serve(samplers: int) -> Served:
    """Have so many samplers make the same jobs, half of them of one image, half larger than a batch."""
    sleeper = _sleeper()
    with tempfile.TemporaryDirectory() as folder, patch.object(GeneratorCache, "get", lambda *_: sleeper):
        settings = Settings(_env_file=None, data_dir=Path(folder), max_batch=BATCH)
        database = Database(settings.resolved_database_url)
        database.migrate()
        resources = Resources(settings, database, LocalBlobs(settings.resolved_blobs_dir), MemoryBus(), MemoryQueue())
        large = BATCH * BATCHES // 2 // 4
        sizes = [1] * (BATCH * BATCHES // 2) + [large] * 4
        with database.transaction() as session:
            for size in sizes:
                jobs.submit(
                    session, JobKind.SAMPLE, {"n": size, "seed": 0, "label": None}, now=database.now(session),
                    model_id="mdl", checkpoint="models/mdl/1", total=size,
                )  # fmt: skip
        began = time.monotonic()
        threads = [threading.Thread(target=_serve, args=(resources, f"sampler-{number}")) for number in range(samplers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.monotonic() - began
        with database.snapshot() as session:
            images = session.execute(select(func.count()).select_from(Image)).scalar_one()
            places = session.execute(select(Image.job_id, Image.position).distinct()).all()
            done = session.scalars(select(Job.id).where(Job.status == JobStatus.SUCCEEDED)).all()
        database.close()
        if len(done) != len(sizes):
            raise RuntimeError(f"{len(sizes) - len(done)} jobs did not succeed")
        return Served(images / took_s, images, len(places), sum(sizes))


def _serve(resources: Resources, owner: str) -> None:
    with Heartbeat(resources) as heartbeat:
        SliceSampler(Station(owner, resources, heartbeat)).serve()
