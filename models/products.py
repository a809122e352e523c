"""Matrix products of prepared generators: on a CPU with weights laid out once, and each row summed alike in any company.

oneDNN's products with weights in its own layout are faster than MKL's, three times for few rows, and sum a row in the same
order however many there are; MKL takes another order for few rows, for fewer than 3 to 16 by the processor. PyTorch has them
for its compiler, underscored; where they are missing, MKL's serve.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKED = hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Elsewhere than on x86 with AVX2, oneDNN's convolutions in groups are up to thirty times as slow as MKL's products.
GROUPED = (
    hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    and hasattr(torch.ops.mkldnn, "_get_mkldnn_serialized_md")
    and torch.backends.cpu.get_cpu_capability().startswith("AVX")
)
# Of MKL's products: they sum fewer in another order, and a picture's bits would depend on company.
LEAST_ROWS = 4


class Product(nn.Module):
    """A linear layer: [N, C] to [N, O].

    Args:
        weight: float [O, C].
        bias: float [O]; None: none.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.packed = PACKED and weight.device.type == "cpu"
        weight = weight.contiguous()
        held = torch.ops.mkldnn._reorder_linear_weight(weight, None) if self.packed else weight
        self.register_buffer("weight", held)
        self.register_buffer("bias", bias)

    def forward(self, rows: Tensor) -> Tensor:
        if self.packed:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
            return product
        lacking = LEAST_ROWS - len(rows)
        if lacking > 0 and rows.device.type == "cpu":
            return F.linear(F.pad(rows, (0, 0, 0, lacking)), self.weight, self.bias)[: len(rows)]
        return F.linear(rows, self.weight, self.bias)


class Products(nn.Module):
    """Products with fixed matrices on a CPU: the i-th of [T, I, C] by the i-th, to [T, I, O].

    All of them are one convolution of 1x1 in groups: one call, during which no interpreter is held.

    Args:
        weights: float [I, C, O].
    """

    weights: Tensor  # where the library's products serve

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.groups, self.inputs, self.outputs = weights.shape
        self._by_rows: dict[int, Tensor] = {}  # the filters for so many rows
        self._by_layout: dict[bytes, Tensor] = {}
        if GROUPED:
            filters = weights.transpose(1, 2).reshape(-1, self.inputs, 1, 1)
            self._by_rows[1] = self._held(1, filters)
        else:
            self.register_buffer("weights", weights.contiguous(), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        if not GROUPED:
            return torch.bmm(rows.transpose(0, 1), self.weights).transpose(0, 1).contiguous()
        count = len(rows)
        filters = self._by_rows.get(count)
        if filters is None:
            # oneDNN has two layouts or three, by a rule of its own; in the wrong one, each call would take as long as forty.
            filters = self._by_rows[count] = self._held(count, self._by_rows[1].to_dense())
        maps = rows.view(1, count, 1, self.groups * self.inputs).permute(0, 3, 1, 2)  # a row is a pixel
        made = torch.ops.mkldnn._convolution_pointwise(maps, filters, None, *self._geometry, "none", [], "")
        products: Tensor = made.permute(0, 2, 3, 1).reshape(count, self.groups, self.outputs)
        return products

    @property
    def _geometry(self) -> tuple[list[int], list[int], list[int], int]:
        """Padding, stride, dilation and groups."""
        return [0, 0], [1, 1], [1, 1], self.groups

    def _held(self, count: int, filters: Tensor) -> Tensor:
        """Filters [I O, C, 1, 1] in oneDNN's layout for so many rows; of each layout the first ones stay."""
        sizes = [1, self.groups * self.inputs, count, 1]
        laid_out: Tensor = torch.ops.mkldnn._reorder_convolution_weight(filters, *self._geometry, sizes)
        layout = bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(laid_out).numpy())
        held = self._by_layout.setdefault(layout, laid_out)
        if held is laid_out:
            self.register_buffer(f"filters_{count}", laid_out, persistent=False)
        return held
