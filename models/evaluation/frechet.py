"""Fréchet distance between two sets of features, each taken for a Gaussian.

Shapes: N and M images, F features; float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The squared Fréchet (2-Wasserstein) distance between Gaussians fitted to two sets of features.

        d² = |μ₁ - μ₂|² + Tr(Σ₁ + Σ₂ - 2 (Σ₁^½ Σ₂ Σ₁^½)^½)

    The product under the root is symmetric, so its eigenvalues are real and found to working precision even where Σ has no
    inverse. The estimate grows as the sets shrink: compare only values of equal N and M, and with their floor.

    Args:
        first: [N, F], at least two rows.
        second: [M, F], at least two rows.

    Returns:
        at least 0; 0 for equal sets.

    Source: Heusel et al. 2017, arXiv:1706.08500, equation (6); the form with the symmetric product is that of Dowson and
    Landau 1982.
    """
    if min(len(first), len(second)) < first.shape[1]:
        return _from_few(first, second)
    (first_mean, first_covariance), (second_mean, second_covariance) = moments(first), moments(second)
    return frechet_distance_of_moments(first_mean, first_covariance, second_mean, second_covariance)


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [F] and unbiased covariance [F, F], float64, of features [N, F]."""
    if features.shape[0] < 2:
        raise ValueError(f"a covariance needs at least two images, got {features.shape[0]}")
    features = features.double()
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance_of_moments(
    first_mean: Tensor, first_covariance: Tensor, second_mean: Tensor, second_covariance: Tensor
) -> float:
    """The same distance where means [F] and covariances [F, F] are known."""
    root = _root(first_covariance)
    product = root @ second_covariance @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    between = (first_mean - second_mean).square().sum()
    return max(0.0, float(between + first_covariance.trace() + second_covariance.trace() - 2 * cross))


def _from_few(first: Tensor, second: Tensor) -> float:
    """The same distance of fewer images than features, without a matrix of features by features.

    With Σ₁ = AᵀA and Σ₂ = BᵀB the trace of the root is the sum of the singular values of ABᵀ, which is only [N, M].
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"a covariance needs at least two images, got {min(len(first), len(second))}")
    means, factors = [], []
    for features in (first.double(), second.double()):
        means.append(features.mean(dim=0))
        factors.append((features - means[-1]) / (len(features) - 1) ** 0.5)
    cross = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    between = (means[0] - means[1]).square().sum()
    return max(0.0, float(between + factors[0].square().sum() + factors[1].square().sum() - 2 * cross))


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
