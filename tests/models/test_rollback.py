"""A training in trouble goes back to where it was well, on with one remedy more, and does not forget it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.checkpoint import load
from models.config import TrainingConfig
from models.errors import InvalidOption, TrainingDiverged
from models.gan.dcgan import DcganObjective
from models.generator import Generator
from models.objective import Batch
from models.trainer import Tick, train
from models.training import Training
from models.trouble import Trouble
from tests.models.conftest import Prepare

Configure = Callable[..., TrainingConfig]
GOOD = {"fd_domain": 1.0, "coverage": 0.8, "coverage_floor": 0.9}


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[DcganObjective, Batch], bool]], None]:
    """Makes the generator's loss no number where a condition holds."""
    real_losses = DcganObjective.generator_losses

    def at(condition: Callable[[DcganObjective, Batch], bool]) -> None:
        def spoilt(self: DcganObjective, batch: Batch) -> dict[str, Tensor]:
            factor = float("nan") if condition(self, batch) else 1.0
            return {name: loss * factor for name, loss in real_losses(self, batch).items()}

        monkeypatch.setattr(DcganObjective, "generator_losses", spoilt)

    return at


def busy(config: TrainingConfig, **change: object) -> TrainingConfig:
    """With a tick and a checkpoint at every step."""
    return replace(config, tick_interval_s=0, checkpoint_interval_s=0, **change)  # type: ignore[arg-type] # of its own fields


def test_a_loss_that_is_no_number_leads_back_and_the_training_ends_well(
    prepared: Prepare, configured: Configure, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    """Given steps that overflow at 24 images with the first learning rate, I expect smaller ones from 24 images on."""
    spoil(lambda objective, batch: batch.images_seen == 24 and objective.options.learning_rate == 2e-4)
    ticks: list[Tick] = []
    config = busy(configured(images=8 * 6), on_trouble="rollback")
    outcome = train(prepared(8), config, tmp_path, on_tick=ticks.append)

    assert (outcome.finished, outcome.images_seen) == (True, 48)
    (rollback,) = outcome.rollbacks
    assert (rollback.trouble, rollback.seen_at, rollback.back_to) == (Trouble.NOT_FINITE, 32, 24)
    assert [tick.images_seen for tick in ticks] == [0, 8, 16, 24, 24, 32, 40, 48]
    assert [tick.rollback for tick in ticks if tick.rollback] == [rollback]
    card = Generator.load(outcome.checkpoint).card
    assert card.options["learning_rate"] == 1e-4
    assert card.notes == (rollback.says,)


def test_what_was_remedied_stays_remedied_on_going_on(
    prepared: Prepare, configured: Configure, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    spoil(lambda objective, batch: batch.images_seen == 24 and objective.options.learning_rate == 2e-4)
    data, config = prepared(8), busy(configured(images=8 * 6), on_trouble="rollback")
    straight = train(data, config, tmp_path / "straight")

    left = iter([False] * 6)  # steps, the one that is undone among them
    stopped = train(data, config, tmp_path / "pieces", should_stop=lambda: next(left, True))
    assert (stopped.finished, stopped.images_seen) == (False, 32)
    assert load(stopped.checkpoint).record.rollbacks == stopped.rollbacks == straight.rollbacks
    ended = train(data, replace(config, on_trouble="note"), tmp_path / "pieces")
    for name in ("training.safetensors", "generator.safetensors"):
        assert (ended.checkpoint / name).read_bytes() == (straight.checkpoint / name).read_bytes()
    assert Generator.load(ended.checkpoint).card == Generator.load(straight.checkpoint).card


def test_after_three_remedies_it_is_given_up(
    prepared: Prepare, configured: Configure, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    spoil(lambda objective, batch: batch.images_seen == 8)
    rollbacks: list[Tick] = []
    config = busy(configured(images=8 * 6), on_trouble="rollback")
    with pytest.raises(TrainingDiverged):
        train(prepared(8), config, tmp_path, on_tick=lambda tick: rollbacks.append(tick) if tick.rollback else None)
    assert len(rollbacks) == 3


def test_without_a_checkpoint_the_way_leads_back_to_the_beginning(
    prepared: Prepare, configured: Configure, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    spoil(lambda objective, batch: batch.images_seen == 8 and objective.options.learning_rate == 2e-4)
    config = replace(configured(images=8 * 4), tick_interval_s=0, on_trouble="rollback")
    outcome = train(prepared(8), config, tmp_path)
    assert [rollback.back_to for rollback in outcome.rollbacks] == [0]
    assert outcome.images_seen == 32


def test_a_collapse_leads_back_to_the_last_checkpoint_that_was_measured_and_sound(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    bad = {"fd_domain": 9.0, "coverage": 0.1, "coverage_floor": 0.9}

    def measure(generator: Generator) -> dict[str, float]:
        return bad if generator.images_seen >= 24 and generator.options.model_dump()["penalty"] == "none" else GOOD

    config = busy(configured(images=8 * 8), on_trouble="rollback", evaluation_interval_s=0, evaluation_share=0.5)
    ticks: list[Tick] = []
    outcome = train(prepared(8), config, tmp_path, measure=measure, on_tick=ticks.append)
    measured = [tick for tick in ticks if tick.scores]
    found = next(tick for tick in ticks if tick.troubles)
    assert [finding.name for finding in found.troubles] == [Trouble.COVERAGE_DROP]
    (rollback,) = outcome.rollbacks
    assert rollback.back_to == max(tick.images_seen for tick in measured if tick.images_seen < 24)
    assert rollback.options == {"penalty": "r1"}
    assert (outcome.troubles, outcome.finished, outcome.images_seen) == ((), True, 64)


@pytest.mark.parametrize("on_trouble", ["note", "stop"])
def test_a_trouble_is_noted_or_ends_the_training(
    on_trouble: str, prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    scores = iter([GOOD])

    def measure(generator: Generator) -> dict[str, float]:
        return next(scores, {"fd_domain": 9.0, "coverage": 0.1, "coverage_floor": 0.9})

    config = busy(configured(images=64), on_trouble=on_trouble, evaluation_interval_s=0, evaluation_share=0.5)
    outcome = train(prepared(8), config, tmp_path, measure=measure)
    assert outcome.gave_up == (on_trouble == "stop")
    assert [finding.name for finding in outcome.troubles] == [Trouble.COVERAGE_DROP]
    assert outcome.images_seen == 64 if on_trouble == "note" else outcome.images_seen < 64
    assert outcome.rollbacks == ()


def test_held_out_images_are_never_learnt_from_but_looked_at(
    prepared: Prepare, configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(configured(images=8 * 30), held_out=0.2)
    training = Training(prepared(100), config, torch.device("cpu"))
    assert 8 <= len(training.held_out) <= 40
    assert set(training.learnt.tolist()).isdisjoint(training.held_out.tolist())
    seen: set[int] = set()
    batch = training.images.batch

    def noted(indices: Tensor) -> tuple[Tensor, Tensor | None]:
        seen.update(indices.tolist())
        return batch(indices)

    monkeypatch.setattr(training.images, "batch", noted)
    for _ in range(30):
        training.step()
    assert seen == set(training.learnt.tolist())
    before = training.state()
    gauges = training.overfitting()
    assert "D_held_out_logit" in gauges
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.state().items())


def test_a_share_that_holds_out_next_to_nothing_is_refused(prepared: Prepare, configured: Configure) -> None:
    with pytest.raises(InvalidOption, match="held_out"):
        Training(prepared(8), replace(configured(), held_out=0.1), torch.device("cpu"))
