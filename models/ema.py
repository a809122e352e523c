"""The moving average of a network's weights: what is sampled from, while the network itself goes on learning.

Source: Karras et al. 2018 (arXiv:1710.10196, §"training configuration"), which introduced the average for generators; the
ramp at the start is that of Karras et al. 2020 (arXiv:2006.06676).
"""

from __future__ import annotations

import copy

import torch
from torch import nn

RAMP = 0.05  # the half-life is at most this share of the images seen so far


class ExponentialMovingAverage:
    """A network whose weights follow another's, with a half-life counted in images.

    Buffers (the running statistics of batch normalisation) are copied as they are: they are averages already.

    Args:
        network: the network to follow; it is copied, never changed.
        halflife_images: images after which an old weight counts half; 0 follows without any averaging.
    """

    def __init__(self, network: nn.Module, *, halflife_images: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.halflife_images = halflife_images

    @torch.no_grad()
    def update(self, network: nn.Module, *, images_seen: int, batch_size: int) -> None:
        """Move towards `network`, whose last step took it to `images_seen` by a batch of `batch_size`."""
        halflife = min(self.halflife_images, images_seen * RAMP)
        kept = 0.5 ** (batch_size / halflife) if halflife > 0 else 0.0
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1.0 - kept)
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(buffer)
