"""The sparing forms of a transposed convolution give what the plain one gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.winograd import NUMBERS, OverlapDoubling, WinogradDoubling, Workspace

SIDES = [(4, 4), (6, 6), (2, 8)]


def _case(channels: int, outputs: int, count: int, sides: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    maps = torch.randn(count, channels, *sides).to(memory_format=torch.channels_last)
    return maps, torch.randn(channels, outputs, 4, 4), torch.randn(outputs)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("rectify", [False, True])
def test_fewer_products_make_the_same_maps(sides: tuple[int, int], rectify: bool) -> None:
    maps, weight, bias = _case(16, 5, 3, sides)
    expected = F.conv_transpose2d(maps, weight, bias, stride=2, padding=1)
    made = WinogradDoubling(weight, bias, Workspace(), rectify=rectify)(maps)
    assert torch.allclose(made, expected.relu() if rectify else expected, atol=1e-4)


@pytest.mark.parametrize("sides", SIDES)
def test_overlapping_patches_add_up_to_the_same_pixels(sides: tuple[int, int]) -> None:
    maps, weight, bias = _case(16, 3, 3, sides)
    expected = F.conv_transpose2d(maps, weight, bias, stride=2, padding=1)
    assert torch.allclose(OverlapDoubling(weight, bias, Workspace())(maps), expected, atol=1e-4)
    plain = OverlapDoubling(weight, None, Workspace())(maps)
    assert torch.allclose(plain, expected - bias[:, None, None], atol=1e-4)


def test_a_batch_that_is_made_in_several_steps_is_whole() -> None:
    channels = NUMBERS // 16  # so that four pictures of four tiles are a step
    maps, weight, _ = _case(channels, 2, 6, (4, 4))
    made = WinogradDoubling(weight, None, Workspace(), rectify=False)(maps)
    expected = F.conv_transpose2d(maps, weight, stride=2, padding=1)
    assert torch.allclose(made, expected, atol=1e-2, rtol=1e-4)


def test_layers_share_their_memory_but_not_what_they_give() -> None:
    """Given two layers of one workspace, when the second has run, I expect the first one's maps as they were."""
    workspace = Workspace()
    maps, weight, _ = _case(8, 8, 2, (4, 4))
    layers = nn.ModuleList(WinogradDoubling(weight, None, workspace, rectify=False) for _ in range(2))
    first = layers[0](maps)
    kept = first.clone()
    layers[1](first)
    assert torch.equal(first, kept)
    own = sum(buffer.nbytes for layer in layers for buffer in layer.buffers())
    assert sum(buffer.nbytes for buffer in layers.buffers()) < own


def test_memory_grows_to_the_largest_and_is_kept() -> None:
    workspace = Workspace()
    small, large = workspace.take("a", 2, 3), workspace.take("a", 4, 5)
    assert (small.shape, large.shape) == ((2, 3), (4, 5))
    assert workspace.take("a", 2, 3).data_ptr() == large.data_ptr()
    assert sum(buffer.nbytes for buffer in workspace.buffers()) == 4 * 20
    assert workspace.state_dict() == {}
