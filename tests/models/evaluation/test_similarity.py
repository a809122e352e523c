"""MS-SSIM of two pictures, and of pairs in a set."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.evaluation.similarity import _draw_pairs, mean_pairwise_similarity, ms_ssim


def _noise(count: int, seed: int, channels: int = 1, resolution: int = 32) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, resolution, resolution), generator=random, dtype=torch.uint8)


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("channels", "resolution"), [(1, 16), (3, 32), (1, 64), (3, 96)])
def test_equal_pictures_are_1_and_noise_is_far_below(channels: int, resolution: int) -> None:
    first, second = (_noise(3, seed, channels, resolution) for seed in (1, 2))
    assert ms_ssim(first, first).tolist() == pytest.approx([1] * 3)
    assert ms_ssim(first, second).tolist() == pytest.approx(ms_ssim(second, first).tolist())
    assert (ms_ssim(first, second) < 0.3).all()


def test_flat_pictures_differ_by_their_luminance_alone() -> None:
    """Given 0.2 and 0.8, I expect l = (2 · 0.16 + C₁) / (0.04 + 0.64 + C₁) to the power of the last scale's weight."""
    dark, light = (torch.full((1, 1, 32, 32), value, dtype=torch.uint8) for value in (51, 204))
    luminance = (2 * 0.16 + 1e-4) / (0.04 + 0.64 + 1e-4)
    weight = 0.2856 / (0.0448 + 0.2856)
    assert float(ms_ssim(dark, light)) == pytest.approx(luminance**weight, rel=1e-3)


def test_pictures_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 11 pixels on a side, got 8"):
        ms_ssim(_noise(1, 1, resolution=8), _noise(1, 2, resolution=8))


def test_a_set_of_one_picture_again_and_again_is_not_varied() -> None:
    same = _noise(1, 1).expand(20, 1, 32, 32)
    assert mean_pairwise_similarity(same, None, random=_random(), pairs=50) == pytest.approx(1)
    assert mean_pairwise_similarity(_noise(20, 1), None, random=_random(), pairs=50) < 0.3


def test_with_labels_pairs_stay_within_a_class() -> None:
    """Given two classes of one picture each, repeated, I expect 1 within classes and less among all."""
    pictures = _noise(2, 1).repeat_interleave(10, dim=0)
    labels = torch.tensor([0] * 10 + [1] * 10)
    assert mean_pairwise_similarity(pictures, labels, random=_random(), pairs=50) == pytest.approx(1)
    assert mean_pairwise_similarity(pictures, None, random=_random(), pairs=50) < 0.9


def test_a_picture_is_never_paired_with_itself_and_classes_of_one_are_left_out() -> None:
    labels = torch.tensor([3, 0, 0, 1, 3, 3])
    first, second = _draw_pairs(6, labels, 500, _random())
    assert (first != second).all()
    assert (labels[first] == labels[second]).all()
    assert set(first.tolist()) == {0, 1, 2, 4, 5}
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    assert {(0, 4), (4, 0), (0, 5), (5, 0), (4, 5), (5, 4), (1, 2), (2, 1)} == pairs


def test_without_any_pair_there_is_no_number() -> None:
    assert math.isnan(mean_pairwise_similarity(_noise(2, 1), torch.tensor([0, 1]), random=_random()))
