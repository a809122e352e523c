"""Latents of every sort: the plain ones as they ever were, the others where they should lie."""

from __future__ import annotations

import hashlib

import pytest
import torch

from models.generator import Generator
from models.prior import MixturePrior
from models.sampling import Blend, SampleItem, Sampler, latents, latents_of
from tests.models.test_sampling import _generator

PLAIN = _generator()
PRIOR = MixturePrior(
    weights=torch.tensor([0.25, 0.75] * 3),
    owners=torch.tensor([0, 0, 1, 1, 2, 2]),
    means=torch.arange(6.0)[:, None].repeat(1, 100),
    scales=torch.eye(100).repeat(6, 1, 1) * torch.arange(1, 7.0)[:, None, None] / 4,
)
MIXED = Generator(PLAIN.network, PLAIN.card, PRIOR)
BOTH = pytest.mark.parametrize("generator", [PLAIN, MIXED], ids=["normal", "mixture"])


@pytest.mark.parametrize(
    ("generator", "digest", "labels"),
    [
        (PLAIN, "2432045d193cf04df560a3ed23c4ad9c2d20d4864bacf2e28caf951d6f785180", [1, 1, 2]),
        (MIXED, "b3afe01dc340ecf0dac410e3fab0f904e83b62ba0a2d9062d819ed066b8c06d8", [0, 1, 1]),
    ],
    ids=["normal", "mixture"],
)
def test_plain_seeds_give_the_latents_that_they_always_gave(
    generator: Generator, digest: str, labels: list[int]
) -> None:
    drawn, chosen = latents(generator, [0, 7, 2**32 - 1], [None, 1, None])
    assert hashlib.sha256(drawn.numpy().tobytes()).hexdigest() == digest
    assert chosen is not None
    assert chosen.tolist() == labels


@BOTH
def test_a_way_begins_and_ends_at_its_seeds(generator: Generator) -> None:
    ends, _ = latents(generator, [3, 4], [1, 1])
    way, _ = latents_of(generator, [SampleItem(3, 1, blend=Blend("slerp", 4, weight)) for weight in (0.0, 0.5, 1.0)])
    assert torch.equal(way[::2], ends)
    assert not torch.equal(way[1], way[0])


@BOTH
def test_a_variation_of_no_strength_is_its_seed_and_keeps_its_label(generator: Generator) -> None:
    ((of,), label), (varied, labels) = (
        latents(generator, [3], [None]),
        latents_of(
            generator,
            [SampleItem(seed, blend=Blend("variation", 3, weight)) for seed, weight in ((8, 0.0), (8, 0.5), (9, 0.5))],
        ),
    )
    assert label is not None
    assert labels is not None
    assert labels.tolist() == label.tolist() * 3
    assert torch.equal(varied[0], of)
    assert len({tuple(row.tolist()) for row in varied}) == 3


def test_truncation_moves_a_latent_towards_its_mean() -> None:
    (half, whole), _ = latents_of(PLAIN, [SampleItem(3, truncation=0.5), SampleItem(3)])
    assert torch.equal(half, whole / 2)
    (half, whole), _ = latents_of(MIXED, [SampleItem(3, 0, truncation=0.5), SampleItem(3, 0)])
    mean = min((0.0, 1.0), key=lambda mean: float((half - (whole + mean) / 2).abs().max()))
    assert torch.allclose(half, (whole + mean) / 2, atol=1e-5)


def test_blends_are_the_same_alone_and_in_company() -> None:
    sampler = Sampler(PLAIN)
    items = [
        SampleItem(3, 1, 0.7, Blend("slerp", 4, 0.3)),
        *map(SampleItem, range(9)),
        SampleItem(5, blend=Blend("variation", 3, 0.2)),
    ]
    together = sampler.sample(items)
    for place in (0, 10):
        (alone,) = sampler.sample([items[place]])
        assert alone.pixels.tobytes() == together[place].pixels.tobytes()
        assert alone.recipe == together[place].recipe == items[place].recipe
