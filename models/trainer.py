"""The one training loop, for every kind.

It lets a training take its steps until the budget is spent, and by the clock writes checkpoints and previews, has the averaged
generator measured and says how things stand. It knows no kind by name, no job and no queue: two hooks, on_tick and
should_stop, are the whole seam to whoever runs it, and a third, measure, to what pictures are worth.

Ticks, previews, checkpoints and measurements must not touch the random state, since they happen by the clock: on the CPU,
stopping and going on at any step gives the bits of a run that never stopped.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from models import checkpoint
from models.appraisal import Appraisals, Scorer
from models.checkpoint import Checkpoint
from models.config import TrainingConfig
from models.data import PreparedImages
from models.errors import BadCheckpoint, CheckpointError, DiskFull, TrainingDiverged
from models.preview import write_preview
from models.ranks import ALONE, Ranks
from models.remedies import MOST_ROLLBACKS, Rollback, next_remedy
from models.source import Source
from models.training import Training
from models.trouble import Finding, Trouble, not_finite
from models.watch import Watch

__all__ = ["Outcome", "Tick", "TrainingConfig", "follow", "train"]

Rollbacks: TypeAdapter[tuple[Rollback, ...]] = TypeAdapter(tuple[Rollback, ...])

WAIT_FOR_ROOM_S = 600.0  # for a checkpoint at the end, where the disk is full
LOOK_FOR_ROOM_S = 1.0

log = logging.getLogger(__name__)


class Word(enum.IntEnum):
    """What rank 0 tells the others to do next."""

    END = 0
    STEP = 1
    GO_BACK = 2  # the rollbacks of the training, as JSON, come next; the last one says how far


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
    troubles: tuple[Finding, ...] = ()  # that it is in
    rollback: Rollback | None = None  # with which it has just gone back to images_seen


@dataclass(frozen=True)
class Outcome:
    """How a call of train() ended."""

    finished: bool  # False: stopped before the budget was spent
    images_seen: int
    elapsed_s: float  # of training, over all attempts
    losses: dict[str, float]  # means since the last tick
    checkpoint: Path
    preview: Path | None  # None when stopped, or the disk was full
    gave_up: bool = False  # the budget was not spent: patience was, or a trouble ended it
    troubles: tuple[Finding, ...] = ()  # that it was in, in the end
    rollbacks: tuple[Rollback, ...] = ()  # oldest first, over all attempts
    went_back: bool = False  # the checkpoint is the last healthy one, and what came after it was dropped

    @property
    def why_back(self) -> str | None:
        """Why it ended at an earlier checkpoint than the last, as a sentence; None where it did not."""
        if not self.went_back:
            return None
        return f"It ended as it was after {self.images_seen:,} images: {' '.join(one.says for one in self.troubles)}."


def train(
    data: PreparedImages,
    config: TrainingConfig,
    run_dir: Path,
    *,
    init_from: Path | None = None,
    device: str | torch.device = "cpu",
    measure: Scorer | None = None,
    on_tick: Callable[[Tick], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    ranks: Ranks = ALONE,
) -> Outcome:
    """Train until the budget is spent, going on from the newest checkpoint in `run_dir` if there is one.

    Args:
        data: what to learn.
        config: what to train and for how long. On going on, kind, resolution, options and seed must be those of the start;
            the budget, the intervals and what to do about troubles may be others. Remedies that were taken stay.
        run_dir: this training's own directory, for checkpoints and previews; made when absent.
        init_from: a directory with the model to begin with (`models.source`); a checkpoint is written before the first step,
            and once there is one it is not read any more. None: fresh weights.
        device: where to compute.
        measure: gives the averaged generator's scores, for at most config.evaluation_share of the time of this call, each time
            right after a checkpoint; budgets in seconds go on meanwhile. None: nothing is measured.
        on_tick: called about every config.tick_interval_s, and for every checkpoint and preview; what it raises ends the
            training at once.
        should_stop: asked before every step; once True, a checkpoint is written and train() returns.
        ranks: where several processes train together, that of the one that leads; the others follow().

    Raises:
        OptionError: kind, options, resolution and data do not fit together.
        DataError: the data cannot be used at this resolution.
        NoCheckpoint: no model is in `init_from`.
        BadCheckpoint: `run_dir` holds another training, or the model in `init_from` is damaged.
        TrainingDiverged: a loss or a weight is no longer finite, and there is no remedy or none was wanted; the last good
            checkpoint is kept.
        DiskFull: there was no room for the last checkpoint, for ten minutes or until should_stop(). One on the way that finds
            no room is left out.
        CheckpointError: a checkpoint cannot be written.
    """
    training, found = _opened(data, config, run_dir, init_from, torch.device(device), ranks)
    loop = _Loop(training, run_dir, Appraisals(measure, config), on_tick, should_stop)
    while True:
        try:
            return loop.run(found)
        except _Setback as setback:
            found = loop.go_back(setback.finding, setback.remedy)


def follow(
    data: PreparedImages,
    config: TrainingConfig,
    run_dir: Path,
    *,
    init_from: Path | None = None,
    device: str | torch.device,
    ranks: Ranks,
) -> None:
    """Take the steps of a training that rank 0 leads by train(), and go back where it does, until it ends.

    Rank 0's clock decides, for schedules that go by seconds as well.

    Args:
        data: as for train().
        config: as for train().
        run_dir: as for train(); it is only read.
        init_from: as for train().
        device: where this rank computes.
        ranks: this rank's place.

    Raises:
        ModelsError: as train().
    """
    training, _ = _opened(data, config, run_dir, init_from, torch.device(device), ranks)
    while True:
        word, elapsed_s = ranks.from_first(Word.END, 0.0)
        if word == Word.END:
            return
        if word == Word.GO_BACK:
            rollbacks = Rollbacks.validate_json(ranks.text_from_first())
            path = checkpoint.path_of(run_dir, rollbacks[-1].back_to)  # none for the beginning with fresh weights
            training.roll_back(checkpoint.load(path) if path.exists() else None, rollbacks)
            _meet(training, run_dir)
        else:
            training.elapsed_s = elapsed_s
            training.step()


def _opened(
    data: PreparedImages,
    config: TrainingConfig,
    run_dir: Path,
    init_from: Path | None,
    device: torch.device,
    ranks: Ranks,
) -> tuple[Training, Checkpoint | None]:
    """A training as of the newest checkpoint, the same one on every rank, or at its beginning."""
    training = Training(data, config, device, ranks)
    found = checkpoint.latest(run_dir)
    if found is not None:
        if init_from is not None and found.record.origin is None:
            raise BadCheckpoint(
                f"{found.path} is of a training that began with fresh weights, not with {init_from}; leave init_from out to "
                "go on with it, or train into an empty directory"
            )
        training.restore(found)
    else:
        training.inherit(Source.read(init_from) if init_from is not None else None)
    _meet(training, run_dir)
    return training, found


def _meet(training: Training, run_dir: Path) -> None:
    """Wait for all ranks to have read their checkpoint: before that, rank 0 may not sweep any away.

    Raises:
        BadCheckpoint: they read different ones.
    """
    mean = torch.tensor([training.images_seen], dtype=torch.float64)
    training.ranks.average([mean])
    if round(mean.item()) != training.images_seen:
        raise BadCheckpoint(f"the processes of this training read different checkpoints in {run_dir}; start it again")


class _Setback(Exception):
    """The training goes back to where it was well."""

    def __init__(self, finding: Finding, remedy: dict[str, Any]) -> None:
        super().__init__(finding.says)
        self.finding, self.remedy = finding, remedy


class _Loop:
    """The loop of one call of train()."""

    def __init__(
        self,
        training: Training,
        run_dir: Path,
        appraisals: Appraisals,
        on_tick: Callable[[Tick], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self._training, self._run_dir, self._appraisals = training, run_dir, appraisals
        self._on_tick, self._should_stop = on_tick, should_stop
        self._config = training.asked
        self._watch = Watch(self._config, len(training.learnt))
        self._started = time.monotonic() - training.elapsed_s
        self._rollback: Rollback | None = None  # that no tick has told of yet

    def run(self, found: Checkpoint | None) -> Outcome:
        """Take steps until the end, from a checkpoint that the training has been brought to, or from the beginning.

        Raises:
            _Setback: it is in trouble and should go back.
        """
        try:
            return self._steps(found)
        except TrainingDiverged as error:
            finding = not_finite(error)
            remedy = self._remedy(finding)
            if not remedy:
                raise
            raise _Setback(finding, remedy) from error

    def go_back(self, finding: Finding, remedy: dict[str, Any]) -> Checkpoint | None:
        """Bring the training to where it was well, with one remedy more.

        Returns:
            the checkpoint; None: it is the beginning.
        """
        training, refuge = self._training, self._watch.refuge(finding)
        found = checkpoint.load(refuge) if refuge is not None else None
        back_to = found.record.images_seen if found is not None else 0
        rollback = Rollback(trouble=finding.name, seen_at=training.images_seen, back_to=back_to, options=remedy)
        log.warning("%s (%s)", rollback.says, finding.says)
        rollbacks = (*training.rollbacks, rollback)
        training.ranks.from_first(Word.GO_BACK, training.elapsed_s)
        training.ranks.text_from_first(Rollbacks.dump_json(rollbacks).decode())
        training.roll_back(found, rollbacks)
        _meet(training, self._run_dir)
        self._rollback = rollback
        return found

    def _remedy(self, finding: Finding) -> dict[str, Any]:
        """What to change about a trouble; nothing where that was not asked for, or all has been tried."""
        training = self._training
        if self._config.on_trouble != "rollback" or len(training.rollbacks) >= MOST_ROLLBACKS:
            return {}
        return next_remedy(training.config.options, finding.name)

    def _steps(self, found: Checkpoint | None) -> Outcome:
        training, config, watch, appraisals = self._training, self._config, self._watch, self._appraisals
        # images_seen and directory of the last checkpoint
        saved = (found.record.images_seen, found.path) if found is not None else None
        checkpoint.sweep(self._run_dir, beyond=training.images_seen)
        watch.begin(found.path if found is not None else None, training.images_seen)
        rate = _Rate()
        tick_at = checkpoint_at = preview_at = time.monotonic()
        # A remedy is kept from the first step on; and where another model's weights are taken, these themselves, which free
        # the training from that model, and can be gone back to.
        begins = found is None and training.origin is not None
        save_now = self._rollback is not None or begins
        retreats = training.origin is not None if config.stop_on_memorising is None else config.stop_on_memorising
        while True:
            now = time.monotonic()
            training.elapsed_s = now - self._started
            fraction = config.fraction(training.images_seen, training.elapsed_s)
            in_vain = appraisals.in_vain or (config.on_trouble == "stop" and bool(watch.certain))
            finished = fraction >= 1 or in_vain
            ending = finished or (self._should_stop is not None and self._should_stop())
            measure_due = (finished or not ending) and appraisals.due(ending=finished)
            save_due = ending or measure_due or save_now or now - checkpoint_at >= config.checkpoint_interval_s
            preview_due = finished or now - preview_at >= config.preview_interval_s

            if ending or save_due or preview_due or now - tick_at >= config.tick_interval_s:
                losses = training.read_losses()
                gauges = training.read_gauges()
                written = preview = scores = None
                if save_due and (saved is None or training.images_seen > saved[0]):
                    keep = {path for path in (watch.sound, watch.proven) if path is not None}
                    written = self._save(finished=finished, needed=ending or begins, keep=keep)
                    checkpoint_at = time.monotonic()
                    if written is not None:
                        saved, save_now = (training.images_seen, written), False
                    gauges |= training.overfitting()
                if measure_due:
                    scores = appraisals.take(training.sampled())
                    if scores is not None and saved is not None and saved[0] == training.images_seen:
                        self._write_scores(saved[1], scores)
                if preview_due:
                    preview = self._preview()
                    preview_at = time.monotonic()
                troubles = watch.look(training.images_seen, fraction, gauges, scores, written)
                if begins:
                    watch.begin(written, training.images_seen)
                    begins = False
                self._tell(rate, fraction, losses, gauges, scores, written, preview)
                tick_at = time.monotonic()
                copying = [finding for finding in watch.certain if finding.name is Trouble.MEMORISING]
                if retreats and copying and (refuge := watch.refuge(copying[0])) is not None:
                    return self._retreat(checkpoint.load(refuge), copying[0], fraction, losses)
                if ending:
                    training.ranks.from_first(Word.END, training.elapsed_s)
                    assert saved is not None
                    return Outcome(
                        finished=finished,
                        images_seen=training.images_seen,
                        elapsed_s=training.elapsed_s,
                        losses=losses,
                        checkpoint=saved[1],
                        preview=preview,
                        gave_up=finished and fraction < 1,
                        troubles=troubles,
                        rollbacks=training.rollbacks,
                    )
                for finding in watch.certain:
                    if remedy := self._remedy(finding):
                        raise _Setback(finding, remedy)
            training.ranks.from_first(Word.STEP, training.elapsed_s)
            training.step()

    def _save(self, *, finished: bool, needed: bool, keep: Collection[Path]) -> Path | None:
        """The directory of a new checkpoint; None where the disk is full and the training can go on without it.

        One that is needed is waited for: what was learnt is worth more than the time.
        """
        training, run_dir = self._training, self._run_dir
        until = time.monotonic() + WAIT_FOR_ROOM_S
        while True:
            try:
                return training.save(run_dir, thorough=finished, keep=keep)
            except DiskFull as error:
                if not needed:
                    log.warning("no checkpoint after %s images: %s", f"{training.images_seen:,}", error)
                    return None
                told_to_stop = not finished and self._should_stop is not None and self._should_stop()
                if told_to_stop or time.monotonic() > until:
                    raise
                log.warning("waits for room: %s", error)
                time.sleep(LOOK_FOR_ROOM_S)

    def _write_scores(self, directory: Path, scores: dict[str, float]) -> None:
        try:
            checkpoint.write_scores(directory, scores)
        except CheckpointError as error:  # they are told all the same
            log.warning("%s", error)

    def _preview(self) -> Path | None:
        try:
            return write_preview(self._training.sampled(), self._run_dir)
        except OSError as error:  # a picture less is no reason to end a training
            log.warning("no preview after %s images: %s", f"{self._training.images_seen:,}", error)
            return None

    def _retreat(self, found: Checkpoint, finding: Finding, fraction: float, losses: dict[str, float]) -> Outcome:
        """End at a checkpoint of before a trouble, and drop what came after it."""
        training, elapsed_s = self._training, self._training.elapsed_s
        log.warning(
            "ended after %s images, at the checkpoint of %s (%s)",
            f"{training.images_seen:,}",
            f"{found.record.images_seen:,}",
            finding.says,
        )
        training.ranks.from_first(Word.END, elapsed_s)
        training.roll_back(found, found.record.rollbacks)
        checkpoint.sweep(self._run_dir, beyond=training.images_seen)
        preview = self._preview()
        if self._on_tick is not None:
            self._on_tick(
                Tick(
                    images_seen=training.images_seen,
                    fraction=fraction,
                    images_per_s=0.0,
                    eta_s=0.0,
                    elapsed_s=elapsed_s,
                    losses={},
                    preview=preview,
                    troubles=(finding,),
                )
            )
        return Outcome(
            finished=True,
            images_seen=training.images_seen,
            elapsed_s=elapsed_s,
            losses=losses,
            checkpoint=found.path,
            preview=preview,
            gave_up=True,
            troubles=(finding,),
            rollbacks=training.rollbacks,
            went_back=True,
        )

    def _tell(
        self,
        rate: _Rate,
        fraction: float,
        losses: dict[str, float],
        gauges: dict[str, float],
        scores: dict[str, float] | None,
        written: Path | None,
        preview: Path | None,
    ) -> None:
        training = self._training
        images_per_s = rate.over(training.images_seen, training.elapsed_s)
        if self._on_tick is None:
            return
        rollback, self._rollback = self._rollback, None
        self._on_tick(
            Tick(
                images_seen=training.images_seen,
                fraction=fraction,
                images_per_s=images_per_s,
                eta_s=self._config.eta_s(training.images_seen, training.elapsed_s, images_per_s),
                elapsed_s=training.elapsed_s,
                losses=losses,
                gauges=gauges,
                scores=scores,
                checkpoint=written,
                preview=preview,
                troubles=self._watch.findings,
                rollback=rollback,
            )
        )


class _Rate:
    """Images a second over the last few ticks."""

    def __init__(self) -> None:
        self._ticks: deque[tuple[int, float]] = deque(maxlen=10)

    def over(self, images_seen: int, elapsed_s: float) -> float:
        self._ticks.append((images_seen, elapsed_s))
        (images_then, then), (images_now, now) = self._ticks[0], self._ticks[-1]
        return (images_now - images_then) / (now - then) if now > then else 0.0
