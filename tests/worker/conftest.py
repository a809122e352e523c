"""A worker's station on a real SQLite file, with the twins of Redis, and a tiny model to generate with."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.catalog import parse_options, wanted
from models.data import PreparedImages
from models.prepare import prepare
from models.trainer import TrainingConfig, train
from store import jobs
from store.blobs import LocalBlobs
from store.database import Database
from store.events import MemoryBus
from store.jobs import Claim
from store.queue import MemoryQueue
from store.records import Dataset, DatasetStatus, Job, JobKind, Model, ModelStatus
from store.resources import Resources
from store.settings import Settings
from worker.heartbeat import Heartbeat
from worker.pauses import Pauses
from worker.running import Station

torch.set_num_threads(1)  # two test processes share two cores
SMALL = {"base_channels": 4, "latent_dim": 8, "batch_size": 8}


def zip_of_squares(count: int = 16) -> bytes:
    """A labelled zip: bright squares in `light/`, dark ones in `dark/`."""
    buffer = io.BytesIO()
    random = np.random.default_rng(0)
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(count):
            name, base = ("light", 160) if number % 2 else ("dark", 20)
            pixels = random.integers(base, base + 60, (32, 32), dtype=np.uint8)
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "PNG")
            archive.writestr(f"{name}/{number:03d}.png", png.getvalue())
    return buffer.getvalue()


@pytest.fixture(scope="session")
def prepared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    (root / "squares.zip").write_bytes(zip_of_squares())
    prepare(root / "squares.zip", root / "out", resolution=32)
    return root / "out"


@pytest.fixture(scope="session")
def checkpoint_dir(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a conditional model that has seen 32 pictures."""
    config = TrainingConfig("gan-dcgan", 32, parse_options("gan-dcgan", SMALL), budget_images=32)
    return train(PreparedImages.open(prepared_dir), config, tmp_path_factory.mktemp("run")).checkpoint


@pytest.fixture
def resources(tmp_path: Path) -> Iterator[Resources]:
    settings = Settings(
        data_dir=tmp_path / "data", max_batch=8, preview_interval_s=1.0, checkpoint_interval_s=0.1, tensorboard=False
    )
    database = Database(settings.resolved_database_url)
    database.migrate()
    yield Resources(settings, database, LocalBlobs(settings.resolved_blobs_dir), MemoryBus(), MemoryQueue())
    database.close()


@pytest.fixture
def station(resources: Resources) -> Iterator[Station]:
    with Heartbeat(resources) as heartbeat:
        yield Station("worker-1@here", resources, heartbeat, pauses=Pauses(0.01, 0.05))


class Desk:
    """Submits jobs and reads rows, as the API would."""

    def __init__(self, resources: Resources, prepared_dir: Path, checkpoint_dir: Path) -> None:
        self.resources = resources
        self._prepared_dir = prepared_dir
        self._checkpoint_dir = checkpoint_dir

    def dataset(self) -> str:
        for path in self._prepared_dir.iterdir():
            self.resources.blobs.put_file(f"datasets/ds_squares/{path.name}", path)
        with self.resources.database.transaction() as session:
            session.add(Dataset(id="ds_squares", name="squares", status=DatasetStatus.READY, resolution=32, channels=1))
        return "ds_squares"

    def model(self, name: str = "mdl_squares") -> str:
        prefix = f"models/{name}/{32:012d}-1"
        for path in self._checkpoint_dir.iterdir():
            self.resources.blobs.put_file(f"{prefix}/{path.name}", path)
        with self.resources.database.transaction() as session:
            session.add(_model(name, checkpoint=prefix, status=ModelStatus.READY))
        return name

    def import_job(self, upload: bytes, **request: object) -> str:
        self.resources.blobs.put("uploads/ds_new.zip", upload)
        with self.resources.database.transaction() as session:
            session.add(Dataset(id="ds_new", name="new"))
            job = jobs.submit(
                session,
                JobKind.IMPORT,
                {
                    "source": {"blob": "uploads/ds_new.zip"},
                    "name": "new",
                    "resolution": 32,
                    "channels": None,
                    **request,
                },
                now=self.resources.database.now(session),
                dataset_id="ds_new",
                unit="files",
            )
            return job.id

    def train_job(
        self, images: int = 64, kind: str = "gan-dcgan", *, init_from: str | None = None, **options: object
    ) -> str:
        known = wanted(kind).options.model_fields
        own = {name: value for name, value in {**SMALL, **options}.items() if name in known}
        with self.resources.database.transaction() as session:
            session.add(_model("mdl_new", kind))
            source = session.get_one(Model, init_from) if init_from is not None else None
            job = jobs.submit(
                session,
                JobKind.TRAIN,
                {
                    "kind": kind,
                    "resolution": 32,
                    "options": own,
                    "budget": {"images": images},
                    "seed": 3,
                    **({"init_from": init_from} if init_from is not None else {}),
                },
                now=self.resources.database.now(session),
                dataset_id="ds_squares",
                model_id="mdl_new",
                checkpoint=source.checkpoint if source is not None else None,
                total=images,
            )
            return job.id

    def sample_job(
        self, n: int, seed: int = 0, label: int | None = None, model: str = "mdl_squares", **columns: Any
    ) -> str:
        with self.resources.database.transaction() as session:
            row = session.get_one(Model, model)
            job = jobs.submit(
                session,
                JobKind.SAMPLE,
                {"n": n, "seed": seed, "label": label},
                now=self.resources.database.now(session),
                model_id=model,
                checkpoint=row.checkpoint,
                total=n,
                **columns,
            )
            return job.id

    def claim(self, kind: JobKind, owner: str = "worker-1@here", lease_s: float = 30.0) -> Claim:
        with self.resources.database.transaction() as session:
            now = self.resources.database.now(session)
            return jobs.claim(session, [kind], owner=owner, now=now, lease_s=lease_s)[0]

    def job(self, job_id: str) -> Job:
        with self.resources.database.snapshot() as session:
            return session.get_one(Job, job_id)

    def events(self, job_id: str) -> list[str]:
        return [event.type for event in self.resources.bus.history(job_id)]


def _model(name: str, kind: str = "gan-dcgan", **columns: object) -> Model:
    return Model(id=name, name=name, kind=kind, resolution=32, channels=1, options=SMALL, seed=3, metrics={}, **columns)


@pytest.fixture
def desk(resources: Resources, prepared_dir: Path, checkpoint_dir: Path) -> Desk:
    return Desk(resources, prepared_dir, checkpoint_dir)
