"""The Fréchet distance, against what can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.evaluation.frechet import frechet_distance, frechet_distance_of_moments, moments


def _matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _draw(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gaussians_with_diagonal_covariances() -> None:
    """Given N((0, 0), diag(4, 9)) and N((3, 4), diag(1, 16)), I expect 3² + 4² + (2 - 1)² + (3 - 4)² = 27."""
    zero, shifted = torch.zeros(2, dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64)
    found = frechet_distance_of_moments(zero, torch.diag(_matrix([4, 9])[0]), shifted, torch.diag(_matrix([1, 16])[0]))
    assert found == pytest.approx(27, abs=1e-12)


def test_covariances_that_do_not_commute() -> None:
    """In two dimensions Tr (Σ₁Σ₂)^½ is the root of Tr Σ₁Σ₂ + 2 (det Σ₁Σ₂)^½."""
    first, second = _matrix([2, 1], [1, 3]), _matrix([5, -2], [-2, 1])
    assert not torch.allclose(first @ second, second @ first)
    product = first @ second
    cross = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    mean = torch.zeros(2, dtype=torch.float64)
    found = frechet_distance_of_moments(mean, first, mean, second)
    assert found == pytest.approx(float(first.trace() + second.trace()) - 2 * cross, abs=1e-12)


def test_moments_are_the_mean_and_the_unbiased_covariance() -> None:
    mean, covariance = moments(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    assert mean.tolist() == [1, 2]
    assert covariance.tolist() == [[2, 4], [4, 8]]


def test_equal_sets_are_no_distance_apart_and_a_shift_is_its_square() -> None:
    features = _draw(50, 8, seed=1)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(features, features + 3) == pytest.approx(8 * 9, rel=1e-9)


def test_order_does_not_matter() -> None:
    first, second = _draw(40, 6, seed=1), _draw(60, 6, seed=2) * 2 + 1
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-9)


def test_fewer_images_than_features_still_give_a_number_and_a_floor_that_falls_with_n() -> None:
    """Covariances without an inverse: where a root taken of Σ₁Σ₂ itself turns complex."""
    few = frechet_distance(_draw(10, 64, seed=1), _draw(10, 64, seed=2))
    many = frechet_distance(_draw(2000, 64, seed=1), _draw(2000, 64, seed=2))
    assert 0 < many < 5 < 20 < few < 200


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least two images, got 1"):
        frechet_distance(_draw(1, 4, seed=1), _draw(5, 4, seed=2))
