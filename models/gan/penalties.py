"""Penalties on the slope of a discriminator at pictures: what keeps the game from running away.

Shapes: N batch, C channels, H W pixels, P patches. A discriminator here is a function of pictures alone, float [N, C, H, W] to
logits [N P]; where it judges patches, the slope is that of their mean, or it would grow with how many there are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.precision import in_full

STEP = 0.02  # of finite differences, as the deviation of the noise in pixels of [-1, 1]: 2.5 levels of 256

Judge = Callable[[Tensor], Tensor]


def squared_slope(judge: Judge, images: Tensor) -> Tensor:
    """E |∇ D(x)|² by double backpropagation, the exact R1 (at real pictures) or R2 (at fakes) without its weight.

    Args:
        judge: the discriminator.
        images: where, float [N, C, H, W]; no gradient flows into them.

    Source: Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, equation (9).
    """
    images = images.detach().requires_grad_(True)
    with in_full(images.device):
        (slope,) = torch.autograd.grad(_each(judge(images), images).sum(), images, create_graph=True)
    return slope.square().sum(dim=(1, 2, 3)).mean()


def squared_slope_along(judge: Judge, logits: Tensor | None, images: Tensor, random: torch.Generator) -> Tensor:
    """E |∇ D(x)|² by differences along random directions: noisier, but with single backpropagation only.

        (D(x + ε u) - D(x))² / ε²,      u ~ N(0, I):   its mean over u is |∇ D(x)|² up to O(ε²)

    Args:
        judge: the discriminator.
        logits: D(x), [N P], with its graph; None: not at hand with all digits.
        images: x, float [N, C, H, W].
        random: where the directions are drawn from, on the CPU.

    Source: Lin et al. 2025, arXiv:2501.08316, §3.4 (approximated R1), who leave ε² to the weight.
    """
    directions = torch.randn(images.shape, generator=random).to(images.device)
    with in_full(images.device):
        if logits is None:
            logits = judge(images.detach())
        moved = judge(images.detach() + STEP * directions)
    return (_each(moved - logits, images) / STEP).square().mean()


def unit_slope(judge: Judge, real: Tensor, fake: Tensor, random: torch.Generator) -> Tensor:
    """E (|∇ D(x̂)| - 1)² at points x̂ between real and generated pictures.

    Args:
        judge: the discriminator.
        real: float [N, C, H, W].
        fake: of the same shape.
        random: where the places between are drawn from, on the CPU.

    Source: Gulrajani et al. 2017, arXiv:1704.00028, equation (3).
    """
    share = torch.rand(len(real), 1, 1, 1, generator=random).to(real.device)
    between = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    with in_full(real.device):
        (slope,) = torch.autograd.grad(_each(judge(between), between).sum(), between, create_graph=True)
    return (slope.square().sum(dim=(1, 2, 3)).add(1e-12).sqrt() - 1).square().mean()


def _each(logits: Tensor, images: Tensor) -> Tensor:
    """One logit [N] for each picture: the mean of its patches'."""
    return logits.view(len(images), -1).mean(dim=1)
