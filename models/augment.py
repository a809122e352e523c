"""Differentiable augmentation: what a discriminator sees pictures through, so that few cannot be learnt by heart.

Source: Zhao et al. 2020, Differentiable Augmentation for Data-Efficient GAN Training, arXiv:2006.10738, §3 and appendix C:
colour (brightness, saturation, contrast), translation by up to an eighth, cutout of a square of half the side.

All draws come from one generator on the CPU, so that equal states give equal views on every device.

Shapes: N batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from models.options import Augmentation

TRANSLATION = 1 / 8  # of the side
CUTOUT = 1 / 2  # of the side

Step = Callable[[Tensor, torch.Generator], Tensor]


def augmented(images: Tensor, policy: Augmentation, random: torch.Generator) -> Tensor:
    """Views of pictures, each drawn by itself; differentiable in the pictures.

    Args:
        images: float [-1, 1], [N, C, H, W]; after colour a view may leave that range.
        policy: which augmentations.
        random: where they are drawn from, on the CPU.

    Returns:
        views of the same shape.
    """
    for step in POLICIES[policy]:
        images = step(images, random)
    return images


def _colour(images: Tensor, random: torch.Generator) -> Tensor:
    """Brightness ±0.5; saturation 0 to 2; contrast 0.5 to 1.5."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, generator=random).to(images.device)
    images = images + (brightness - 0.5)
    if images.shape[1] > 1:
        grey = images.mean(dim=1, keepdim=True)
        images = torch.lerp(grey, images, 2 * saturation)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(middle, images, contrast + 0.5)


def _translation(images: Tensor, random: torch.Generator) -> Tensor:
    """Moved by up to an eighth of the side each way; what comes in from outside is 0, mid-grey."""
    count, _, height, width = images.shape
    reach_y, reach_x = (round(side * TRANSLATION) for side in (height, width))
    down = torch.randint(-reach_y, reach_y + 1, (count, 1), generator=random)
    right = torch.randint(-reach_x, reach_x + 1, (count, 1), generator=random)
    rows = (torch.arange(height) + down).clamp(-1, height) + 1  # (N, H) into the padded picture
    columns = (torch.arange(width) + right).clamp(-1, width) + 1
    padded = F.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # (N, H + 2, W + 2, C)
    which = torch.arange(count)[:, None, None].to(images.device)
    moved = padded[which, rows[:, :, None].to(images.device), columns[:, None, :].to(images.device)]  # (N, H, W, C)
    return moved.permute(0, 3, 1, 2)


def _cutout(images: Tensor, random: torch.Generator) -> Tensor:
    """A square of half the side becomes 0; its centre lies anywhere, so that part of it may be outside."""
    count, _, height, width = images.shape
    centre_y = torch.randint(0, height + 1, (count, 1), generator=random)
    centre_x = torch.randint(0, width + 1, (count, 1), generator=random)
    inside_y = (torch.arange(height) - centre_y + 0.5).abs() < height * CUTOUT / 2  # (N, H)
    inside_x = (torch.arange(width) - centre_x + 0.5).abs() < width * CUTOUT / 2
    kept = ~(inside_y[:, :, None] & inside_x[:, None, :])
    return images * kept[:, None].to(images.device)


POLICIES: Mapping[Augmentation, tuple[Step, ...]] = MappingProxyType(
    {
        "none": (),
        "translation": (_translation,),
        "translation-cutout": (_translation, _cutout),
        "colour-translation-cutout": (_colour, _translation, _cutout),
    }
)
