"""A store as it is after weeks of use: rows of every kind in every state, their blobs, events, and a worker's report."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image as Picture
from sqlalchemy.orm import Session

from models.prepare import prepare
from store import curves, jobs, keys
from store.events import Notice
from store.exports import export_key
from store.identifiers import new_id
from store.queue import Lane
from store.records import (
    Dataset,
    DatasetStatus,
    Image,
    Job,
    JobKind,
    JobStatus,
    Model,
    ModelStatus,
    Scope,
    TrainingCheckpoint,
    TrainingPreview,
)
from store.reports import Histogram, Stage, WorkerReport
from store.resources import Resources
from store.strips import strips_key
from tests.pictures import folder_of_shapes, shapes

CLASSES = ["class-0", "class-1"]
IMAGES = 16  # of a data set
RESOLUTION, CHANNELS = 32, 3
CHECKPOINTS = (32_000, 64_000, 96_000)  # images seen
SCORES = {"fd_domain": 3.1, "fd_domain_floor": 0.4, "kid": 0.9, "coverage": 0.61, "ms_ssim": 0.3, "n": 1000.0}
REPORT = WorkerReport(
    name="sample-cpu-0a1b2c3d@here",
    lane=Lane.SAMPLE,
    device="cpu",
    version="0.1.0",
    started_at=time.time(),
    seen_at=time.time(),
    images=3,
    images_per_s=10.0,
    image_s=0.1,
    stages={"claim": Stage(count=2, seconds=0.1)},
    batch_images=Histogram(bounds=(1, 8), counts=(1, 1, 0), total=3),
    wait_s=Histogram(bounds=(0.1, 1), counts=(2, 0, 0), total=0.1),
)


@dataclass
class Stock:
    """The ids of what is there."""

    datasets: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    trainings: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    api_keys: list[str] = field(default_factory=list)  # nobody uses them


def fill(resources: Resources) -> Stock:
    """Put everything into an empty store, and return the ids of what can be asked for."""
    stock = Stock()
    with resources.database.transaction() as session:
        shelf = _Shelf(resources, session, resources.database.now(session), stock)
        for status in DatasetStatus:
            shelf.dataset(status)
        dataset = shelf.dataset(DatasetStatus.READY)
        model = shelf.model(dataset)
        shelf.evaluation(dataset, model, JobStatus.RUNNING)  # it goes on for ever, so these two are never deleted
        shelf.training(dataset, model)
        shelf.model(dataset, checkpoint=None, status=ModelStatus.TRAINING)
        for stage in JobStatus:
            shelf.generation(model, stage)
        shelf.evaluation(dataset, model, JobStatus.SUCCEEDED)
        shelf.export(model)
        for name in ("old", "older", "oldest"):
            key, _ = keys.create(resources.database, session, name=name, scopes={Scope.READ})
            stock.api_keys.append(key.id)
    resources.reports.publish(REPORT, fresh_s=3600)
    return stock


def png() -> bytes:
    """A small picture, the same each time."""
    pixels, _ = shapes(1, RESOLUTION, CHANNELS)
    buffer = io.BytesIO()
    Picture.fromarray(pixels[0].transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


class _Shelf:
    """Adds rows within one transaction."""

    def __init__(self, resources: Resources, session: Session, now: datetime, stock: Stock) -> None:
        self._resources, self._session, self._now, self._stock = resources, session, now, stock
        self._png = png()

    def dataset(self, status: DatasetStatus) -> str:
        row = Dataset(id=new_id("ds"), name=f"pets, {status}", status=status, created_at=self._now)
        if status is DatasetStatus.READY:
            row.image_count, row.refused_count, row.size_bytes = IMAGES, 1, IMAGES * CHANNELS * RESOLUTION**2
            row.resolution, row.channels = RESOLUTION, CHANNELS
            row.classes = [{"name": name, "count": IMAGES // 2} for name in CLASSES]
            with TemporaryDirectory() as directory:
                source = folder_of_shapes(Path(directory, "pictures"), IMAGES)
                prepared = Path(directory, "prepared")
                (source / "class-0" / "broken.png").write_bytes(b"not an image")
                prepare(source, prepared, resolution=RESOLUTION, channels=CHANNELS)
                for path in prepared.iterdir():
                    self._resources.blobs.put_file(f"datasets/{row.id}/{path.name}", path)
        self._session.add(row)
        self._stock.datasets.append(row.id)
        return row.id

    def model(
        self, dataset: str, checkpoint: int | None = CHECKPOINTS[-1], status: ModelStatus = ModelStatus.READY
    ) -> str:
        model_id = new_id("mdl")
        row = Model(
            id=model_id,
            name=f"pets, {status}",
            kind="gan-dcgan",
            status=status,
            created_at=self._now,
            dataset_id=dataset,
            dataset_name="pets",
            resolution=RESOLUTION,
            channels=CHANNELS,
            classes=CLASSES,
            options={"batch_size": 8},
            seed=0,
        )
        if checkpoint is not None:
            row.checkpoint, row.images_seen = f"models/{model_id}/{checkpoint:012d}-1", checkpoint
            row.preview = f"models/{model_id}/previews/{checkpoint:012d}-1.png"
            row.metrics = {"losses": {"D": 0.5, "G": 1.2}, "images_per_s": 100.0}
        self._session.add(row)
        self._session.flush()
        self._stock.models.append(model_id)
        return model_id

    def training(self, dataset: str, model: str) -> None:
        """One that has succeeded, with its curves, checkpoints and previews."""
        for seen in CHECKPOINTS:
            losses, gauges = {"D": 0.5, "G": 1.2}, {"lr_D": 0.0002}
            curves.add_point(
                self._session,
                model,
                images_seen=seen,
                elapsed_s=seen / 100,
                images_per_s=100.0,
                losses=losses,
                gauges=gauges,
                scores=SCORES,
            )
            weights, preview = f"models/{model}/{seen:012d}-1", f"models/{model}/previews/{seen:012d}-1.png"
            moment: dict[str, Any] = {"model_id": model, "images_seen": seen, "created_at": self._now}
            self._session.add(TrainingCheckpoint(**moment, blob=weights, scores=SCORES))
            self._session.add(TrainingPreview(**moment, blob=preview))
            self._put(f"{weights}/generator.safetensors", b"weights")
            self._put(preview, self._png)
        request = {
            "kind": "gan-dcgan",
            "resolution": RESOLUTION,
            "options": {},
            "budget": {"images": CHECKPOINTS[-1]},
            "seed": 0,
        }
        ids = {"dataset_id": dataset, "model_id": model}
        job = self._job(JobKind.TRAIN, JobStatus.SUCCEEDED, request, total=CHECKPOINTS[-1], result={}, **ids)
        self._stock.trainings.append(job.id)

    def generation(self, model: str, status: JobStatus) -> None:
        """Two pictures, made unless it waits still."""
        checkpoint = f"models/{model}/{CHECKPOINTS[-1]:012d}-1"
        job = self._job(
            JobKind.SAMPLE,
            status,
            {"n": 2, "seed": 7, "label": 0},
            total=2,
            result={"images": 2},
            model_id=model,
            checkpoint=checkpoint,
        )
        for position in range(0 if status is JobStatus.QUEUED else 2):
            key = f"images/{job.id}/{position:06d}.png"
            self._put(key, self._png)
            image = Image(
                id=new_id("img"),
                job_id=job.id,
                position=position,
                model_id=model,
                checkpoint=checkpoint,
                seed=7 + position,
                label=CLASSES[0],
                recipe={"truncation": 0.7} if position else None,
                width=RESOLUTION,
                height=RESOLUTION,
                blob=key,
                size_bytes=len(self._png),
                sha256=hashlib.sha256(self._png).hexdigest(),
                created_at=self._now,
            )
            self._session.add(image)
            self._stock.images.append(image.id)

    def evaluation(self, dataset: str, model: str, status: JobStatus) -> None:
        request = {"n": 50, "seed": 0, "against": None}
        ids = {"dataset_id": dataset, "model_id": model}
        job = self._job(JobKind.EVALUATE, status, request, total=100, result={"fd_domain": 3.1}, **ids)
        self._put(strips_key(model, job.id), self._png)

    def export(self, model: str) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("generator.onnx", b"network")
        result = {"sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), "size_bytes": len(buffer.getvalue())}
        job = self._job(JobKind.EXPORT, JobStatus.SUCCEEDED, {"format": "onnx"}, total=1, result=result, model_id=model)
        self._put(export_key(model, job.id, job.fence), buffer.getvalue())

    def _job(
        self,
        kind: JobKind,
        status: JobStatus,
        request: Mapping[str, Any],
        *,
        total: float,
        result: Mapping[str, Any],
        **columns: Any,
    ) -> Job:
        """A job that has come to a status as its worker would bring it there."""
        job = jobs.submit(self._session, kind, request, now=self._now, total=total, **columns)
        self._session.flush()
        if status is not JobStatus.QUEUED:
            claim = jobs.take(job, owner=REPORT.name, now=self._now, lease_s=3600)
            self._session.flush()
            if status is JobStatus.SUCCEEDED:
                jobs.succeed(self._session, claim, now=self._now, result=result)
            elif status is JobStatus.FAILED:
                code, message = "data_missing", "the weights are gone"
                jobs.fail(self._session, claim, now=self._now, code=code, message=message, retryable=False)
            elif status is JobStatus.CANCELED:
                jobs.stop(self._session, claim, now=self._now)
            self._session.flush()
        self._resources.tell(Notice(job.id, "note", {"text": "it goes on"}))
        self._stock.jobs.append(job.id)
        return job

    def _put(self, key: str, content: bytes) -> None:
        self._resources.blobs.put(key, content)
