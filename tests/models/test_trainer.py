"""The loop spends its budget, says how it stands, and can be stopped and gone on with at any step."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.checkpoint import best, latest, load
from models.config import TrainingConfig
from models.errors import BadCheckpoint, InvalidOption, ResolutionTooHigh, TrainingDiverged
from models.generator import Generator
from models.objective import Batch
from models.trainer import Outcome, Tick, train
from models.training import Training
from tests.models.conftest import Prepare

Configure = Callable[..., TrainingConfig]


def _stop_after(steps: int) -> Callable[[], bool]:
    """A should_stop that lets `steps` steps happen."""
    left = iter([False] * steps)
    return lambda: next(left, True)


def _brightness(generator: Generator) -> dict[str, float]:
    """A measure that makes a picture, as all do."""
    return {
        "fd_domain": generator.render(torch.zeros(1, generator.latent_dim), torch.tensor([0])).float().mean().item()
    }


def _files(outcome: Outcome) -> dict[str, bytes]:
    """The bytes of both tensor files of the last checkpoint."""
    return {path.name: path.read_bytes() for path in outcome.checkpoint.glob("*.safetensors")}


def test_a_run_in_pieces_ends_with_the_bytes_of_a_run_in_one(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    """Given 21 images and batches of 8, when stopped in the middle of epochs again and again, I expect the very same files."""
    data, config = prepared(21), configured(images=8 * 12)
    straight = train(data, config, tmp_path / "straight")
    assert straight.finished

    pieces = [train(data, config, tmp_path / "pieces", should_stop=_stop_after(steps)) for steps in (1, 4, 0, 3)]
    assert [piece.finished for piece in pieces] == [False] * 4
    assert [piece.images_seen for piece in pieces] == [8, 40, 40, 64]
    ended = train(data, config, tmp_path / "pieces")

    assert ended.finished
    assert ended.images_seen == straight.images_seen == 96
    assert _files(ended) == _files(straight)


def test_work_done_by_the_clock_changes_no_bit(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    """Given a tick, a preview, a checkpoint and maybe a measurement at every step, I expect the weights of a quiet run."""
    data, config = prepared(21), configured(images=8 * 5)
    often = replace(
        config,
        tick_interval_s=0,
        preview_interval_s=0,
        checkpoint_interval_s=0,
        evaluation_interval_s=0,
        evaluation_share=0.5,
    )
    ticks: list[Tick] = []
    quiet = train(data, config, tmp_path / "quiet")
    busy = train(data, often, tmp_path / "busy", measure=_brightness, on_tick=ticks.append)
    assert len([tick for tick in ticks if tick.checkpoint and tick.preview]) == 6
    assert len([tick for tick in ticks if tick.scores]) > 1
    assert _files(busy) == _files(quiet)


def test_every_image_is_seen_once_before_any_is_seen_again(
    prepared: Prepare, configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(prepared(24), configured(), torch.device("cpu"))
    seen: list[int] = []
    batch = training.images.batch

    def noted(indices: Tensor) -> tuple[Tensor, Tensor | None]:
        seen.extend(indices.tolist())
        return batch(indices)

    monkeypatch.setattr(training.images, "batch", noted)
    for _ in range(6):
        training.step()
    assert sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))
    assert seen[:24] != seen[24:]


def test_ticks_tell_how_far_it_is(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    ticks: list[Tick] = []
    config = replace(configured(images=8 * 5), tick_interval_s=0)
    outcome = train(prepared(8), config, tmp_path, on_tick=ticks.append)
    assert [tick.images_seen for tick in ticks] == [0, 8, 16, 24, 32, 40]
    assert [tick.fraction for tick in ticks] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert all(tick.losses.keys() == {"D_real", "D_fake", "G"} for tick in ticks[1:])
    assert all(tick.gauges.keys() == {"D_real_logit", "D_fake_logit", "R_t", "lr_D", "lr_G"} for tick in ticks[1:])
    assert all(tick.images_per_s > 0 and tick.eta_s is not None for tick in ticks[1:])
    assert ticks[-1].eta_s == 0
    assert (ticks[-1].checkpoint, ticks[-1].preview) == (outcome.checkpoint, outcome.preview)
    assert ticks[-1].losses == outcome.losses


def test_at_the_end_there_are_a_model_and_a_preview(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    outcome = train(prepared(8), configured(images=16), tmp_path / "run")
    assert outcome.preview is not None
    assert outcome.preview.read_bytes().startswith(b"\x89PNG")
    generator = Generator.load(outcome.checkpoint)
    assert (generator.images_seen, generator.classes) == (16, ["class 0", "class 1"])
    assert not list((tmp_path / "run").glob("*unfinished*"))


def test_a_budget_that_is_spent_is_not_spent_again(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    data, config = prepared(8), configured(images=16)
    first, second = train(data, config, tmp_path), train(data, config, tmp_path)
    assert second.finished
    assert (second.images_seen, second.checkpoint) == (first.images_seen, first.checkpoint)


def test_a_larger_budget_goes_on(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    data = prepared(8)
    train(data, configured(images=16), tmp_path / "on")
    longer = train(data, configured(images=32), tmp_path / "on")
    assert longer.images_seen == 32
    assert _files(longer) == _files(train(data, configured(images=32), tmp_path / "straight"))


def test_a_budget_of_seconds_counts_all_attempts(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    """Given a budget of 0.6 s, when each attempt is stopped after a step, I expect the sum of them to end it."""
    data, config = prepared(8), replace(configured(), budget_images=None, budget_s=0.6)
    outcomes = []
    for _ in range(500):
        outcomes.append(train(data, config, tmp_path, should_stop=_stop_after(1)))
        if outcomes[-1].finished:
            break
    elapsed, last = [outcome.elapsed_s for outcome in outcomes], outcomes[-1]
    assert last.finished
    assert len(outcomes) > 2
    assert elapsed == sorted(elapsed)
    assert elapsed[-1] >= 0.6
    # The checkpoint says so too, unless there was no time for a step since the one before, and so nothing new to keep.
    assert load(last.checkpoint).record.elapsed_s >= 0.6 or last.images_seen == outcomes[-2].images_seen


def test_a_torn_checkpoint_costs_only_the_steps_since_the_one_before(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    data, config = prepared(21), configured(images=8 * 6)
    train(data, config, tmp_path / "torn", should_stop=_stop_after(2))
    second = train(data, config, tmp_path / "torn", should_stop=_stop_after(2))
    (second.checkpoint / "training.safetensors").write_bytes(b"torn")
    seen: list[Tick] = []
    outcome = train(data, replace(config, tick_interval_s=0), tmp_path / "torn", on_tick=seen.append)
    assert seen[0].images_seen == 16
    assert _files(outcome) == _files(train(data, config, tmp_path / "straight"))


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_last_good_checkpoint(
    prepared: Prepare, configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.gan.dcgan import DcganObjective

    data, config = prepared(8), configured(images=8 * 100)
    good = train(data, config, tmp_path, should_stop=_stop_after(3))
    real_losses = DcganObjective.generator_losses

    def spoilt(self: DcganObjective, batch: Batch) -> dict[str, Tensor]:
        return {name: loss * float("nan") for name, loss in real_losses(self, batch).items()}

    monkeypatch.setattr(DcganObjective, "generator_losses", spoilt)
    often = replace(config, tick_interval_s=0, checkpoint_interval_s=0)
    with pytest.raises(TrainingDiverged, match=r"learning_rate") as caught:
        train(data, often, tmp_path)
    assert caught.value.images_seen == 32
    found = latest(tmp_path)
    assert found is not None
    assert found.path == good.checkpoint


def test_a_checkpoint_of_weights_that_are_no_numbers_is_never_written(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    training = Training(prepared(8), configured(), torch.device("cpu"))
    with torch.no_grad():
        next(training.objective.generator.parameters())[0] = float("nan")
    with pytest.raises(TrainingDiverged):
        training.save(tmp_path)
    assert latest(tmp_path) is None


def test_scores_are_of_a_checkpoint_and_the_best_one_is_kept(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    scores = iter([3.0, 1.0, 2.0, 2.5, 4.0, 5.0, 6.0, 7.0])
    config = replace(configured(images=8 * 7), evaluation_interval_s=0, evaluation_share=0.5)
    ticks: list[Tick] = []

    def measure(generator: Generator) -> dict[str, float]:
        return {"fd_domain": next(scores)}

    outcome = train(prepared(8), config, tmp_path, measure=measure, on_tick=ticks.append)

    measured = [tick for tick in ticks if tick.scores]
    assert len(measured) > 2
    assert all(tick.checkpoint is not None for tick in measured)
    favourite = best(tmp_path)
    assert favourite == measured[1].checkpoint
    assert favourite is not None
    assert Generator.load(favourite).images_seen == measured[1].images_seen
    assert outcome.checkpoint != favourite
    assert len(list(tmp_path.glob("ckpt-*"))) == 3


def test_patience_ends_a_training_before_its_budget(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    config = replace(configured(images=8 * 10_000), evaluation_interval_s=0, evaluation_share=0.5, patience=2)
    outcome = train(prepared(8), config, tmp_path, measure=lambda generator: {"fd_domain": 1.0})
    assert (outcome.finished, outcome.gave_up) == (True, True)
    assert outcome.images_seen < 8 * 10_000


def test_what_on_tick_raises_ends_the_training(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    def lost(tick: Tick) -> None:
        raise PermissionError("the lease is lost")

    with pytest.raises(PermissionError):
        train(prepared(8), configured(images=16), tmp_path, on_tick=lost)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"seed": 8}, "seed 7 there, 8 asked for"), ({"options": {"beta1": 0.0}}, "options"), ({"images": 99}, None)],
)
def test_a_run_of_other_settings_is_not_gone_on_with(
    change: dict[str, object], said: str | None, prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    data = prepared(8)
    train(data, configured(images=8), tmp_path)
    seed = change.pop("seed", None)
    config = configured(**change)
    config = config if seed is None else replace(config, seed=8)
    if said is None:
        assert train(data, config, tmp_path).finished
    else:
        with pytest.raises(BadCheckpoint, match=said):
            train(data, config, tmp_path)


def test_a_run_on_other_images_is_not_gone_on_with(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    train(prepared(8), configured(images=8), tmp_path)
    with pytest.raises(BadCheckpoint, match="other images"):
        train(prepared(9), configured(images=16), tmp_path)


def test_labels_are_left_out_on_request_and_demanded_in_vain(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    free = train(prepared(8), configured(images=8, options={"conditional": False}), tmp_path / "free")
    assert Generator.load(free.checkpoint).classes is None
    with pytest.raises(InvalidOption, match="these images have no labels"):
        train(prepared(8, classes=0), configured(options={"conditional": True}), tmp_path / "bound")


def test_more_pixels_than_were_prepared_are_refused(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    with pytest.raises(ResolutionTooHigh):
        train(prepared(8), replace(configured(), resolution=64), tmp_path)


def test_larger_prepared_images_are_scaled_down(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    outcome = train(prepared(8, resolution=64, channels=3), configured(images=8), tmp_path)
    assert (Generator.load(outcome.checkpoint).resolution, Generator.load(outcome.checkpoint).channels) == (32, 3)


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"budget_images": None}, "budget"),
        ({"budget_images": 0}, "budget_images"),
        ({"budget_s": float("nan")}, "budget_s"),
        ({"budget_s": -1.0}, "budget_s"),
        ({"evaluation_share": 0.6}, "evaluation_share"),
        ({"patience": 0}, "patience"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
    ],
)
def test_a_budget_or_seed_out_of_bounds_is_refused(
    change: dict[str, object], parameter: str, configured: Configure
) -> None:
    with pytest.raises(InvalidOption) as caught:
        replace(configured(), **change)  # type: ignore[arg-type] # wrong on purpose
    assert caught.value.parameter == parameter


def test_a_configuration_survives_json(configured: Configure) -> None:
    config = configured()
    assert TrainingConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
