"""A training that began with another model goes on without it, and ends before it copies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models import checkpoint
from models.catalog import KINDS
from models.config import TrainingConfig
from models.errors import BadCheckpoint
from models.generator import Generator
from models.trainer import Tick, train
from models.trouble import Trouble
from tests.models.conftest import Prepare

Configure = Callable[..., TrainingConfig]
GOOD = {"fd_domain": 1.0, "copies": 0.01}
COPYING = {"fd_domain": 0.5, "copies": 0.4}


def busy(config: TrainingConfig, **change: object) -> TrainingConfig:
    """With a tick, a checkpoint and a measurement at every step."""
    often = {"tick_interval_s": 0, "checkpoint_interval_s": 0, "evaluation_interval_s": 0, "evaluation_share": 0.5}
    return replace(config, **{**often, **change})  # type: ignore[arg-type] # of its own fields


@pytest.fixture
def source(prepared: Prepare, configured: Configure, tmp_path: Path) -> Path:
    return train(prepared(8), configured(images=32), tmp_path / "source").checkpoint


def copying_from(images_seen: int) -> Callable[[Generator], dict[str, float]]:
    return lambda generator: COPYING if generator.images_seen >= images_seen else GOOD


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements that take no time are due at every step, whatever the clock says."""
    monkeypatch.setattr("models.appraisal.Appraisals.due", lambda self, *, ending=False: self._measure is not None)


@pytest.mark.parametrize("name", KINDS)
def test_once_there_is_a_checkpoint_the_source_may_go_and_no_bit_changes(
    name: str, prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    """Given the source deleted after the first checkpoint, when the training stops and goes on, I expect the bits of one
    that never stopped."""
    config = configured(name, images=8 * 5)
    source = train(prepared(8), config, tmp_path / "source").checkpoint
    data, fine = prepared(12), replace(config, seed=11)
    straight = train(data, fine, tmp_path / "straight", init_from=source)

    begun = train(data, fine, tmp_path / "pieces", init_from=source, should_stop=lambda: True)
    assert begun.images_seen == 0
    shutil.rmtree(source)
    left = iter([False] * 2)
    train(data, fine, tmp_path / "pieces", init_from=source, should_stop=lambda: next(left, True))
    ended = train(data, fine, tmp_path / "pieces", init_from=source)
    for file in ("training.safetensors", "generator.safetensors"):
        assert (ended.checkpoint / file).read_bytes() == (straight.checkpoint / file).read_bytes()
    assert Generator.load(ended.checkpoint).card == Generator.load(straight.checkpoint).card
    assert "It began as a" in Generator.load(ended.checkpoint).card.notes[-1]


def test_it_ends_at_the_last_checkpoint_that_copied_nothing(
    prepared: Prepare, configured: Configure, tmp_path: Path, source: Path
) -> None:
    ticks: list[Tick] = []
    outcome = train(
        prepared(8),
        busy(configured(images=8 * 20)),
        tmp_path / "run",
        init_from=source,
        measure=copying_from(32),
        on_tick=ticks.append,
    )
    assert (outcome.finished, outcome.gave_up, outcome.went_back) == (True, True, True)
    assert (outcome.images_seen, outcome.checkpoint.name) == (24, "ckpt-000000000024")
    assert [finding.name for finding in outcome.troubles] == [Trouble.MEMORISING]
    assert "nearer to a training image" in outcome.troubles[0].says
    newest = checkpoint.latest(tmp_path / "run")
    assert newest is not None
    assert newest.path == outcome.checkpoint
    assert (ticks[-1].images_seen, ticks[-1].preview) == (24, outcome.preview)
    assert max(tick.images_seen for tick in ticks) == 40  # two measurements had to agree


def test_where_it_copies_from_the_start_it_ends_as_what_it_began_with(
    prepared: Prepare, configured: Configure, tmp_path: Path, source: Path
) -> None:
    outcome = train(
        prepared(8), busy(configured(images=80)), tmp_path / "run", init_from=source, measure=copying_from(0)
    )
    assert (outcome.images_seen, outcome.went_back) == (0, True)
    theirs, own = Generator.load(source).network.state_dict(), Generator.load(outcome.checkpoint).network.state_dict()
    assert all(tensor.equal(theirs[key]) for key, tensor in own.items())


@pytest.mark.parametrize(("wish", "begins", "ends"), [(None, False, False), (True, False, True), (False, True, False)])
def test_whether_it_ends_is_a_wish_with_a_default(
    wish: bool | None, begins: bool, ends: bool, prepared: Prepare, configured: Configure, tmp_path: Path, source: Path
) -> None:
    config = busy(configured(images=80), stop_on_memorising=wish)
    outcome = train(
        prepared(8), config, tmp_path / "run", init_from=source if begins else None, measure=copying_from(32)
    )
    assert outcome.went_back is ends
    assert outcome.images_seen == (24 if ends else 80)


def test_a_remedy_may_lead_back_to_the_weights_it_began_with(
    prepared: Prepare, configured: Configure, tmp_path: Path, source: Path
) -> None:
    """Given a collapse right after the start, I expect the way back to lead to the source's weights, not to fresh ones."""
    rolled: list[int] = []

    def measure(generator: Generator) -> dict[str, float]:
        bad = generator.images_seen >= 8 and not rolled
        return {"fd_domain": 1.0, "coverage": 0.1 if bad else 0.8, "coverage_floor": 0.9}

    def on_tick(tick: Tick) -> None:
        if tick.rollback is not None:
            rolled.append(tick.rollback.back_to)

    config = busy(configured(images=32), on_trouble="rollback")
    outcome = train(prepared(8), config, tmp_path / "run", init_from=source, measure=measure, on_tick=on_tick)
    assert rolled == [0]
    assert outcome.images_seen == 32
    record = checkpoint.load(outcome.checkpoint).record
    assert record.origin is not None
    assert len(record.rollbacks) == 1


def test_a_training_that_began_afresh_is_not_gone_on_with_as_another(
    prepared: Prepare, configured: Configure, tmp_path: Path, source: Path
) -> None:
    train(prepared(8), configured(images=8), tmp_path / "run")
    with pytest.raises(BadCheckpoint, match=r"began with fresh weights.*leave init_from out"):
        train(prepared(8), configured(images=16), tmp_path / "run", init_from=source)
