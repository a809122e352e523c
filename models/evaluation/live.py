"""Measuring a training while it goes on: with the extractor of its data set, which may have to learn first.

That lesson is not the training's: it is the data set's, taken once and kept beside it, before the training's clock starts.
A training too short to be worth the wait goes without, unless somebody had the extractor learn before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.appraisal import LEADING, Scorer
from models.config import TrainingConfig
from models.data import PreparedImages
from models.errors import TooFewImages
from models.evaluation.extractor import Extractor, find_extractor, train_extractor
from models.evaluation.lesson import OnProgress, ShouldStop
from models.evaluation.quick import QuickMeasure
from models.generator import Generator

WORTH_A_LESSON_IMAGES = 200_000  # the least budget; a lesson is 60,000 images of a small network
WORTH_A_LESSON_S = 600.0


@dataclass(frozen=True)
class LiveMeasure:
    """What measures a training, or why nothing does."""

    measure: Scorer | None
    note: str | None = None  # a sentence for the training's owner; None: there is nothing to say


def live_measure(
    directory: Path,
    data: PreparedImages,
    config: TrainingConfig,
    keep: Callable[[Extractor], object],
    *,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> LiveMeasure:
    """Find or make what a training is measured with.

    Args:
        directory: of the prepared data, where its extractor lies if there is one.
        data: what is trained on.
        config: the training.
        keep: called with an extractor that has just learnt.
        device: where to compute.
        on_progress: called while an extractor learns.
        should_stop: asked while it learns, and during every measurement.

    Raises:
        Stopped: should_stop() said so while the extractor learnt.
    """
    if config.evaluation_share == 0:
        return LiveMeasure(None)
    extractor = find_extractor(directory, data, config.resolution, device=device)
    try:
        if extractor is None:
            if not _worth_a_lesson(config):
                return LiveMeasure(
                    None,
                    "FD-domain is not followed: this budget is too short for the data set's extractor to learn first; "
                    f"train for {WORTH_A_LESSON_S:g} s or {WORTH_A_LESSON_IMAGES:,} images, or evaluate any model of it once",
                )
            extractor = train_extractor(
                data, config.resolution, device=device, on_progress=on_progress, should_stop=should_stop
            )
            keep(extractor)
        quick = QuickMeasure(extractor, data)
    except TooFewImages as error:
        return LiveMeasure(None, f"FD-domain is not followed: {error}")

    def measure(generator: Generator) -> dict[str, float]:
        scores = quick.measure(generator, should_stop=should_stop)
        floor = quick.floor(scores.n, labelled=generator.classes is not None)
        found = {
            LEADING: scores.fd_domain,
            f"{LEADING}_floor": floor.fd_domain,  # what as many real pictures score
            "kid": scores.kid,
            "coverage": scores.coverage,
            "coverage_floor": floor.coverage,
            "ms_ssim": scores.ms_ssim,
            "ms_ssim_floor": floor.ms_ssim,
            "diversity": scores.diversity,
            "copies": scores.copies,
            "n": float(scores.n),
        }
        return {name: value for name, value in found.items() if math.isfinite(value)}

    return LiveMeasure(measure)


def _worth_a_lesson(config: TrainingConfig) -> bool:
    images, seconds = config.budget_images, config.budget_s
    return (images is None or images >= WORTH_A_LESSON_IMAGES) and (seconds is None or seconds >= WORTH_A_LESSON_S)
