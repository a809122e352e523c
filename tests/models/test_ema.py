"""The average follows the weights with a half-life counted in images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.ema import ExponentialMovingAverage


def _ones_after_zeros(halflife_images: float) -> tuple[ExponentialMovingAverage, nn.Module]:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for weight in network.parameters():
        nn.init.zeros_(weight)
    average = ExponentialMovingAverage(network, halflife_images=halflife_images)
    for weight in network.parameters():
        nn.init.ones_(weight)
    return average, network


@pytest.mark.parametrize("batch_size", [10, 50, 100])
def test_after_a_half_life_the_old_weights_count_half_whatever_the_batch(batch_size: int) -> None:
    average, network = _ones_after_zeros(halflife_images=100)
    for _ in range(100 // batch_size):
        average.update(network, images_seen=1_000_000, batch_size=batch_size)
    assert torch.allclose(average.network[0].weight, torch.full((2, 2), 0.5))  # type: ignore[index] # a Sequential


def test_early_on_the_half_life_is_a_twentieth_of_what_was_seen() -> None:
    average, network = _ones_after_zeros(halflife_images=10_000)
    average.update(network, images_seen=2_000, batch_size=100)
    assert torch.allclose(average.network[0].weight, torch.full((2, 2), 0.5))  # type: ignore[index] # a Sequential


def test_no_half_life_is_no_average() -> None:
    average, network = _ones_after_zeros(halflife_images=0)
    average.update(network, images_seen=10, batch_size=10)
    assert all(bool((weight == 1).all()) for weight in average.network.parameters())


def test_running_statistics_are_copied_and_the_network_is_left_alone() -> None:
    average, network = _ones_after_zeros(halflife_images=10_000)
    network(torch.randn(8, 2))
    average.update(network, images_seen=1_000_000, batch_size=8)
    for ours, theirs in zip(average.network.buffers(), network.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert all(bool((weight == 1).all()) for weight in network.parameters())
    assert not average.network.training
    assert network.training
