"""Transposed convolutions of stride 2 with fewer multiplications, for sampling on a CPU.

A transposed convolution of kernel 4, stride 2, padding 1 makes each picture of four phases, even and odd rows by even and odd
columns, and each phase is a convolution of 2x2. m neighbouring outputs of a filter of two taps need m + 1 products in place of
2 m: 36 products make a tile of 4x4 pixels where 64 did, or 100 a tile of 8x8 where 256 did. The products of many tiles are as
many matrix products. The four phases share what their tile's pixels are combined to: sums of products reach beyond the tile by
a pixel, where those of its neighbours are added.

Source: Lavin and Gray 2016, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308, §4 (minimal filtering), here
transposed.

Shapes: N batch, C and O channels, H W pixels of the smaller maps, m of them along a tile's side, n = m + 1.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.products import LEAST_ROWS, Products
from models.tiles import NO_LEAST, add_patches, filtering, gather, spread

LARGE, SMALL = 4, 2  # sides of tiles
# The 25 weights of large tiles are read once for each group of tiles: too long a way where channels are many.
MOST_WEIGHTS = 2**15  # channels in times channels out
GROUP = 128  # tiles: more fall out of the caches, fewer leave it waiting for weights
RECTIFIED = np.float32(0)  # what no pixel is less than after a ReLU
PATCHES = 2**19  # numbers of patches in a group


class Workspace(nn.Module):
    """Memory that the layers of one network take in turn: asking the system for it anew would cost as much as computing.

    Each thread has its own, so that several may compute at once.
    """

    def take(self, name: str, *shape: int) -> Tensor:
        """Uninitialised float memory of this shape, good until the thread takes the name again; it grows to the largest
        asked for."""
        size, own = torch.Size(shape).numel(), f"{name}_{threading.get_ident()}"
        held = getattr(self, own, None)
        if held is None or len(held) < size:
            held = torch.empty(size)
            self.register_buffer(own, held, persistent=False)
        return held[:size].view(shape)


class WinogradDoubling(nn.Module):
    """A transposed convolution of kernel 4, stride 2, padding 1 on the CPU: [N, C, H, W] to [N, O, 2 H, 2 W]; H, W are even.

    Args:
        weight: float [C, O, 4, 4].
        bias: float [O]; None: none.
        workspace: shared with the network's other layers.
        rectify: whether a ReLU follows.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, workspace: Workspace, *, rectify: bool) -> None:
        super().__init__()
        self.inputs, self.outputs = weight.shape[:2]
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.zeros(self.outputs) if bias is None else bias)
        self.workspace = workspace
        self.output = Workspace()  # its own: other layers may look at these maps later
        self.rectify = rectify

    def _products(self, m: int) -> Products:
        """What multiplies tiles of this side; made when it is first needed."""
        name = f"products_{m}"
        held: Products | None = getattr(self, name, None)
        if held is None:
            taps = torch.from_numpy(filtering(m).taps)
            weights = torch.einsum("pik,qjl,cokl->ijcpqo", taps, taps, self.weight.double())
            held = Products(weights.flatten(0, 1).flatten(2).float())
            setattr(self, name, held)
        return held

    def forward(self, maps: Tensor) -> Tensor:
        rows = maps.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C), as it lies in memory already
        count, height, width, channels = rows.shape
        whole = height % LARGE == width % LARGE == 0 and height * width >= LEAST_ROWS * LARGE**2  # a row for each tile
        m = LARGE if whole and channels * self.outputs <= MOST_WEIGHTS else SMALL
        doubled = self.output.take("doubled", count, 2 * height, 2 * width, self.outputs)
        tiles = count * height * width // m**2
        for first in range(0, tiles, GROUP):
            self._double(rows, doubled, m, first, min(GROUP, tiles - first))
        return doubled.permute(0, 3, 1, 2)

    def _double(self, rows: Tensor, doubled: Tensor, m: int, first: int, count: int) -> None:
        """Fill `count` tiles of `doubled`, from the `first` on."""
        filtered, take = filtering(m), self.workspace.take
        n, size = m + 1, tuple(rows.shape[1:3])
        across, columns = take("across", count, n**2, self.inputs), take("columns", m, self.inputs)
        spread(_flat(rows), size, m, first, filtered.combined, _flat(across), _flat(columns))
        made, columns = self._products(m)(across).view(-1, self.outputs), take("sums", 4 * n**2, self.outputs)
        least = RECTIFIED if self.rectify else NO_LEAST
        gather(_flat(made), size, m, first, filtered.summed, self.bias.numpy(), least, _flat(doubled), _flat(columns))


def compile_ahead() -> None:
    """Compiles the loops that the layers here need, for seconds; else the first picture waits for that."""
    maps, weight, workspace = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 4), Workspace()
    WinogradDoubling(weight, None, workspace, rectify=False)(maps)
    OverlapDoubling(weight, None, workspace)(maps)


def _flat(maps: Tensor) -> NDArray[np.float32]:
    """The same memory as [all places, channels]."""
    flat: NDArray[np.float32] = maps.view(-1, maps.shape[-1]).numpy()
    return flat


class OverlapDoubling(nn.Module):
    """The same with few outputs, as pixels have: one matrix product makes patches of 4x4, which overlap and add up.

    Args:
        weight: float [C, O, 4, 4].
        bias: float [O]; None: none.
        workspace: shared with the network's other layers.
    """

    patches: Tensor  # float [C, 16 O]
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, workspace: Workspace) -> None:
        super().__init__()
        self.workspace = workspace
        self.register_buffer("patches", weight.permute(0, 2, 3, 1).flatten(1).contiguous())
        self.outputs = weight.shape[1]
        self.register_buffer("bias", torch.zeros(self.outputs) if bias is None else bias)

    def forward(self, maps: Tensor) -> Tensor:
        rows = maps.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)
        count, height, width, channels = rows.shape
        doubled = torch.empty(count, 2 * height, 2 * width, self.outputs)
        step = max(1, PATCHES // (height * width * 16 * self.outputs))
        for source, target in zip(torch.split(rows, step), torch.split(doubled, step), strict=True):
            made = self.workspace.take("patches", len(source), height, width, 4, 4, self.outputs)
            torch.mm(source.reshape(-1, channels), self.patches, out=made.view(-1, 16 * self.outputs))
            add_patches(made.numpy(), self.bias.numpy(), target.numpy())
        return doubled.permute(0, 3, 1, 2)
