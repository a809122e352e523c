"""Transposed convolutions of stride 2 with fewer multiplications, for sampling on a CPU.

A transposed convolution of kernel 4, stride 2, padding 1 makes each picture of four phases, even and odd rows by even and odd
columns, and each phase is a convolution of 2x2. Two neighbouring outputs of a filter of two taps need three products in place
of four, y0 = (p0 - p1) g0 + p1 (g0 + g1) and y1 = p1 (g0 + g1) - (p1 - p2) g1, so 36 products make a tile of 4x4 pixels where
64 did. The products of all tiles are 36 matrix products. All factors are 1 or -1, so that rounding stays that of a sum.

Source: Lavin and Gray 2016, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308, §4 (minimal filtering).

Shapes: N batch, C and O channels, h w tiles (two pixels of the smaller maps a side), T = N h w.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: What each of the six products along one side is multiplied with, from the four taps: three for even pixels, three for odd.
PRODUCTS = ((0, 0, 0, 1), (0, 1, 0, 1), (0, 1, 0, 0), (0, 0, 1, 0), (1, 0, 1, 0), (1, 0, 0, 0))
#: What they take of four pixels in a row: one, or the difference of two.
TAKEN: tuple[tuple[int, int | None], ...] = ((0, 1), (1, None), (1, 2), (1, 2), (2, None), (2, 3))
REPEATED = 3  # takes what the one before it takes
NUMBERS = (
    2**16
)  # on the left of a matrix product: more fall out of the processor's caches, fewer leave it waiting for weights


class Workspace(nn.Module):
    """Memory that the layers of one network take in turn: asking the system for it anew would cost as much as computing."""

    def take(self, name: str, *shape: int) -> Tensor:
        """Uninitialised float memory of this shape, good until the name is taken again; it grows to the largest asked for."""
        size = torch.Size(shape).numel()
        held = getattr(self, name, None)
        if held is None or len(held) < size:
            held = torch.empty(size)
            self.register_buffer(name, held, persistent=False)
        return held[:size].view(shape)


class WinogradDoubling(nn.Module):
    """A transposed convolution of kernel 4, stride 2, padding 1 on the CPU: [N, C, H, W] to [N, O, 2 H, 2 W]; H, W are even.

    Args:
        weight: float [C, O, 4, 4].
        bias: float [O]; None: none.
        workspace: shared with the network's other layers.
        rectify: whether a ReLU follows.
    """

    products: Tensor  # float [36, C, O]
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, workspace: Workspace, *, rectify: bool) -> None:
        super().__init__()
        taps = torch.tensor(PRODUCTS, dtype=torch.float64)
        products = torch.einsum("ik,jl,cokl->ijco", taps, taps, weight.double()).flatten(0, 1)
        self.register_buffer("products", products.float().contiguous())
        self.register_buffer("bias", bias)
        self.workspace = workspace
        self.output = Workspace()  # its own: other layers may look at these maps later
        self.rectify = rectify

    def forward(self, maps: Tensor) -> Tensor:
        rows = maps.permute(0, 2, 3, 1)  # (N, H, W, C), as it lies in memory
        count, height, width, channels = rows.shape
        doubled = self.output.take("doubled", count, 2 * height, 2 * width, self.products.shape[2])
        step = max(1, NUMBERS // (height * width // 4 * channels))
        for source, target in zip(torch.split(rows, step), torch.split(doubled, step), strict=True):
            self._double(source, target)
        return doubled.permute(0, 3, 1, 2)

    def _double(self, maps: Tensor, doubled: Tensor) -> None:
        """Fill `doubled`, float [n, 2 H, 2 W, O], from a few pictures' maps [n, H, W, C]."""
        count, height, width, channels = maps.shape
        h, w, outputs = height // 2, width // 2, self.products.shape[2]
        take = self.workspace.take
        padded = F.pad(maps, (0, 0, 1, 1, 1, 1))  # (n, H + 2, W + 2, C)
        lines = [padded[:, i : i + 2 * h - 1 : 2] for i in range(4)]  # each (n, h, W + 2, C)
        down = take("down", count, h, width + 2, channels)
        across = take("across", 6, count, h, w, channels)
        made = take("made", 6, count * h * w, outputs)
        summed = take("summed", 6, 4, count, h, w, outputs)
        for i, (first, second) in enumerate(TAKEN):
            if i != REPEATED:
                line = lines[first] if second is None else torch.sub(lines[first], lines[second], out=down)
                _differences([line[:, :, j : j + 2 * w - 1 : 2] for j in range(4)], across.unbind())
            torch.bmm(across.view(6, -1, channels), self.products[6 * i : 6 * i + 6], out=made)
            if (
                self.bias is not None and second is None
            ):  # every pixel holds one of these, so that their bias is the pixel's
                made[1] += self.bias
                made[4] += self.bias
            _sums(made.view(6, count, h, w, outputs).unbind(), summed[i].unbind())
        tiles = doubled.view(count, h, 4, w, 4, outputs).permute(2, 0, 1, 3, 4, 5)  # (4, n, h, w, 4, O)
        _sums(summed.permute(0, 2, 3, 4, 1, 5).unbind(), tiles.unbind())
        if self.rectify:
            doubled.relu_()


class OverlapDoubling(nn.Module):
    """The same with few outputs, as pixels have: one matrix product makes patches of 4x4, which overlap and add up.

    Args:
        weight: float [C, O, 4, 4].
        bias: float [O]; None: none.
        workspace: shared with the network's other layers.
    """

    patches: Tensor  # float [C, 16 O]
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, workspace: Workspace) -> None:
        super().__init__()
        self.workspace = workspace
        self.register_buffer("patches", weight.permute(0, 2, 3, 1).flatten(1).contiguous())
        self.register_buffer("bias", bias)
        self.outputs = weight.shape[1]

    def forward(self, maps: Tensor) -> Tensor:
        rows = maps.permute(0, 2, 3, 1)  # (N, H, W, C)
        count, height, width, channels = rows.shape
        made = self.workspace.take("patches", count * height * width, 16 * self.outputs)
        torch.mm(rows.reshape(-1, channels), self.patches, out=made)
        made = made.view(count, height, width, 4, 4, self.outputs)
        framed = torch.zeros(count, height + 1, 2, width + 1, 2, self.outputs)  # a pixel more on each side
        for down in range(2):
            for right in range(2):
                part = made[:, :, :, 2 * down : 2 * down + 2, 2 * right : 2 * right + 2]
                framed[:, down : down + height, :, right : right + width] += part.transpose(2, 3)
        doubled = framed.view(count, 2 * height + 2, 2 * width + 2, self.outputs)[:, 1:-1, 1:-1]
        return (doubled if self.bias is None else doubled + self.bias).permute(0, 3, 1, 2)


def _differences(pixels: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """What the six products along one side take of four pixels in a row."""
    for i, (first, second) in enumerate(TAKEN):
        if i == REPEATED:
            out[i].copy_(out[i - 1])
        elif second is None:
            out[i].copy_(pixels[first])
        else:
            torch.sub(pixels[first], pixels[second], out=out[i])


def _sums(products: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Four pixels in a row from the six products along one side."""
    torch.add(products[0], products[1], out=out[0])
    torch.add(products[3], products[4], out=out[1])
    torch.sub(products[1], products[2], out=out[2])
    torch.sub(products[4], products[5], out=out[3])
