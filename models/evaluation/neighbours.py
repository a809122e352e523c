"""Nearest neighbours among features, and the measures made of them: fidelity, variety, copies.

Shapes: N real images, M generated ones, F features; distances are Euclidean, float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS_AT_ONCE = 1024  # of a distance matrix: bounds memory whatever the numbers of images


@dataclass(frozen=True)
class Manifold:
    """How two sets of features lie to each other; each number from 0 up, 1 being what the same distribution gives, about."""

    precision: float  # share of generated images that lie among the real ones
    recall: float  # share of real images that lie among the generated ones
    density: float  # how many real neighbourhoods a generated image lies in, against what is expected; may pass 1
    coverage: float  # share of real images with a generated one in their neighbourhood


def manifold(real: Tensor, generated: Tensor, *, neighbours: int = 5) -> Manifold:
    """Precision, recall, density and coverage, from balls that reach from each image to its k-th nearest of the same set.

        B(xᵢ) = ball around xᵢ with radius |xᵢ - its k-th nearest neighbour among the xs|
        precision = |{j: yⱼ in some B(xᵢ)}| / M           recall = |{i: xᵢ in some B(yⱼ)}| / N
        density   = Σⱼ |{i: yⱼ in B(xᵢ)}| / k M           coverage = |{i: some yⱼ in B(xᵢ)}| / N

    Args:
        real: [N, F], more than `neighbours` rows.
        generated: [M, F], likewise.
        neighbours: k. Coverage of the same distribution nears 1 - 2^-k for equal N and M.

    Source: precision and recall of Kynkäänniemi et al. 2019, arXiv:1904.06991, equations (1) to (3), who take k = 3; density
    and coverage of Naeem et al. 2020, arXiv:2002.09797, equations (4) and (6), who take k = 5.
    """
    smallest = min(len(real), len(generated))
    if smallest <= neighbours:
        raise ValueError(f"{neighbours} neighbours need more than {smallest} images in each set")
    real_radii, generated_radii = (radii(features, neighbours) for features in (real, generated))  # (N,), (M,)
    inside = torch.zeros(len(generated), dtype=torch.int64)  # real balls that each generated image lies in
    covered, recalled = [], []
    for start, distances in _distances(real, generated):  # (rows, M)
        in_real_ball = distances <= real_radii[start : start + len(distances), None]
        inside += in_real_ball.sum(dim=0)
        covered.append(in_real_ball.any(dim=1))
        recalled.append((distances <= generated_radii).any(dim=1))
    return Manifold(
        precision=float((inside > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(inside.double().mean()) / neighbours,
        coverage=float(torch.cat(covered).double().mean()),
    )


def covered_share(real: Tensor, real_radii: Tensor, generated: Tensor) -> float:
    """Coverage alone, where the radii of the real images [N] are known: the share with a generated one in their ball."""
    closest = nearest(real, generated)
    return float((closest <= real_radii).double().mean())


def radii(features: Tensor, neighbours: int) -> Tensor:
    """The distance of each row to its k-th nearest other row, [N]; itself is the nearest of all."""
    parts = [distances.kthvalue(neighbours + 1, dim=1).values for _, distances in _distances(features, features)]
    return torch.cat(parts)


def nearest(queries: Tensor, points: Tensor) -> Tensor:
    """The distance from each of the queries [M, F] to the nearest of the points [N, F]: [M]."""
    return torch.cat([distances.amin(dim=1) for _, distances in _distances(queries, points)])


def nearest_few(queries: Tensor, points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and indices of the nearest `count` points [N, F] of each of the queries [M, F]: [M, count], nearest first."""
    found = [distances.topk(count, dim=1, largest=False) for _, distances in _distances(queries, points)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def _distances(rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The matrix of distances, a block of rows at a time, each with the number of its first row."""
    rows, columns = rows.double(), columns.double()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield start, torch.cdist(rows[start : start + _ROWS_AT_ONCE], columns)
