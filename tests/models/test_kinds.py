"""The battery that every kind in the catalogue passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.catalog import KINDS, kind, parse_options
from models.checkpoint import latest
from models.config import TrainingConfig
from models.data import PreparedImages
from models.generator import Generator, GeneratorCard, save_generator
from models.objective import Batch, Shape
from models.registry import build_generator, build_objective
from models.sampling import SampleItem, Sampler
from models.training import Training
from tests.models.conftest import SMALL, Prepare

Configure = Callable[..., TrainingConfig]
CPU = torch.device("cpu")

#: What kinds would only do after more images than the battery has.
AT_ONCE: dict[str, dict[str, object]] = {
    "gan-r3": {"base_channels": 12, "label_ramp_images": 0, "schedule": "constant"},
    "gan-fewshot": {"augment": "none", "mode_seeking": 0.0},
}

pytestmark = pytest.mark.parametrize("name", KINDS)


@pytest.mark.parametrize(
    ("classes", "steps", "left"),
    [
        pytest.param(8, 60, 0.25, id="told which picture to make"),
        pytest.param(0, 150, 0.8, id="told nothing", marks=pytest.mark.slow),
    ],
)
def test_it_overfits_eight_images(
    name: str, classes: int, steps: int, left: float, prepared: Prepare, configured: Configure
) -> None:
    """Given eight pictures, when trained on them alone, I expect what is developed to come much closer to them."""
    data = prepared(8, classes=classes)
    options = {"base_channels": 16, "batch_size": 16, "learning_rate": 1e-3, "ema_halflife_images": 200}
    training = Training(data, configured(name, options=options | AT_ONCE.get(name, {})), CPU)
    before = _distance(training.sampled(), data)

    for _ in range(steps):
        training.step()

    after = _distance(training.sampled(), data)
    assert after < left * before, f"the mean squared distance only went from {before:.3f} to {after:.3f}"


def test_losses_are_finite_and_named(name: str, prepared: Prepare, configured: Configure) -> None:
    training = Training(prepared(8), configured(name), CPU)
    for _ in range(10):
        training.step()
    losses, gauges = training.read_losses(), training.read_gauges()
    assert losses
    assert len(gauges) > len(training.objective.phases)
    assert not gauges.keys() & losses.keys()
    assert all(math.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("classes", [0, 2])
def test_equal_seeds_give_equal_weights_and_pixels(
    name: str, classes: int, prepared: Prepare, configured: Configure
) -> None:
    first, second = (Training(prepared(8, classes=classes), configured(name), CPU) for _ in range(2))
    other = Training(prepared(8, classes=classes), replace(configured(name), seed=8), CPU)
    for training in (first, second, other):
        torch.manual_seed(torch.seed())  # the world outside must not matter
        for _ in range(3):
            training.step()
    assert _same(first, second)
    assert not _same(first, other)
    assert _developed(first).tobytes() == _developed(second).tobytes()
    assert _developed(first).tobytes() != _developed(other).tobytes()


def test_in_bfloat16_it_learns_too_with_weights_and_losses_in_float32(
    name: str, prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    """Given bf16, I expect other bits than in fp32, close by, penalties included, and the same bits after going on."""
    data = prepared(21)
    precise = Training(data, configured(name, options={"precision": "fp32"}), CPU)
    config = configured(name, options={"precision": "bf16"})
    lowered = Training(data, config, CPU)
    for training in (precise, lowered):
        training.step()
    losses, exact = lowered.read_losses(), precise.read_losses()
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.1, abs=0.1)
    assert all(tensor.dtype != torch.bfloat16 for tensor in lowered.state().values())

    lowered.save(tmp_path)
    resumed, found = Training(data, config, CPU), latest(tmp_path)
    assert found is not None
    resumed.restore(found)
    for training in (lowered, resumed):
        training.step()
    assert _same(lowered, resumed)


@pytest.mark.parametrize("classes", [0, 2])
def test_stopping_and_going_on_gives_the_bits_of_a_run_that_never_stopped(
    name: str, classes: int, prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    """Given N steps, a checkpoint, and N steps in a new process's place, I expect 2N steps, in the middle of an epoch too."""
    data, config = prepared(21, classes=classes), configured(name, options={"mirror": True})  # 21 is no multiple of 8
    straight = Training(data, config, CPU)
    for _ in range(7):
        straight.step()

    begun = Training(data, config, CPU)
    for _ in range(4):
        begun.step()
    begun.save(tmp_path)
    resumed = Training(data, config, CPU)
    found = latest(tmp_path)
    assert found is not None
    resumed.restore(found)
    assert _same(begun, resumed)
    for _ in range(3):
        resumed.step()

    assert resumed.images_seen == straight.images_seen
    assert _same(straight, resumed)


@pytest.mark.parametrize(("channels", "classes"), [(1, 3), (3, 0)])
def test_an_exported_generator_comes_back_the_same(
    name: str, channels: int, classes: int, prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    training = Training(prepared(8, classes=classes, channels=channels), configured(name), CPU)
    training.step()
    generator = training.sampled()
    save_generator(tmp_path, generator.network, generator.card, generator.prior)

    loaded = Generator.load(tmp_path)

    assert (loaded.kind, loaded.resolution, loaded.channels, loaded.images_seen) == (name, 32, channels, 8)
    assert loaded.classes == (["class 0", "class 1", "class 2"] if classes else None)
    assert loaded.latent_dim == SMALL[name]["latent_dim"]
    assert loaded.size_bytes > 0
    items = [SampleItem(seed) for seed in range(5)]
    for ours, theirs in zip(Sampler(generator).sample(items), Sampler(loaded).sample(items), strict=True):
        assert ours.label == theirs.label
        assert ours.pixels.tobytes() == theirs.pixels.tobytes()


@pytest.mark.parametrize("classes", [0, 2])
def test_every_resolution_and_channel_count_can_be_built_and_learnt_from(name: str, classes: int) -> None:
    options = parse_options(name, SMALL[name])
    for resolution in kind(name).resolutions:
        for channels in kind(name).channels:
            shape = Shape(resolution, channels, classes)
            objective = build_objective(name, options, shape, CPU)
            labels = torch.tensor([0, 1]) if classes else None
            images, latents = torch.zeros(2, channels, resolution, resolution), torch.randn(2, options.latent_dim)
            batch = Batch(images, labels, latents, torch.Generator(), fraction=1.0)
            for phase in objective.phases:
                losses = phase.losses(batch)
                torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call] # torch's own gap
                assert all(weight.grad is not None for weight in phase.module.parameters()), phase.name
                phase.module.zero_grad()
            pictures = objective.generator(batch.latents, labels)
            assert pictures.shape == (2, channels, resolution, resolution)
            assert pictures.abs().max() <= 1


def test_labels_change_the_picture(name: str) -> None:
    options = parse_options(name, SMALL[name])
    card = GeneratorCard(
        kind=name,
        options=options.model_dump(),
        resolution=32,
        channels=1,
        classes=["a", "b"],
        images_seen=0,
    )
    generator = Generator(build_generator(name, options, card.shape), card)
    latents = torch.randn(1, options.latent_dim)
    first, second = (generator.synthesize(latents, torch.tensor([label])) for label in (0, 1))
    assert not torch.equal(first, second)


def _same(first: Training, second: Training) -> bool:
    """Every tensor that decides the next step, bit for bit."""
    ours, theirs = first.state(), second.state()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _developed(training: Training) -> NDArray[np.uint8]:
    pictures = Sampler(training.sampled(), buckets=(8,)).sample([SampleItem(seed) for seed in range(4)])
    return np.stack([picture.pixels for picture in pictures])


def _distance(generator: Generator, data: PreparedImages) -> float:
    """Mean squared distance, in half ranges, to the real picture of the class, or to the nearest without classes."""
    made = Sampler(generator).sample([SampleItem(seed, seed % 8 if generator.classes else None) for seed in range(32)])
    ours = np.stack([picture.pixels for picture in made]).reshape(32, -1) / 127.5
    real = np.asarray(data.images, dtype=np.float64).reshape(len(data), -1) / 127.5
    distances = ((ours[:, None] - real[None]) ** 2).mean(axis=2)  # (32, N)
    own = distances[np.arange(32), np.arange(32) % 8] if generator.classes else distances.min(axis=1)
    return float(own.mean())
