"""Sliced Wasserstein distance between patches of pictures, from fine detail to rough shape.

It looks at pixels, not at features: blur, noise and wrong texture are seen even where a classifier would not care.

Shapes: N and M images, C channels, H W pixels, P patches or points, F numbers in each, S slices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.randomness import derived_generator

PATCH_PX = 7
PATCHES_PER_IMAGE = 16
MOST_IMAGES = 2048  # of either set; more change the third digit
SMALLEST_LEVEL_PX = 16  # the pyramid ends here, with what is left of the picture
SLICES = 128


def sliced_wasserstein(first: Tensor, second: Tensor, *, random: torch.Generator, slices: int = SLICES) -> float:
    """The mean over random directions θ of the 1-Wasserstein distance between two sets of points seen along θ.

        E_θ ∫ |F_θ(t) - G_θ(t)| dt,  F_θ and G_θ the distribution functions of the points' projections on θ, |θ| = 1

    The integral is exact, also for sets of different sizes. Symmetric: the order of the sets does not matter.

    Args:
        first: [P, F].
        second: [Q, F].
        random: on the CPU; decides the directions.
        slices: how many directions.

    Source: Rabin et al. 2011, Wasserstein Barycenter and its Application to Texture Mixing; used on patches by Karras et al.
    2018, arXiv:1710.10196, section 5.
    """
    directions = F.normalize(torch.randn(first.shape[1], slices, generator=random), dim=0).to(first)  # (F, S)
    along = torch.cat([first @ directions, second @ directions])  # (P + Q, S)
    ordered, order = along.sort(dim=0)
    weights = torch.cat(
        [first.new_full((len(first),), 1 / len(first)), first.new_full((len(second),), -1 / len(second))]
    )
    gap = weights.double()[order].cumsum(dim=0)[:-1].abs()  # |F - G| from each point to the next
    return float((gap * ordered.diff(dim=0)).sum(dim=0).mean())


def patch_distance(images: Tensor, reference: Tensor, *, seed: int) -> float:
    """The sliced Wasserstein distance between patches of two sets of pictures, averaged over the levels of a Laplacian pyramid.

    Each level's patches are first shifted and scaled so that the reference's have mean 0 and variance 1 in every channel.

    Args:
        images: uint8 [N, C, H, W]; the first MOST_IMAGES are used.
        reference: uint8 [M, C, H, W]; likewise.
        seed: decides patches and directions.

    Source: Karras et al. 2018, arXiv:1710.10196, section 5. Theirs takes 128 patches from each of 16,384 pictures, and scales
    each set by its own mean and variance, which hides wrong contrast.
    """
    ours, theirs = (_pyramid(part[:MOST_IMAGES].float() / 127.5 - 1) for part in (images, reference))
    total = 0.0
    for level, (our_level, their_level) in enumerate(zip(ours, theirs, strict=True)):
        our_patches = _patches(our_level, derived_generator(seed, "patches", level))  # (N P, 7, 7, C)
        their_patches = _patches(their_level, derived_generator(seed, "patches", level))
        mean = their_patches.mean(dim=(0, 1, 2))
        scale = their_patches.std(dim=(0, 1, 2)).clamp(min=1e-3)
        total += sliced_wasserstein(
            ((our_patches - mean) / scale).flatten(1),
            ((their_patches - mean) / scale).flatten(1),
            random=derived_generator(seed, "slices", level),
        )
    return total / len(ours)


def _pyramid(images: Tensor) -> list[Tensor]:
    """What each halving of float [N, C, H, W] takes away, and at the end what is left.

    Source: Burt and Adelson 1983, The Laplacian Pyramid as a Compact Image Code.
    """
    channels = images.shape[1]
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    blur = (line[:, None] * line)[None, None].expand(channels, 1, 5, 5)
    levels = []
    while images.shape[2] // 2 >= SMALLEST_LEVEL_PX:
        smaller = F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), blur, stride=2, groups=channels)
        levels.append(images - F.interpolate(smaller, size=images.shape[2:], mode="bilinear", align_corners=False))
        images = smaller
    return [*levels, images]


def _patches(images: Tensor, random: torch.Generator) -> Tensor:
    """PATCHES_PER_IMAGE patches of each picture [N, C, H, W] at random places, [N P, 7, 7, C]."""
    count, _, height, width = images.shape
    reach = torch.arange(PATCH_PX)
    top = torch.randint(height - PATCH_PX + 1, (count, PATCHES_PER_IMAGE, 1), generator=random)
    left = torch.randint(width - PATCH_PX + 1, (count, PATCHES_PER_IMAGE, 1), generator=random)
    rows, columns = (top + reach)[:, :, :, None], (left + reach)[:, :, None, :]
    which = torch.arange(count)[:, None, None, None]
    return images.permute(0, 2, 3, 1)[which, rows, columns].flatten(0, 1)
