"""A training begins with another model's weights: what is taken, what stays fixed, what does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from models.catalog import KINDS, parse_options
from models.checkpoint import RECORD, STATE, load
from models.config import TrainingConfig
from models.errors import BadCheckpoint, InvalidOption, NoCheckpoint
from models.freezing import count_layers
from models.generator import WEIGHTS
from models.objective import Discriminates, Shape
from models.options import DISCRIMINATOR_SHAPE, GENERATOR_SHAPE
from models.registry import build_objective
from models.source import Source
from models.trainer import train
from models.training import Training
from tests.models.conftest import SMALL, Prepare

Configure = Callable[..., TrainingConfig]
CPU = torch.device("cpu")


def alone(checkpoint: Path, directory: Path) -> Path:
    """A copy without what only a training needs."""
    shutil.copytree(checkpoint, directory)
    for name in (RECORD, STATE):
        (directory / name).unlink()
    return directory


def begun(prepared: Prepare, config: TrainingConfig, source: Path, **data: int) -> Training:
    training = Training(prepared(8, **data), config, CPU)
    training.inherit(Source.read(source))
    return training


@pytest.mark.parametrize("name", KINDS)
def test_all_networks_are_taken_and_optimizers_start_anew(
    name: str, prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    config = configured(name, images=32)
    source = train(prepared(8), config, tmp_path / "source").checkpoint
    training, there = begun(prepared, replace(config, seed=8), source), load(source)
    own = training.state()
    for key, tensor in there.state.items():
        if ".weights." in key or key.startswith("average."):
            assert torch.equal(own[key], tensor), key
    assert not any(".optimizer." in key for key in own)
    assert training.origin is not None
    assert training.origin.discriminator is isinstance(training.objective, Discriminates)
    training.step()


@pytest.mark.parametrize(
    ("name", "remedies"),
    [
        *((name, {}) for name in KINDS if name != "vae-sigma"),
        ("gan-dcgan", {"penalty": "r1-r2", "spectral_norm": True}),
    ],
)
def test_the_lowest_layers_of_the_discriminator_stay_as_they_are(
    name: str, remedies: dict[str, object], prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    """Given no wish, when a few steps are taken, I expect half of the layers unchanged and others to have learnt."""
    config = configured(name, images=32, options=remedies)
    source = train(prepared(8), config, tmp_path / "source").checkpoint
    training = begun(prepared, config, source)
    objective = training.objective
    assert isinstance(objective, Discriminates)
    assert training.origin is not None
    assert 0 < training.origin.frozen_layers == count_layers(objective.discriminators) // 2
    (judge,) = objective.discriminators
    before = {key: weight.detach().clone() for key, weight in judge.named_parameters()}
    for _ in range(3):
        training.step()
    changed = {key for key, weight in judge.named_parameters() if not torch.equal(weight, before[key])}
    fixed = {key for key, weight in judge.named_parameters() if not weight.requires_grad}
    assert any(key.startswith("layers.0.") for key in fixed)
    assert not fixed & changed
    assert any(key.startswith("layers.") for key in changed)


def test_the_head_start_keeps_the_average_and_the_ramps_going(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    """Given a VAE whose KL weight had arrived, I expect it not to begin at nothing again, nor the average to be forgotten."""
    config = configured("vae-sigma", images=64, options={"kl_warmup_images": 64})
    source = train(prepared(8), config, tmp_path / "source").checkpoint
    training = begun(prepared, config, source)
    training.step()
    assert training.read_gauges()["KL_weight"] == 1.0
    weight = next(training.average.network.parameters())
    assert not torch.equal(weight, next(training.objective.generator.parameters()))


def test_a_generator_alone_is_learnt_from_as_it_is_sampled_and_judged_afresh(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    config = configured(images=32)
    source = alone(train(prepared(8), config, tmp_path / "source").checkpoint, tmp_path / "alone")
    other = configured(images=32, options={"minibatch_stddev": True})
    training = begun(prepared, other, source)
    assert training.origin is not None
    assert (training.origin.discriminator, training.origin.frozen_layers) == (False, 0)
    averaged = Source.read(source).averaged
    for network in (training.objective.generator, training.average.network):
        assert all(torch.equal(tensor, averaged[key]) for key, tensor in network.state_dict().items())
    with pytest.raises(InvalidOption, match=r"freeze_layers: 1 asked for.*generator alone.*newest checkpoint"):
        begun(prepared, configured(options={"freeze_layers": 1}), source)


def test_classes_go_by_their_names(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    """Given a model of two classes, when three are learnt, I expect two embeddings as they were and a fresh one."""
    config = configured(images=32)
    source = train(prepared(8, classes=2), config, tmp_path / "source").checkpoint
    fresh, training = Training(prepared(8, classes=3), config, CPU), begun(prepared, config, source, classes=3)
    assert training.origin is not None
    assert training.origin.fresh_classes == ("class 2",)
    assert "1 classes new to it (class 2)" in training.card.notes[0]
    theirs = load(source).state
    for phase in ("D", "G"):
        key = f"{phase}.weights.embedding.weight"
        assert torch.equal(training.state()[key][:2], theirs[key])
        assert torch.equal(training.state()[key][2], fresh.state()[key][2])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("there", "here"), [(2, 0), (0, 2)])
def test_labels_may_come_in_or_be_left_out(
    name: str, there: int, here: int, prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    config = configured(name, images=32)
    source = train(prepared(8, classes=there), config, tmp_path / "source").checkpoint
    training = begun(prepared, config, source, classes=here)
    if here:  # its inputs begin at zero, so the pictures are what they were
        latents = torch.randn(4, 8)
        before = Training(prepared(8, classes=0), config, CPU)
        before.restore(load(source))
        made = training.average.network(latents, torch.tensor([0, 1, 0, 1]))
        assert torch.allclose(made, before.average.network(latents), atol=1e-5)
    training.step()
    assert all(tensor.isfinite().all() for tensor in training.state().values())


@pytest.mark.parametrize("name", KINDS)
def test_options_that_shape_weights_are_known_as_such(name: str) -> None:
    """Given every option that is not known to shape weights, when it is changed, I expect no weight's shape to change."""

    def shapes(**changes: object) -> dict[str, tuple[int, ...]]:
        options = parse_options(name, {**SMALL[name], **changes})
        phases = build_objective(name, options, Shape(32, 1, 0), CPU).phases
        return {key: tuple(tensor.shape) for phase in phases for key, tensor in phase.module.state_dict().items()}

    others = {
        "schedule": "cosine", "loss": "wasserstein", "penalty": "r1", "penalty_form": "finite-difference",
        "augment": "translation", "mirror": True, "block": "dense", "spectral_norm": True, "minibatch_stddev": True,
        "discriminator_learning_rate": 1e-3, "beta1": 0.25,
    }  # fmt: skip
    usual = shapes()
    for option, value in parse_options(name, SMALL[name]).model_dump().items():
        if option in {"conditional", "freeze_layers", "precision"}:
            continue
        number = value * 2 if isinstance(value, int | float) and value else 1
        changed = shapes(**{option: others.get(option, number)})
        if option not in GENERATOR_SHAPE | DISCRIMINATOR_SHAPE:
            assert changed == usual, option


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "gan-r3"}, r"kind: gan-r3 cannot begin with the weights of a gan-dcgan"),
        (
            {"options": {"base_channels": 8}},
            r"base_channels: 8 asked for, but .* built with 4 \(accepted: 4, or no init",
        ),
        ({"options": {"spectral_norm": True}}, r"spectral_norm: True asked for"),
        ({"options": {"freeze_layers": 9}}, r"freeze_layers: 9 of the discriminator's 4 layers \(accepted: 0 to 3\)"),
    ],
)
def test_what_does_not_fit_is_named_with_the_remedy(
    change: dict[str, object], says: str, prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    source = train(prepared(8), configured(images=8), tmp_path / "source").checkpoint
    kind = str(change.get("kind", "gan-dcgan"))
    with pytest.raises(InvalidOption, match=says):
        begun(prepared, configured(kind, options=change.get("options")), source)


def test_pictures_of_another_colour_do_not_fit(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    source = train(prepared(8), configured(images=8), tmp_path / "source").checkpoint
    with pytest.raises(InvalidOption, match=r"channels: 3 asked for, but the model to begin with makes pictures of 1"):
        begun(prepared, configured(), source, channels=3)


def test_layers_are_only_frozen_where_they_have_learnt(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption, match="2 layers with fresh weights would never learn"):
        train(prepared(8), configured(options={"freeze_layers": 2}), tmp_path)


def test_what_holds_no_model_or_a_damaged_one_is_refused(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    with pytest.raises(NoCheckpoint, match="no model to begin with is in"):
        Source.read(tmp_path)
    source = train(prepared(8), configured(images=8), tmp_path / "source").checkpoint
    for name in (WEIGHTS, STATE):
        damaged = shutil.copytree(source, tmp_path / f"damaged-{name}")
        (damaged / name).write_bytes((damaged / name).read_bytes()[:-1])
        with pytest.raises(BadCheckpoint, match="torn"):
            Source.read(damaged)


def test_frozen_layers_stay_frozen_after_another_phase(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    """Given a phase that only looks through the discriminator, I expect it to leave what is fixed fixed."""
    source = train(prepared(8), configured(images=8), tmp_path / "source").checkpoint
    training = begun(prepared, configured(options={"freeze_layers": 1}), source)
    assert isinstance(training.objective, Discriminates)
    first = training.objective.discriminators[0].get_submodule("layers.0")
    training.step()
    assert isinstance(first, nn.Conv2d)
    assert not first.weight.requires_grad
