"""KID, against sums written out, and for what it promises on average."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.evaluation.kernel import kernel_distance, polynomial_mmd


def _draw(count: int, seed: int, size: int = 4) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_estimator_is_the_papers_sum() -> None:
    """Given sets of different sizes, I expect what two nested loops over pairs give."""

    def kernel(x: Tensor, y: Tensor) -> float:
        return float((x @ y) / len(x) + 1) ** 3

    first, second = _draw(5, 1), _draw(3, 2) + 1
    within = sum(kernel(first[i], first[j]) for i in range(5) for j in range(5) if i != j) / 20
    within += sum(kernel(second[i], second[j]) for i in range(3) for j in range(3) if i != j) / 6
    across = sum(kernel(x, y) for x in first for y in second) / 15
    assert polynomial_mmd(first, second) == pytest.approx(within - 2 * across, rel=1e-12)


def test_two_pictures_each_by_hand() -> None:
    """Given x = 0, 1 and y = 0, 2 with one feature: k(0, ·) = 1, k(1, 2) = 27, so 1 + 1 - 2 (1 + 1 + 1 + 27) / 4 = -13."""
    assert polynomial_mmd(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])) == pytest.approx(-13)


def test_sets_of_one_distribution_are_0_apart_on_average_whatever_their_size() -> None:
    """Unbiased: the mean over many small sets lies within three standard errors of 0. A biased one is far above."""
    values = torch.tensor([polynomial_mmd(_draw(10, 2 * trial), _draw(10, 2 * trial + 1)) for trial in range(2000)])
    error = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean())) < 3 * error < 0.2
    assert (values < 0).any()


def test_distributions_that_differ_are_told_apart() -> None:
    mean, spread = kernel_distance(_draw(400, 1), _draw(400, 2), random=_random(), subsets=10, subset_size=200)
    assert abs(mean) < 0.05
    shifted, _ = kernel_distance(_draw(400, 1), _draw(400, 2) + 1, random=_random(), subsets=10, subset_size=200)
    assert shifted > 1 > 10 * spread


def test_subsets_follow_from_the_random_source_and_shrink_to_what_there_is() -> None:
    first, second = _draw(30, 1), _draw(20, 2)
    one, again = (kernel_distance(first, second, random=_random(5), subsets=4) for _ in range(2))
    assert one == again
    whole = polynomial_mmd(first[:20], second)
    alike, spread = kernel_distance(first[:20], second, random=_random(6), subsets=4)
    assert alike == pytest.approx(whole)
    assert spread == pytest.approx(0, abs=1e-9)
