"""Train jobs: prepared data becomes a generator, checkpoint by checkpoint."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.catalog import parse_options
from models.data import PreparedImages
from models.generator import Generator
from models.trainer import Tick, TrainingConfig, train
from store import curves, jobs
from store.errors import Unavailable
from store.events import Notice
from store.records import Job, JobKind, Model
from worker.running import Finish, Run
from worker.scratch import scratch

log = logging.getLogger(__name__)


def train_model(run: Run) -> Finish:
    """Train until the budget is spent, going on from the job's last checkpoint; the returned finish names the model."""
    resources, claim = run.resources, run.claim
    config = _config(run)
    with scratch(resources.settings, claim) as directory:
        data = PreparedImages.open(resources.blobs.fetch(f"datasets/{claim.dataset_id}", directory / "data"))
        run_dir = directory / "run"
        _restore(run, run_dir, directory / "restored")
        publisher = _Publisher(run)
        outcome = train(
            data,
            config,
            run_dir,
            device=run.station.device,
            on_tick=publisher.on_tick,
            should_stop=run.should_stop,
        )
        if outcome.checkpoint is not None:
            publisher.publish_checkpoint(outcome.checkpoint, outcome.images_seen, outcome.losses)
    if not outcome.finished:
        run.raise_if_stopped()

    def finish(session: Session) -> dict[str, Any]:
        model = session.get_one(Model, claim.model_id)
        return {"model": model.id, "images_seen": model.images_seen, "metrics": model.metrics}

    return finish


def _config(run: Run) -> TrainingConfig:
    request, settings = run.claim.request, run.resources.settings
    budget = request["budget"]
    return TrainingConfig(
        kind=request["kind"],
        resolution=request["resolution"],
        options=parse_options(request["kind"], request["options"]),
        budget_images=budget.get("images"),
        budget_s=budget.get("seconds"),
        seed=request["seed"],
        checkpoint_interval_s=settings.checkpoint_interval_s,
        preview_interval_s=settings.preview_interval_s,
    )


def _restore(run: Run, run_dir: Path, cache: Path) -> None:
    """Puts the job's last checkpoint where the trainer looks for one."""
    run_dir.mkdir()
    with run.resources.database.snapshot() as session:
        model = session.get(Model, run.claim.model_id)
        checkpoint = model.checkpoint if model is not None else None
    images_seen = int(checkpoint.rpartition("/")[2].partition("-")[0]) if checkpoint is not None else 0
    with run.resources.database.transaction() as session:
        jobs.hold(session, run.claim)
        curves.cut_back(session, run.claim.model_id or "", images_seen)
    if checkpoint is not None:
        source = run.resources.blobs.fetch(checkpoint, cache)
        shutil.copytree(source, run_dir / f"ckpt-{images_seen:012d}")


class _Publisher:
    """Brings what a training makes into blobs, rows and events."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._published: Path | None = None
        self._seconds = "seconds" in run.claim.request["budget"]

    def on_tick(self, tick: Tick) -> None:
        run = self._run
        if tick.checkpoint is not None:
            self.publish_checkpoint(tick.checkpoint, tick.images_seen, tick.losses, tick.images_per_s)
        if tick.preview is not None:
            self._publish_preview(tick.preview, tick.images_seen)
        budget = run.claim.request["budget"]
        total = float(budget["seconds"] if self._seconds else budget["images"])
        done = min(total, tick.fraction * total)
        rate = 1.0 if self._seconds else tick.images_per_s
        run.report(done=done, total=total, rate=rate, eta_s=tick.eta_s)
        if tick.losses:
            self._keep(tick)
        metrics = {"images_seen": tick.images_seen, **_metrics(tick.losses, tick.images_per_s)}
        run.resources.tell(Notice(run.claim.job_id, "metrics", metrics))

    def _keep(self, tick: Tick) -> None:
        run, claim = self._run, self._run.claim
        try:
            with run.resources.database.transaction() as session:
                jobs.hold(session, claim)
                curves.add_point(
                    session,
                    claim.model_id or "",
                    images_seen=tick.images_seen,
                    elapsed_s=tick.elapsed_s,
                    images_per_s=tick.images_per_s,
                    losses=tick.losses,
                )
        except Unavailable as error:  # a point less is no reason to end a training
            log.warning("a point of %s's curves was not kept: %s", claim.model_id, error)

    def publish_checkpoint(
        self, directory: Path, images_seen: int, losses: Mapping[str, float], images_per_s: float | None = None
    ) -> None:
        """Stores the checkpoint, points the model at it, and drops those that nothing points at any more."""
        if directory == self._published:
            return
        run, claim = self._run, self._run.claim
        blobs, database = run.resources.blobs, run.resources.database
        # The fence in the name keeps a worker that lost its lease from touching its successor's files.
        prefix = f"models/{claim.model_id}/{images_seen:012d}-{claim.fence}"
        for path in sorted(directory.iterdir()):
            blobs.put_file(f"{prefix}/{path.name}", path)
        classes = Generator.load(directory).classes
        with database.transaction() as session:
            jobs.advance(session, claim, images_seen)
            model = session.get_one(Model, claim.model_id, with_for_update=True)
            model.checkpoint = prefix
            model.images_seen = images_seen
            model.classes = classes
            model.metrics = {**model.metrics, **_metrics(losses, images_per_s)}
            pinned = set(
                session.scalars(
                    select(Job.checkpoint).where(
                        Job.model_id == claim.model_id, Job.kind != JobKind.TRAIN, Job.status.not_in(jobs.ENDED)
                    )
                )
            )
        self._published = directory
        _drop(run, f"models/{claim.model_id}", keep={prefix, *pinned} - {None})

    def _publish_preview(self, path: Path, images_seen: int) -> None:
        run, claim = self._run, self._run.claim
        key = f"models/{claim.model_id}/previews/{images_seen:012d}-{claim.fence}.png"
        run.resources.blobs.put_file(key, path)
        with run.resources.database.transaction() as session:
            jobs.hold(session, claim)
            model = session.get_one(Model, claim.model_id, with_for_update=True)
            before, model.preview = model.preview, key
        for old in set(run.resources.blobs.keys(f"models/{claim.model_id}/previews")) - {key, before}:
            run.resources.blobs.delete(old)  # the one before stays: somebody may be fetching it
        url = f"/v1/models/{claim.model_id}/preview"
        run.resources.tell(
            Notice(claim.job_id, "preview", {"model": claim.model_id, "images_seen": images_seen, "url": url})
        )


def _metrics(losses: Mapping[str, float], images_per_s: float | None) -> dict[str, Any]:
    return {"losses": dict(losses), **({"images_per_s": images_per_s} if images_per_s is not None else {})}


def _drop(run: Run, folder: str, keep: set[str | None]) -> None:
    prefixes = {key.rpartition("/")[0] for key in run.resources.blobs.keys(folder)}
    for prefix in prefixes - keep - {f"{folder}/{part}" for part in ("previews", "exports", "strips")}:
        run.resources.blobs.delete(prefix)
