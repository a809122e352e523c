"""Penalties measure slopes: exactly where the slope is known, and by differences as by backpropagation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.gan.penalties import squared_slope, squared_slope_along, unit_slope

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _linear(images: Tensor) -> Tensor:
    """A slope of 0.5 at each of 192 numbers: 48 squared."""
    return images.flatten(1).sum(dim=1) * 0.5


def test_the_squared_slope_of_a_plane_is_known() -> None:
    assert squared_slope(_linear, IMAGES).item() == pytest.approx(0.25 * 192, rel=1e-5)


def test_a_unit_slope_costs_nothing_and_others_their_distance() -> None:
    random = torch.Generator().manual_seed(0)
    unit = unit_slope(lambda images: _linear(images) / 48**0.5, IMAGES, -IMAGES, random)
    assert unit.item() == pytest.approx(0, abs=1e-6)
    assert unit_slope(_linear, IMAGES, -IMAGES, random).item() == pytest.approx((48**0.5 - 1) ** 2, rel=1e-4)


def test_differences_agree_with_backpropagation_in_the_mean() -> None:
    """Given a curved discriminator, when many directions are averaged, I expect the exact penalty within a few percent."""
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 36, 1), nn.Flatten(0))
    exact = squared_slope(judge, IMAGES).item()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        logits = judge(IMAGES)
        draws = [squared_slope_along(judge, logits, IMAGES, random).item() for _ in range(800)]
    assert sum(draws) / len(draws) == pytest.approx(exact, rel=0.1)


def test_penalties_teach_the_discriminator_and_not_the_pictures() -> None:
    judge = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 36, 1), nn.Flatten(0))
    images = IMAGES.clone().requires_grad_(True)
    squared_slope(judge, images).backward()  # type: ignore[no-untyped-call]
    assert images.grad is None
    weight = judge[0].weight
    assert isinstance(weight, Tensor)
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_a_judge_of_patches_is_as_steep_as_one_of_pictures() -> None:
    def patches(images: Tensor) -> Tensor:
        return _linear(images)[:, None].expand(-1, 16).flatten()

    assert squared_slope(patches, IMAGES).item() == pytest.approx(squared_slope(_linear, IMAGES).item(), rel=1e-5)
