"""What TensorBoard reads back is what the ticks told, each step once, also after going on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.config import TrainingConfig
from models.event_log import EventLog, can_log
from models.trainer import Tick, train
from tests.models.conftest import Prepare

pytestmark = pytest.mark.skipif(not can_log(), reason="tensorboard is not installed")


def read(directory: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return accumulator


def tick(images_seen: int, **more: Any) -> Tick:
    return Tick(images_seen, 0.5, 100.0, None, images_seen / 100, {"G": float(images_seen)}, {"R_t": 0.25}, **more)


def steps(directory: Path, name: str) -> list[int]:
    return [event.step for event in read(directory).Scalars(name)]


def test_losses_gauges_scores_and_speed_become_scalars(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.on_tick(tick(0))
        log.on_tick(tick(8))
        log.on_tick(tick(16, scores={"fd_domain": 2.0}))
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == {"loss/G", "gauge/R_t", "score/fd_domain", "speed/images_per_s"}
    assert [(event.step, event.value) for event in found.Scalars("loss/G")] == [(8, 8.0), (16, 16.0)]
    assert steps(tmp_path, "score/fd_domain") == [16]


def test_going_on_hides_what_happens_once_more(tmp_path: Path) -> None:
    """Given a training killed at 32 images, when it goes on from a checkpoint of 16, I expect each step once."""
    with EventLog(tmp_path) as log:
        for images_seen in (8, 16, 24, 32):
            log.on_tick(tick(images_seen))
    with EventLog(tmp_path, images_seen=16) as log:
        for images_seen in (16, 24, 32, 40):
            log.on_tick(tick(images_seen))
    assert steps(tmp_path, "loss/G") == [8, 16, 24, 32, 40]


def test_previews_become_images(prepared: Prepare, configured: Callable[..., TrainingConfig], tmp_path: Path) -> None:
    config = replace(configured(images=16), tick_interval_s=0)
    with EventLog(tmp_path / "events") as log:
        train(prepared(8), config, tmp_path / "run", on_tick=log.on_tick)
    found = read(tmp_path / "events")
    assert found.Tags()["images"] == ["preview"]
    assert found.Images("preview")[-1].step == 16
