"""A training is killed at the worst moments, goes on by itself, and ends with the bits of one that nobody disturbed.

The process that dies is a real one, by SIGKILL: no handler runs, nothing is flushed. It is forked, so that it need not import
PyTorch once more, and it hits itself where a test has hooked it.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models import catalog, checkpoint, sealed
from models.config import TrainingConfig
from models.trainer import Outcome, train
from tests.models.conftest import Prepare

Configure = Callable[..., TrainingConfig]
STEPS = 6


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_after_update(number: int) -> None:
    """Dies once an optimizer has done its n-th update."""
    original, left = torch.optim.Adam.step, iter(reversed(range(number)))

    def step(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        if next(left) == 0:
            _die()
        return result

    torch.optim.Adam.step = step  # type: ignore[method-assign]


def _in_a_step() -> None:
    """A network is updated, and the step is not counted: of an adversarial kind's second step, the discriminator alone."""
    _die_after_update(3)


def _in_a_write() -> None:
    """Of the second checkpoint's tensors half are on the disk, and nothing else."""
    original, calls = sealed.write, iter(range(100))

    def torn(path: Path, content: bytes) -> sealed.Seal:
        if path.name == checkpoint.STATE and next(calls) == 1:
            path.write_bytes(content[: len(content) // 2])
            _die()
        return original(path, content)

    sealed.write = torn


def _before_the_rename() -> None:
    """The second checkpoint is whole, and has no name yet."""
    original, renames = Path.rename, iter(range(100))

    def rename(path: Path, target: Path) -> Path:
        if next(renames) == 1:
            _die()
        return original(path, target)

    Path.rename = rename  # type: ignore[method-assign, assignment]


def _after_the_rename() -> None:
    """The second checkpoint has its name, which may not be on the disk yet."""
    original, renames = Path.rename, iter(range(100))

    def rename(path: Path, target: Path) -> Path:
        renamed = original(path, target)
        if next(renames) == 1:
            _die()
        return renamed

    Path.rename = rename  # type: ignore[method-assign, assignment]


def _in_the_sweep() -> None:
    """Of the oldest checkpoint, which the third replaces, some files are gone."""
    original = shutil.rmtree

    def rmtree(path: Path, *arguments: Any, **named: Any) -> None:
        if Path(path).name.startswith("ckpt-"):
            (Path(path) / checkpoint.RECORD).unlink()
            _die()
        original(path, *arguments, **named)

    shutil.rmtree = rmtree  # type: ignore[assignment]


POINTS = {
    "in a step": _in_a_step,
    "in a write": _in_a_write,
    "before the rename": _before_the_rename,
    "after the rename": _after_the_rename,
    "in the sweep": _in_the_sweep,
}


def _trained(arrange: Callable[[], None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    arrange()
    train(*arguments)


def _killed(arrange: Callable[[], None], *arguments: Any) -> int | None:
    """The exit code of a process that trains, once `arrange` has laid its trap."""
    process = multiprocessing.get_context("fork").Process(target=_trained, args=(arrange, arguments))
    process.start()
    process.join(60)
    return process.exitcode


def _files(outcome: Outcome) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in outcome.checkpoint.glob("*.safetensors")}


def _cases() -> Iterator[Any]:
    """Every kind at every point; of those that share the code of a checkpoint, one is quick enough for every day."""
    for name in sorted(catalog.KINDS):
        for point in POINTS:
            every_day = name == "gan-dcgan" or point == "in a write"
            yield pytest.param(name, point, marks=[] if every_day else pytest.mark.slow)


@pytest.mark.parametrize(("name", "point"), list(_cases()))
def test_it_goes_on_to_the_same_bits(
    name: str, point: str, prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    data, config = prepared(21), configured(name, images=8 * STEPS)  # 21 is no multiple of 8: epochs end in mid-batch
    straight = train(data, config, tmp_path / "straight")

    often = replace(config, checkpoint_interval_s=0)  # one before every step
    run_dir = tmp_path / "killed"
    assert _killed(POINTS[point], data, often, run_dir) == -signal.SIGKILL
    found = checkpoint.latest(run_dir)
    assert found is None or found.record.images_seen < 8 * STEPS

    ended = train(data, often, run_dir)
    assert ended.finished
    assert _files(ended) == _files(straight)
    assert not list(run_dir.glob(".unfinished-*"))


def test_it_is_killed_again_and_again_and_ends_all_the_same(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    """Given a process that dies in its third step each time, I expect two steps of progress from each."""
    data, config = prepared(21), configured(images=8 * STEPS)
    often, run_dir = replace(config, checkpoint_interval_s=0), tmp_path / "killed"
    seen = []
    while _killed(lambda: _die_after_update(5), data, often, run_dir) == -signal.SIGKILL:
        found = checkpoint.latest(run_dir)
        assert found is not None
        seen.append(found.record.images_seen)
        assert len(seen) < STEPS
    assert seen == sorted(set(seen))
    assert len(seen) >= 2
    assert _files(train(data, often, run_dir)) == _files(train(data, config, tmp_path / "straight"))
