"""Convolutions of stride 2 whose weights' gradients are one matrix product, where a CPU's own way is slow.

oneDNN's gradient of the weights falls to a third of the machine's speed where channels are many and maps are small, as at the
narrow end of a DCGAN. Written out as patches times gradients it is one product of large matrices, which runs at full speed:
at 256 to 512 channels, 8 to 4 pixels, batch 64, 53 ms instead of 177 on one core (docs/benchmarks.md). The numbers are the same
up to rounding, all else is PyTorch's own, and on other devices so is this.

Shapes: N batch, C and O channels, H W pixels of the larger maps, h w of the smaller.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.precision import lowered

KERNEL, STRIDE, PADDING = 4, 2, 1  # what the modules here are for: H = 2 h
LARGEST_PX = 4  # side of the smaller maps, above which oneDNN is as fast
FEWEST_WEIGHTS = 256 * 512  # C times O, below which it is, too


class HalvingConv2d(nn.Conv2d):
    """nn.Conv2d of kernel 4, stride 2, padding 1, without offsets: [N, C, H, W] to [N, O, h, w]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL, stride=STRIDE, padding=PADDING, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        if _pays(self, maps, maps.shape[-1] // 2):
            halved: Tensor = _Halving.apply(*lowered(maps, self.weight))
            return halved
        return super().forward(maps)


class DoublingConv2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d of kernel 4, stride 2, padding 1, without offsets: [N, O, h, w] to [N, C, H, W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL, stride=STRIDE, padding=PADDING, bias=False)

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is None and _pays(self, maps, maps.shape[-1]):
            doubled: Tensor = _Doubling.apply(*lowered(maps, self.weight))
            return doubled
        return super().forward(maps, output_size)


def _pays(module: nn.Conv2d | nn.ConvTranspose2d, maps: Tensor, smaller_px: int) -> bool:
    return (
        maps.device.type == "cpu"
        and smaller_px <= LARGEST_PX
        and module.in_channels * module.out_channels >= FEWEST_WEIGHTS
        and torch.is_grad_enabled()
        and module.weight.requires_grad
        and not torch.compiler.is_compiling()
    )


class _Halving(torch.autograd.Function):
    """The convolution; its backward is made of differentiable parts, so that penalties on slopes can go through it."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return F.conv2d(maps, weight, stride=STRIDE, padding=PADDING)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (maps, weight) = gradients, ctx.saved_tensors
        of_maps = (
            F.conv_transpose2d(gradient, weight, stride=STRIDE, padding=PADDING) if ctx.needs_input_grad[0] else None
        )
        return of_maps, weight_gradient(maps, gradient) if ctx.needs_input_grad[1] else None


class _Doubling(torch.autograd.Function):
    """The transposed convolution: the other one's adjoint, so that larger and smaller maps change their parts."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return F.conv_transpose2d(maps, weight, stride=STRIDE, padding=PADDING)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (maps, weight) = gradients, ctx.saved_tensors
        of_maps = F.conv2d(gradient, weight, stride=STRIDE, padding=PADDING) if ctx.needs_input_grad[0] else None
        return of_maps, weight_gradient(gradient, maps) if ctx.needs_input_grad[1] else None


def weight_gradient(larger: Tensor, smaller: Tensor) -> Tensor:
    """The weights' gradient [O, C, 4, 4] from the larger maps [N, C, H, W] and the smaller ones' side [N, O, h, w]."""
    padded = F.pad(larger, (PADDING,) * 4).permute(0, 2, 3, 1)  # (N, H + 2, W + 2, C)
    patches = padded.unfold(1, KERNEL, STRIDE).unfold(2, KERNEL, STRIDE)  # (N, h, w, C, 4, 4)
    channels, outputs = larger.shape[1], smaller.shape[1]
    rows = smaller.permute(0, 2, 3, 1).reshape(-1, outputs)  # (N h w, O)
    product = rows.t() @ patches.reshape(len(rows), channels * KERNEL**2)
    return product.view(outputs, channels, KERNEL, KERNEL)
