"""Convolutions with gradients of their own give PyTorch's numbers, twice over where penalties need it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import convolution
from models.convolution import DoublingConv2d, HalvingConv2d
from models.precision import computing


@pytest.fixture(params=[HalvingConv2d, DoublingConv2d])
def layer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> HalvingConv2d | DoublingConv2d:
    """A layer small enough for a test, that computes its own gradients all the same."""
    monkeypatch.setattr(convolution, "FEWEST_WEIGHTS", 0)
    torch.manual_seed(0)
    made: HalvingConv2d | DoublingConv2d = request.param(6, 4).double()
    return made


def _plain(layer: HalvingConv2d | DoublingConv2d, maps: Tensor) -> Tensor:
    act = F.conv2d if isinstance(layer, HalvingConv2d) else F.conv_transpose2d
    made: Tensor = act(maps, layer.weight, stride=2, padding=1)
    return made


def _maps(memory: torch.memory_format) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(3, 6, 4, 4, generator=random, dtype=torch.float64).contiguous(memory_format=memory)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_pytorch(layer: HalvingConv2d | DoublingConv2d, memory: torch.memory_format) -> None:
    ours = _maps(memory).requires_grad_(True)
    theirs = ours.detach().clone().requires_grad_(True)
    made, expected = layer(ours), _plain(layer, theirs)
    assert made.grad_fn is not None
    assert "Backward" in made.grad_fn.name()
    assert "onvolution" not in made.grad_fn.name()
    assert torch.equal(made, expected)
    weights = torch.linspace(-1, 1, made.numel(), dtype=torch.float64).view_as(made)
    for first, second in zip(
        torch.autograd.grad(made, (ours, layer.weight), weights),
        torch.autograd.grad(expected, (theirs, layer.weight), weights),
        strict=True,
    ):
        assert torch.allclose(first, second, rtol=1e-10)


def test_slopes_can_be_penalised_through_them(layer: HalvingConv2d | DoublingConv2d) -> None:
    """Given a penalty on the gradient at the maps, when it is differentiated, I expect what PyTorch's own layer gives."""
    found = []
    for act in (layer, lambda maps: _plain(layer, maps)):
        maps = _maps(torch.contiguous_format).requires_grad_(True)
        (slope,) = torch.autograd.grad(act(maps).tanh().sum(), maps, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), layer.weight)[0])
    assert torch.allclose(found[0], found[1], rtol=1e-8)


def test_where_it_does_not_pay_pytorch_does_it_all() -> None:
    narrow = HalvingConv2d(6, 4)
    made = narrow(torch.randn(1, 6, 4, 4))
    assert made.grad_fn is not None
    assert "onvolution" in made.grad_fn.name()


def test_in_bfloat16_they_compute_as_pytorch_does(layer: HalvingConv2d | DoublingConv2d) -> None:
    """Given automatic mixed precision and float32 weights, I expect bfloat16 maps and float32 gradients near PyTorch's."""
    layer = layer.float()
    found = []
    for act in (layer, lambda maps: _plain(layer, maps)):
        maps = _maps(torch.channels_last).float().requires_grad_(True)
        with computing("bf16", maps.device):
            made = act(maps)
        assert made.dtype == torch.bfloat16
        found.append((made.detach(), *torch.autograd.grad(made.float().square().sum(), (maps, layer.weight))))
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, rtol=0.05, atol=0.05 * theirs.abs().max().item())
