"""Train jobs: prepared data becomes a generator, checkpoint by checkpoint."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from sqlalchemy.orm import Session

from models.catalog import parse_options
from models.choosing import choose
from models.data import PreparedImages
from models.distributed import train_on
from models.evaluation import live_measure
from models.event_log import EventLog, can_log
from models.footprint import check_fits, footprint
from models.options import AS_BEFORE
from models.ranks import most_sharing
from models.trainer import Outcome, Tick, TrainingConfig
from store import curves, jobs, kept
from store.events import Notice
from store.records import Model
from worker.evaluating import keep_extractor
from worker.publishing import Publisher
from worker.running import Finish, Run
from worker.scratch import scratch

log = logging.getLogger(__name__)


def train_model(run: Run) -> Finish:
    """Train until the budget is spent, going on from the job's last checkpoint; the returned finish names the model."""
    resources, claim = run.resources, run.claim
    with scratch(resources.settings, claim) as directory:
        prepared = resources.blobs.fetch(f"datasets/{claim.dataset_id}", directory / "data")
        data = PreparedImages.open(prepared)
        config = _config(run, _settled(run, data))
        needed = footprint(data, config, run.station.device)
        say(run, f"this training needs {needed}")
        check_fits(needed, run.station.device)
        run_dir = directory / "run"
        begin = _restore(run, run_dir, directory / "restored")
        source = _source(run, directory / "source")
        live = live_measure(
            prepared,
            data,
            config,
            lambda extractor: keep_extractor(run, extractor, directory / "extractor"),
            device=run.station.device,
            on_progress=_Lesson(run).report,
            should_stop=run.should_stop,
        )
        if live.note is not None:
            say(run, live.note)
        publisher, events = Publisher(run), _event_log(run, begin)

        def on_tick(tick: Tick) -> None:
            publisher.on_tick(tick)
            if events is not None:
                events.on_tick(tick)

        with events or nullcontext():
            outcome = train_on(
                _together(run, config),
                prepared,
                config,
                run_dir,
                init_from=source,
                measure=live.measure,
                on_tick=on_tick,
                should_stop=run.should_stop,
            )
        publisher.publish_last(outcome.checkpoint, outcome.images_seen, outcome.losses)
        if outcome.why_back is not None:
            say(run, outcome.why_back)
    if not outcome.finished:
        run.raise_if_stopped()
    return lambda session: _finish(session, run, outcome)


def _finish(session: Session, run: Run, outcome: Outcome) -> dict[str, Any]:
    """Let the model be its best checkpoint, where that is clearly better than the newest and nobody chose another."""
    model = session.get_one(Model, run.claim.model_id, with_for_update=True)
    favourite = kept.clearly_better(kept.read_checkpoints(session, model.id))
    if favourite is not None and model.promoted is None and run.claim.request.get("promote_best", True):
        kept.promote(model, favourite, follow=False)
    if outcome.why_back is not None:
        model.metrics = {**model.metrics, "notes": [*model.metrics.get("notes", []), outcome.why_back]}
    return {
        "model": model.id,
        "images_seen": outcome.images_seen,
        "promoted": model.promoted,
        "gave_up": outcome.gave_up,
        "went_back": outcome.went_back,
        "troubles": [finding.to_json() for finding in outcome.troubles],
        "rollbacks": [rollback.model_dump(mode="json") for rollback in outcome.rollbacks],
        "metrics": model.metrics,
    }


def _settled(run: Run, data: PreparedImages) -> Mapping[str, Any]:
    """The request with kind and options settled, and kept like that: whoever goes on with the job does not choose again."""
    request, budget = run.claim.request, run.claim.request["budget"]
    choice = choose(
        request["kind"],
        (AS_BEFORE if run.claim.cursor else {}) | request["options"],  # begun by an older worker it stays as it was
        data.manifest,
        request["resolution"],
        torch.device(run.station.device),
        budget_images=budget.get("images"),
        budget_s=budget.get("seconds"),
    )
    settled = {**request, "kind": choice.kind, "options": choice.options.model_dump(mode="json")}
    if settled != request:
        with run.resources.database.transaction() as session:
            jobs.hold(session, run.claim).request = settled
            model = session.get_one(Model, run.claim.model_id, with_for_update=True)
            model.kind, model.options = choice.kind, settled["options"]
            if choice.reasons:
                model.metrics = {**model.metrics, "choice": list(choice.reasons)}
    for reason in choice.reasons:
        say(run, reason)
    return settled


def _config(run: Run, request: Mapping[str, Any]) -> TrainingConfig:
    settings = run.resources.settings
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
        evaluation_share=settings.evaluation_share,
        evaluation_interval_s=settings.evaluation_interval_s,
        patience=request.get("patience"),
        on_trouble=request.get("on_trouble", "note"),
        held_out=request.get("held_out", 0.0),
        stop_on_memorising=request.get("stop_on_memorising"),
    )


def _together(run: Run, config: TrainingConfig) -> list[str]:
    """The devices that the training is shared among: as many of the worker's as its batch can be dealt out to evenly."""
    devices, batch_size = [run.station.device, *run.station.further], config.options.batch_size
    chosen = devices[: most_sharing(batch_size, len(devices))]
    if len(chosen) < len(devices):
        say(
            run,
            f"trained on {len(chosen)} of {len(devices)} devices, since no more can share {batch_size} images evenly",
        )
    return chosen


def _event_log(run: Run, images_seen: int) -> EventLog | None:
    """TensorBoard's files, in a folder that is called like the model; None where they are not wanted or cannot be written."""
    settings = run.resources.settings
    if not settings.tensorboard or not can_log():
        return None
    try:
        return EventLog(settings.resolved_tensorboard_dir / (run.claim.model_id or ""), images_seen=images_seen)
    except OSError as error:
        log.warning("no TensorBoard files for %s: %s", run.claim.model_id, error)
        return None


def _restore(run: Run, run_dir: Path, cache: Path) -> int:
    """Puts the job's last checkpoint where the trainer looks for one; returns the images it has seen, 0 without one."""
    run_dir.mkdir()
    model_id = run.claim.model_id or ""
    with run.resources.database.snapshot() as session:
        newest = max(kept.read_checkpoints(session, model_id), key=lambda row: row.images_seen, default=None)
        images_seen, blob = (newest.images_seen, newest.blob) if newest is not None else (0, None)
    with run.resources.database.transaction() as session:
        jobs.hold(session, run.claim)
        curves.cut_back(session, model_id, images_seen)
        kept.cut_back(session, model_id, images_seen)
    if blob is not None:
        source = run.resources.blobs.fetch(blob, cache)
        shutil.copytree(source, run_dir / f"ckpt-{images_seen:012d}")
    return images_seen


def _source(run: Run, cache: Path) -> Path | None:
    """The model that the job begins with, fetched while it is pinned: until the job has a checkpoint of its own.

    After that the trainer does not read it; where it would have to, an empty directory is a clear error."""
    if run.claim.request.get("init_from") is None:
        return None
    return run.resources.blobs.fetch(run.claim.checkpoint, cache) if run.claim.checkpoint is not None else cache


def say(run: Run, text: str) -> None:
    """Tell whoever watches the job."""
    run.resources.tell(Notice(run.claim.job_id, "note", {"text": text}))


class _Lesson:
    """Says how far an extractor's lesson is, ten times."""

    def __init__(self, run: Run) -> None:
        self._run, self._told = run, -1

    def report(self, done: int, total: int) -> None:
        tenths = 10 * done // total
        if tenths != self._told:
            self._told = tenths
            say(self._run, f"before the training, an extractor learns the data set: {10 * tenths} %")
