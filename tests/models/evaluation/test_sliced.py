"""Sliced Wasserstein distance, of points and of patches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.evaluation.sliced import patch_distance, sliced_wasserstein


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pictures(count: int, seed: int, channels: int = 1, resolution: int = 32) -> Tensor:
    """Blobs of noise, uint8 [N, C, H, W]."""
    noise = torch.rand(count, channels, resolution // 4, resolution // 4, generator=_random(seed))
    sharp = F.interpolate(noise, size=(resolution, resolution), mode="nearest")
    return (sharp * 255).to(torch.uint8)


def test_on_a_line_it_is_the_area_between_the_distribution_functions() -> None:
    """Given {0, 2} and {1, 5}, I expect (1 + 3) / 2; given {0} and {0, 0, 3, 3}, half a mass over 3."""
    line = {"random": _random(), "slices": 3}
    first, second = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [1.0]])
    assert sliced_wasserstein(first, second, **line) == pytest.approx(2)  # type: ignore[arg-type] # two keywords
    uneven = torch.tensor([[0.0], [3.0], [0.0], [3.0]])
    assert sliced_wasserstein(torch.tensor([[0.0]]), uneven, random=_random()) == pytest.approx(1.5)


def test_a_shift_is_seen_by_its_length_along_each_direction() -> None:
    """E|cos| of a direction in the plane is 2 / π."""
    points = torch.randn(100, 2, generator=_random(1))
    moved = points + torch.tensor([3.0, 4.0])
    assert sliced_wasserstein(points, moved, random=_random(), slices=4000) == pytest.approx(5 * 2 / torch.pi, rel=0.03)


def test_order_does_not_matter_and_equal_sets_are_no_distance_apart() -> None:
    first, second = torch.randn(30, 5, generator=_random(1)), 2 * torch.randn(50, 5, generator=_random(2))
    there = sliced_wasserstein(first, second, random=_random())
    back = sliced_wasserstein(second, first, random=_random())
    assert there == pytest.approx(back, rel=1e-6)
    assert sliced_wasserstein(first, first.flip(0), random=_random()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("channels", "resolution"), [(1, 32), (3, 96)])
def test_blur_is_seen_in_patches(channels: int, resolution: int) -> None:
    sharp, more = (_pictures(60, seed, channels, resolution) for seed in (1, 2))
    blurred = F.avg_pool2d(more.float(), 5, stride=1, padding=2, count_include_pad=False).to(torch.uint8)
    floor = patch_distance(more, sharp, seed=0)
    assert 3 * floor < patch_distance(blurred, sharp, seed=0)
    assert patch_distance(more, sharp, seed=0) == floor


def test_wrong_contrast_is_seen_in_patches() -> None:
    pictures, more = _pictures(60, 1), _pictures(60, 2)
    assert 3 * patch_distance(more, pictures, seed=0) < patch_distance(more // 2 + 64, pictures, seed=0)
