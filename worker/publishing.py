"""What a training makes, brought into blobs, rows and events."""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select

from models.checkpoint import RECORD, STATE, read_scores
from models.generator import Generator
from models.trainer import Tick
from store import curves, jobs, kept
from store.errors import StorageFull, Unavailable
from store.events import Notice
from store.records import Job, JobKind, Model
from worker.running import Run

KEPT_CHECKPOINTS = 6  # of a training; all but the newest, the best and the current are a generator alone
KEPT_PREVIEWS = 12  # of a training

FAULTS = (Unavailable, StorageFull)
AGAIN_S = 5.0  # until a checkpoint that could not be published is tried again

log = logging.getLogger(__name__)


class Publisher:
    """One training's."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._published: Path | None = None
        self._seconds = "seconds" in run.claim.request["budget"]
        self._late: Tick | None = None  # whose checkpoint could not be published yet
        self._again_at = 0.0  # when it is tried again, monotonic seconds

    def on_tick(self, tick: Tick) -> None:
        """Publish all that a tick tells."""
        run, claim = self._run, self._run.claim
        if tick.rollback is not None:
            run.resources.tell(Notice(claim.job_id, "note", {"text": tick.rollback.says}))
            with run.resources.database.transaction() as session:
                jobs.hold(session, claim)
                curves.cut_back(session, claim.model_id or "", tick.images_seen)
        self._late = tick if tick.checkpoint is not None else self._late
        if self._late is not None and time.monotonic() >= self._again_at:
            self._publish_late(self._late)
        if tick.preview is not None:
            try:
                self._publish_preview(tick.preview, tick.images_seen)
            except FAULTS as error:  # one less is no reason to end a training
                log.warning("a preview of %s was not kept: %s", claim.model_id, error)
        budget = claim.request["budget"]
        total = float(budget["seconds"] if self._seconds else budget["images"])
        done = min(total, tick.fraction * total)
        rate = 1.0 if self._seconds else tick.images_per_s
        run.report(done=done, total=total, rate=rate, eta_s=tick.eta_s)
        if tick.losses:
            self._keep(tick)
        told = {
            "images_seen": tick.images_seen,
            "losses": tick.losses,
            "gauges": tick.gauges,
            "images_per_s": tick.images_per_s,
            **({"scores": tick.scores} if tick.scores is not None else {}),
            **({"troubles": [finding.to_json() for finding in tick.troubles]} if tick.troubles else {}),
        }
        run.resources.tell(Notice(claim.job_id, "metrics", told))

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
                    gauges=tick.gauges,
                    scores=tick.scores,
                )
                if tick.scores is not None:
                    kept.score_checkpoint(session, claim.model_id or "", tick.images_seen, tick.scores)
        except FAULTS as error:  # a point less is no reason to end a training
            log.warning("a point of %s's curves was not kept: %s", claim.model_id, error)

    def _publish_late(self, tick: Tick) -> None:
        """Publishes a tick's checkpoint, or leaves it for later: the training need not wait for a disk with room."""
        try:
            if tick.checkpoint is not None and tick.checkpoint.exists():  # else newer ones have taken its place
                self.publish_checkpoint(tick.checkpoint, tick.images_seen, tick.losses, tick)
            self._late = None
        except FAULTS as error:
            self._again_at = time.monotonic() + AGAIN_S
            log.warning("a checkpoint of %s is not published yet: %s", self._run.claim.model_id, error)

    def publish_last(self, directory: Path, images_seen: int, losses: Mapping[str, float]) -> None:
        """Publishes the checkpoint that a training ends with; what was learnt is worth waiting for a disk with room.

        Raises:
            Unavailable, StorageFull: it could not be, for as long as jobs are kept trying or until the work had to stop.
        """
        run, tick = self._run, self._late
        until = time.monotonic() + run.resources.settings.keep_trying_s
        while True:
            try:
                return self.publish_checkpoint(
                    directory, images_seen, losses, tick if tick is not None and tick.checkpoint == directory else None
                )
            except FAULTS as error:
                log.warning("the last checkpoint of %s is not published yet: %s", run.claim.model_id, error)
                if time.monotonic() > until or run.should_stop():
                    raise
                run.station.pauses.take(run.station.draining)

    def publish_checkpoint(
        self, directory: Path, images_seen: int, losses: Mapping[str, float], tick: Tick | None = None
    ) -> None:
        """Store the checkpoint, point the model at it, and drop those that nothing points at any more.

        Args:
            directory: the checkpoint; nothing is done where it is the one published last.
            images_seen: images that it has learned from.
            losses: of its moment.
            tick: the moment, as far as there is more to tell of it.
        """
        if directory == self._published:
            return
        run, claim = self._run, self._run.claim
        blobs, database = run.resources.blobs, run.resources.database
        # The fence in the name keeps a worker that lost its lease from touching its successor's files.
        prefix = f"models/{claim.model_id}/{images_seen:012d}-{claim.fence}"
        for path in sorted(directory.iterdir()):
            blobs.put_file(f"{prefix}/{path.name}", path)
        card = Generator.load(directory).card
        scores = tick.scores if tick is not None else read_scores(directory)
        with database.transaction() as session:
            jobs.advance(session, claim, images_seen)
            jobs.hold(session, claim).checkpoint = None  # from now on it can do without the model that it began with
            model = session.get_one(Model, claim.model_id, with_for_update=True)
            kept.cut_back(session, model.id, images_seen)  # later ones are of what was rolled back
            if model.promoted is not None and model.promoted > images_seen:
                model.promoted = None
            rows = kept.add_checkpoint(
                session,
                model,
                images_seen=images_seen,
                blob=prefix,
                scores=scores,
                now=database.now(session),
                most=KEPT_CHECKPOINTS,
            )
            model.classes = card.classes
            model.metrics = {**model.metrics, **_metrics(losses, images_seen, tick, scores), "notes": list(card.notes)}
            left = {row.blob for row in rows}
            best = kept.best(rows)
            whole = {prefix, model.checkpoint, best.blob if best is not None else None}
            unfinished = Job.status.not_in(jobs.ENDED), Job.checkpoint.is_not(None)
            for pin in session.scalars(select(Job).where(jobs.needs_model(model.id), *unfinished)):
                left.add(pin.checkpoint or "")
                if pin.kind is JobKind.TRAIN:  # it begins with all networks, not with the generator alone
                    whole.add(pin.checkpoint)
        self._published = directory
        self.drop_all_but(left, whole=whole)

    def drop_all_but(self, prefixes: set[str], *, whole: Container[str | None]) -> None:
        """Delete all checkpoints but these, and of these all but the generator; those in `whole` stay as they are."""
        blobs, folder = self._run.resources.blobs, f"models/{self._run.claim.model_id}"
        keys, beside = blobs.keys(folder), {f"{folder}/{part}" for part in ("previews", "exports", "strips")}
        for prefix in {key.rpartition("/")[0] for key in keys} - prefixes - beside:
            if self._may_delete(prefix):
                blobs.delete(prefix)
        for prefix in prefixes:
            for name in (RECORD, STATE):
                if prefix not in whole and f"{prefix}/{name}" in keys:
                    blobs.delete(f"{prefix}/{name}")

    def _may_delete(self, place: str) -> bool:
        """Whether what ends with a claim's fence is of this claim or one before: a later one's is not ours to touch, should the
        lease have been lost between the commit and here."""
        return int(place.rpartition("-")[2].partition(".")[0]) <= self._run.claim.fence

    def _publish_preview(self, path: Path, images_seen: int) -> None:
        run, claim = self._run, self._run.claim
        blobs, database = run.resources.blobs, run.resources.database
        folder = f"models/{claim.model_id}/previews"
        key = f"{folder}/{images_seen:012d}-{claim.fence}.png"
        blobs.put_file(key, path)
        with database.transaction() as session:
            jobs.hold(session, claim)
            model = session.get_one(Model, claim.model_id, with_for_update=True)
            before = model.preview
            rows = kept.add_preview(
                session, model, images_seen=images_seen, blob=key, now=database.now(session), most=KEPT_PREVIEWS
            )
            left = {row.blob for row in rows}
        for old in set(blobs.keys(folder)) - left - {before}:  # the one before stays: somebody may be fetching it
            if self._may_delete(old):
                blobs.delete(old)
        url = f"/v1/trainings/{claim.job_id}/previews/{images_seen}"
        run.resources.tell(
            Notice(claim.job_id, "preview", {"model": claim.model_id, "images_seen": images_seen, "url": url})
        )


def _metrics(
    losses: Mapping[str, float], images_seen: int, tick: Tick | None, scores: Mapping[str, float] | None
) -> dict[str, Any]:
    """What the model's row says of its newest moment."""
    metrics: dict[str, Any] = {"losses": dict(losses)}
    if tick is not None:
        metrics |= {"images_per_s": tick.images_per_s, "gauges": tick.gauges}
        metrics["troubles"] = [finding.to_json() for finding in tick.troubles]
    if scores is not None:
        metrics["scores"] = {"images_seen": images_seen, **scores}
    return metrics
