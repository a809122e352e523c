"""Matrix products of prepared generators: on a CPU with weights laid out once, and each row summed alike in any company.

oneDNN's products with weights in its own layout are half as fast again as MKL's where matrices are large, and sum a row in the
same order however many there are; MKL takes another order for few rows, for fewer than 3 to 16 by the processor. PyTorch has
oneDNN's for its compiler, underscored; where they are missing, MKL's serve.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKED = hasattr(torch.ops.mkldnn, "_linear_pointwise")
FEWEST_PACKED = 2**16  # numbers in one of many matrices, below which what each call takes is more than what it saves
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
        self.register_buffer("weight", _packed(weight) if self.packed else weight.contiguous())
        self.register_buffer("bias", bias)

    def forward(self, rows: Tensor) -> Tensor:
        if self.packed:
            return _product(rows, self.weight, self.bias)
        lacking = LEAST_ROWS - len(rows)
        if lacking > 0 and rows.device.type == "cpu":
            return F.linear(F.pad(rows, (0, 0, 0, lacking)), self.weight, self.bias)[: len(rows)]
        return F.linear(rows, self.weight, self.bias)


class Products(nn.Module):
    """Products with fixed matrices on a CPU: the i-th of [I, T, C] by the i-th, to [I, T, O].

    Args:
        weights: float [I, C, O].
    """

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self._packed: list[Tensor] = []
        if PACKED and weights[0].numel() >= FEWEST_PACKED:
            for index, weight in enumerate(weights.transpose(1, 2)):
                packed = _packed(weight)
                self.register_buffer(f"packed_{index}", packed, persistent=False)
                self._packed.append(packed)
        else:
            self.register_buffer("weights", weights.contiguous(), persistent=False)

    def forward(self, rows: Tensor, out: Tensor) -> None:
        if not self._packed:
            torch.bmm(rows, self.weights, out=out)
            return
        for factor, weight, product in zip(rows, self._packed, out, strict=True):
            product.copy_(_product(factor, weight, None))


def _packed(weight: Tensor) -> Tensor:
    """Weights [O, C] in a layout of oneDNN's."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def _product(rows: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return product
