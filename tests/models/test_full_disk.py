"""A full disk: a training goes on without a checkpoint, waits for room at its end, and never harms the one it has."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models import checkpoint, trainer
from models.config import TrainingConfig
from models.errors import DiskFull, NewerFormat
from models.sealed import whole_directory
from models.trainer import Outcome, Tick, train
from tests.models.conftest import Prepare

Configure = Callable[..., TrainingConfig]


class Disk:
    """A disk whose writes fail while it is full; everything else is real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        self.refused = 0
        sync = os.fsync

        def fsync(descriptor: int) -> None:
            if self.is_full:
                self.refused += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(trainer, "LOOK_FOR_ROOM_S", 0.01)
    return Disk(monkeypatch)


def files(outcome: Outcome) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in outcome.checkpoint.glob("*.safetensors")}


def test_a_disk_that_is_full_for_a_while_changes_nothing_of_what_is_learnt(
    prepared: Prepare, configured: Configure, tmp_path: Path, disk: Disk
) -> None:
    data, config = prepared(21), replace(configured(images=8 * 12), checkpoint_interval_s=0.0)
    straight = train(data, config, tmp_path / "straight")
    seen: list[int] = []

    def on_tick(tick: Tick) -> None:
        seen.append(tick.images_seen)
        disk.is_full = 24 <= tick.images_seen < 72
        if disk.is_full:
            found = checkpoint.latest(tmp_path / "full")
            assert found is not None
            assert found.record.images_seen == 24  # whole, and the newest that there was room for

    ended = train(data, config, tmp_path / "full", on_tick=on_tick)

    assert disk.refused > 0
    assert max(seen) == 96
    assert files(ended) == files(straight)
    assert not list((tmp_path / "full").glob(".unfinished*"))


def test_the_last_checkpoint_is_waited_for(
    prepared: Prepare, configured: Configure, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        disk.is_full = len(looks) < 3

    monkeypatch.setattr("models.trainer.time.sleep", look)
    data = prepared(21)
    disk.is_full = True

    ended = train(data, configured(images=8 * 3), tmp_path / "run")

    assert (ended.finished, ended.images_seen, len(looks)) == (True, 24, 3)


def test_a_training_that_must_stop_does_not_wait_for_room_and_goes_on_from_the_checkpoint_before(
    prepared: Prepare, configured: Configure, tmp_path: Path, disk: Disk
) -> None:
    data, config = prepared(21), replace(configured(images=8 * 6), checkpoint_interval_s=0.0)
    straight = train(data, config, tmp_path / "straight")

    def on_tick(tick: Tick) -> None:
        disk.is_full = tick.images_seen >= 16

    with pytest.raises(DiskFull, match="make room there"):
        train(data, config, tmp_path / "run", on_tick=on_tick, should_stop=lambda: disk.refused > 1)
    disk.is_full = False
    found = checkpoint.latest(tmp_path / "run")
    assert found is not None
    assert found.record.images_seen == 16
    ended = train(data, config, tmp_path / "run")

    assert files(ended) == files(straight)


def test_a_checkpoint_of_a_later_release_is_neither_passed_over_nor_called_damaged(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    """Given a checkpoint in a format to come, when an older trainer meets it, I expect it not to begin anew without it."""
    data, config = prepared(21), configured(images=16)
    ended = train(data, config, tmp_path)
    record = ended.checkpoint / checkpoint.RECORD
    record.write_text(record.read_text().replace('"format": 1', '"format": 2'))

    with pytest.raises(NewerFormat, match="is of format 2, and this release knows 1"):
        checkpoint.latest(tmp_path)
    with pytest.raises(NewerFormat):
        train(data, config, tmp_path)


def test_a_directory_that_can_t_be_written_whole_is_not_there(tmp_path: Path, disk: Disk) -> None:
    disk.is_full = True

    def write() -> None:
        with whole_directory(tmp_path / "new") as directory:
            (directory / "file").write_bytes(b"x")

    with pytest.raises(DiskFull):
        write()

    assert list(tmp_path.iterdir()) == []
