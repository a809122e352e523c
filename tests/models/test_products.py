"""Products give each row the same numbers in any company, in whatever library's order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models import products
from models.products import FEWEST_PACKED, LEAST_ROWS, Product, Products


@pytest.mark.parametrize(("inputs", "outputs"), [(512, 64), (100, 2048), (512, 48)])
def test_any_rows_of_a_product_are_summed_as_in_any_company(inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    weight, bias, rows = torch.randn(outputs, inputs), torch.randn(outputs), torch.randn(32, inputs)
    product = Product(weight, bias)
    whole = product(rows)
    assert torch.allclose(whole, F.linear(rows, weight, bias), atol=1e-4)
    assert torch.allclose(Product(weight, None)(rows), rows @ weight.t(), atol=1e-4)
    for count in (1, 2, 3, LEAST_ROWS, 9, 16):
        assert torch.equal(product(rows[-count:]), whole[-count:]), count


def test_without_packed_weights_few_rows_are_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a PyTorch without oneDNN's products, I expect one row to be multiplied as one of LEAST_ROWS."""
    torch.manual_seed(0)
    monkeypatch.setattr(products, "PACKED", False)
    product, row = Product(torch.randn(64, 512), torch.randn(64)), torch.randn(1, 512)
    padded = torch.cat([row, torch.zeros(LEAST_ROWS - 1, 512)])
    assert torch.equal(product(row), product(padded)[:1])


@pytest.mark.parametrize("numbers", [FEWEST_PACKED // 2, FEWEST_PACKED])
def test_products_are_the_same_with_any_number_of_rows(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weights, rows = torch.randn(3, 64, numbers // 64), torch.randn(3, 2 * LEAST_ROWS, 64)
    made, few = torch.empty(3, 2 * LEAST_ROWS, numbers // 64), torch.empty(3, LEAST_ROWS, numbers // 64)
    several = Products(weights)
    several(rows, made)
    assert torch.allclose(made, rows @ weights, atol=1e-4)
    several(rows[:, 1:-3].contiguous(), few)
    assert torch.equal(few, made[:, 1:-3])
    assert sum(buffer.nbytes for buffer in several.buffers()) >= weights.nbytes
    monkeypatch.setattr(products, "PACKED", False)
    Products(weights)(rows, few := torch.empty_like(made))
    assert torch.allclose(few, made, atol=1e-4)
