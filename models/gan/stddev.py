"""Minibatch standard deviation: lets a discriminator see that all pictures of a batch look alike.

Source: Karras et al. 2018, Progressive Growing of GANs, arXiv:1710.10196, §3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MinibatchStddev(nn.Module):
    """Adds one map that is constant: the standard deviation over the batch, averaged over channels and places."""

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C + 1, H, W]."""
        deviation = maps.var(dim=0, correction=0).add(1e-8).sqrt().mean()
        return torch.cat([maps, deviation.expand(len(maps), 1, *maps.shape[2:])], dim=1)
