"""Products give each row the same numbers in any company, in whatever library's order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models import products
from models.products import LEAST_ROWS, Product, Products


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


@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(9, 64, 128), (25, 136, 272), (3, 1, 4)])
def test_products_are_the_same_with_any_number_of_rows(groups: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    weights, rows = torch.randn(groups, inputs, outputs), torch.randn(192, groups, inputs)
    several = Products(weights)
    made = several(rows)
    assert torch.allclose(made, torch.einsum("tic,ico->tio", rows, weights), atol=1e-4)
    fewest = (1, 2) if products.GROUPED else ()  # else MKL's, in another order
    for count in (*fewest, LEAST_ROWS, 16, 63, 64, 80, 128):
        assert torch.equal(several(rows[-count:]), made[-count:]), count


def test_weights_are_held_once_for_each_layout() -> None:
    """Given products of many numbers of rows, I expect their weights to be held no more than a few times."""
    torch.manual_seed(0)
    weights = torch.randn(9, 256, 512)
    several = Products(weights)
    for count in range(1, 129):
        several(torch.randn(count, 9, 256))
    assert weights.nbytes <= sum(buffer.nbytes for buffer in several.buffers()) <= 3 * weights.nbytes
    assert several.state_dict() == {}


def test_without_groups_products_are_the_library_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a processor on which oneDNN's convolutions in groups are slow, I expect the same products by another way."""
    torch.manual_seed(0)
    weights, rows = torch.randn(9, 64, 128), torch.randn(2 * LEAST_ROWS, 9, 64)
    expected = Products(weights)(rows)
    monkeypatch.setattr(products, "GROUPED", False)
    other = Products(weights)
    assert [name for name, _ in other.named_buffers()] == ["weights"]
    assert torch.allclose(other(rows), expected, atol=1e-4)
    assert torch.equal(other(rows[LEAST_ROWS:]), other(rows)[LEAST_ROWS:])
