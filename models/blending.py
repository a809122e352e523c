"""Latents made of two: on the way between them, or near one of them.

Both keep what standard normal latents of many numbers are like: of a length of about the square root of their count.

Shapes: D latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

PARALLEL = 1e-6  # radians, below which an arc is no longer told from its chord


def slerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """The point at `weight` of the great circle's arc from one latent to another.

    Args:
        start: float64 [D], given back to the bit for a weight of 0.
        end: float64 [D], given back to the bit for a weight of 1.
        weight: 0 to 1.

    Returns:
        float64 [D].

    Source: Shoemake 1985, Animating Rotation with Quaternion Curves, §3.3; for latents White 2016, arXiv:1609.04468, §2.1.
    """
    if weight in (0.0, 1.0):
        return end if weight else start
    cosine = torch.dot(start, end) / (start.norm() * end.norm()).clamp_min(torch.finfo(torch.float64).tiny)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle < PARALLEL or torch.pi - angle < PARALLEL:  # no arc, or one in any direction
        return torch.lerp(start, end, weight)
    return (torch.sin((1 - weight) * angle) * start + torch.sin(weight * angle) * end) / torch.sin(angle)


def vary(of: Tensor, noise: Tensor, strength: float) -> Tensor:
    """A latent near another one: sqrt(1 - s²) of it and s of fresh noise, so that it is standard normal if both are.

    Args:
        of: float64 [D], given back to the bit for a strength of 0.
        noise: float64 [D].
        strength: s, 0 to 1; at 1 nothing is left of the first.

    Returns:
        float64 [D].
    """
    if strength in (0.0, 1.0):
        return noise if strength else of
    return float((1 - strength**2) ** 0.5) * of + strength * noise
