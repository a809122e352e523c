"""Kernel distance between two sets of features: KID's estimator, which is unbiased and needs no Gaussian.

Shapes: N and M images, F features; float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def polynomial_mmd(first: Tensor, second: Tensor) -> float:
    """The squared maximum mean discrepancy under the kernel k(x, y) = (x·y / F + 1)³.

        Σ_{i≠j} k(xᵢ, xⱼ) / N(N-1)  +  Σ_{i≠j} k(yᵢ, yⱼ) / M(M-1)  -  2 Σ_{ij} k(xᵢ, yⱼ) / NM

    Unbiased, and so below 0 now and then where the sets are of one distribution.

    Args:
        first: [N, F], at least two rows.
        second: [M, F], at least two rows.

    Source: Bińkowski et al. 2018, arXiv:1801.01401, section 3 and equation (4).
    """
    first, second = first.double(), second.double()
    within = sum(_mean_off_diagonal(_kernel(features, features)) for features in (first, second))
    return float(within - 2 * _kernel(first, second).mean())


def kernel_distance(
    first: Tensor, second: Tensor, *, random: torch.Generator, subsets: int = 50, subset_size: int = 1000
) -> tuple[float, float]:
    """KID: the mean of polynomial_mmd over random subsets, and its standard deviation over them.

    Args:
        first: [N, F].
        second: [M, F].
        random: on the CPU; decides the subsets.
        subsets: how many are drawn, each without repeating an image.
        subset_size: images of either set in one; fewer where there are fewer.

    Returns:
        mean and standard deviation; the latter says how much one subset differs from the next, not how sure the mean is.

    Source: Bińkowski et al. 2018, arXiv:1801.01401, section 4 and appendix.
    """
    size = min(subset_size, len(first), len(second))
    values = torch.tensor(
        [
            polynomial_mmd(
                first[torch.randperm(len(first), generator=random)[:size]],
                second[torch.randperm(len(second), generator=random)[:size]],
            )
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    return float(values.mean()), float(values.std(correction=0))


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _mean_off_diagonal(matrix: Tensor) -> Tensor:
    count = len(matrix)
    return (matrix.sum() - matrix.trace()) / (count * (count - 1))
