"""The one training loop, for every kind.

It lets a training take its steps until the budget is spent, and by the clock writes checkpoints and previews, has the averaged
generator measured and says how things stand. It knows no kind by name, no job and no queue: two hooks, on_tick and
should_stop, are the whole seam to whoever runs it, and a third, measure, to what pictures are worth.

Ticks, previews, checkpoints and measurements must not touch the random state, since they happen by the clock: on the CPU,
stopping and going on at any step gives the bits of a run that never stopped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from models import checkpoint
from models.appraisal import Appraisals, Scorer
from models.config import TrainingConfig
from models.data import PreparedImages
from models.preview import write_preview
from models.training import Training

__all__ = ["Outcome", "Tick", "TrainingConfig", "train"]


@dataclass(frozen=True)
class Tick:
    """How a training stands."""

    images_seen: int
    fraction: float  # of the budget, 0 to 1
    images_per_s: float  # over the last few ticks; 0 until there are two
    eta_s: float | None  # None while there is no telling
    elapsed_s: float  # of training, over all attempts
    losses: dict[str, float]  # means since the tick before
    gauges: dict[str, float] = field(default_factory=dict)  # what else to watch, by name, none of it minimised
    scores: dict[str, float] | None = (
        None  # of the averaged generator as in the checkpoint of now; None: not measured now
    )
    checkpoint: Path | None = None  # a directory that was just written
    preview: Path | None = None  # a PNG that was just written


@dataclass(frozen=True)
class Outcome:
    """How a call of train() ended."""

    finished: bool  # False: stopped before the budget was spent
    images_seen: int
    elapsed_s: float  # of training, over all attempts
    losses: dict[str, float]  # means since the last tick
    checkpoint: Path
    preview: Path | None  # None when stopped
    gave_up: bool = False  # the budget was not spent: patience was


def train(
    data: PreparedImages,
    config: TrainingConfig,
    run_dir: Path,
    *,
    device: str | torch.device = "cpu",
    measure: Scorer | None = None,
    on_tick: Callable[[Tick], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Train until the budget is spent, going on from the newest checkpoint in `run_dir` if there is one.

    Args:
        data: what to learn.
        config: what to train and for how long. On going on, kind, resolution, options and seed must be those of the start;
            the budget and the intervals may be others.
        run_dir: this training's own directory, for checkpoints and previews; made when absent.
        device: where to compute.
        measure: gives the averaged generator's scores, for at most config.evaluation_share of the time of this call, each time
            right after a checkpoint; budgets in seconds go on meanwhile. None: nothing is measured.
        on_tick: called about every config.tick_interval_s, and for every checkpoint and preview; what it raises ends the
            training at once.
        should_stop: asked before every step; once True, a checkpoint is written and train() returns.

    Raises:
        OptionError: kind, options, resolution and data do not fit together.
        DataError: the data cannot be used at this resolution.
        BadCheckpoint: `run_dir` holds another training.
        TrainingDiverged: a loss or a weight is no longer finite; the last good checkpoint is kept.
        CheckpointError: a checkpoint cannot be written.
    """
    training = Training(data, config, torch.device(device))
    found = checkpoint.latest(run_dir)
    saved: tuple[int, Path] | None = None  # images_seen and directory of the last checkpoint
    if found is not None:
        training.restore(found)
        saved = found.record.images_seen, found.path
    checkpoint.sweep(run_dir, beyond=training.images_seen)

    rate, appraisals = _Rate(), Appraisals(measure, config)
    started = time.monotonic() - training.elapsed_s
    tick_at = checkpoint_at = preview_at = time.monotonic()
    while True:
        now = time.monotonic()
        training.elapsed_s = now - started
        fraction = config.fraction(training.images_seen, training.elapsed_s)
        finished = fraction >= 1 or appraisals.in_vain
        ending = finished or (should_stop is not None and should_stop())
        measure_due = (finished or not ending) and appraisals.due(ending=finished)
        save_due = ending or measure_due or now - checkpoint_at >= config.checkpoint_interval_s
        preview_due = finished or now - preview_at >= config.preview_interval_s

        if ending or save_due or preview_due or now - tick_at >= config.tick_interval_s:
            losses = training.read_losses()
            written = preview = scores = None
            if save_due and (saved is None or training.images_seen > saved[0]):
                written = training.save(run_dir, thorough=finished)
                saved = training.images_seen, written
                checkpoint_at = time.monotonic()
            if measure_due:
                scores = appraisals.take(training.sampled())
                if scores is not None and saved is not None:
                    checkpoint.write_scores(saved[1], scores)
            if preview_due:
                preview = write_preview(training.sampled(), run_dir)
                preview_at = time.monotonic()
            images_per_s = rate.over(training.images_seen, training.elapsed_s)
            if on_tick is not None:
                eta_s = config.eta_s(training.images_seen, training.elapsed_s, images_per_s)
                on_tick(
                    Tick(
                        images_seen=training.images_seen,
                        fraction=fraction,
                        images_per_s=images_per_s,
                        eta_s=eta_s,
                        elapsed_s=training.elapsed_s,
                        losses=losses,
                        gauges=training.read_gauges(),
                        scores=scores,
                        checkpoint=written,
                        preview=preview,
                    )
                )
            tick_at = time.monotonic()
            if ending:
                assert saved is not None
                return Outcome(
                    finished=finished,
                    images_seen=training.images_seen,
                    elapsed_s=training.elapsed_s,
                    losses=losses,
                    checkpoint=saved[1],
                    preview=preview,
                    gave_up=finished and fraction < 1,
                )
        training.step()


class _Rate:
    """Images a second over the last few ticks."""

    def __init__(self) -> None:
        self._ticks: deque[tuple[int, float]] = deque(maxlen=10)

    def over(self, images_seen: int, elapsed_s: float) -> float:
        self._ticks.append((images_seen, elapsed_s))
        (images_then, then), (images_now, now) = self._ticks[0], self._ticks[-1]
        return (images_now - images_then) / (now - then) if now > then else 0.0
