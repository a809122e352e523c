"""The sparing forms of a transposed convolution give what the plain one gives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.winograd import (
    GROUP,
    LARGE,
    MOST_WEIGHTS,
    PATCHES,
    SMALL,
    OverlapDoubling,
    WinogradDoubling,
    Workspace,
)

SIDES = [(4, 4), (6, 6), (2, 8), (8, 12)]  # for large tiles where both are multiples of four


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


@pytest.mark.parametrize(("side", "of_tiles"), [(16, LARGE), (10, SMALL)])
def test_tiles_of_several_groups_are_whole_pictures(side: int, of_tiles: int) -> None:
    count = 2 * GROUP // (side // of_tiles) ** 2 + 1
    maps, weight, bias = _case(8, 2, count, (side, side))
    made = WinogradDoubling(weight, bias, Workspace(), rectify=False)(maps)
    assert torch.allclose(made, F.conv_transpose2d(maps, weight, bias, stride=2, padding=1), atol=1e-4)


def test_small_maps_are_made_in_small_tiles_so_that_one_picture_gives_rows_enough() -> None:
    maps, weight, bias = _case(8, 8, 16, (4, 4))
    layer = WinogradDoubling(weight, bias, Workspace(), rectify=False)
    together = layer(maps).clone()
    assert torch.equal(layer(maps[:1]), together[:1])


def test_patches_of_several_groups_are_whole_pictures() -> None:
    maps, weight, bias = _case(4, 3, 2 * PATCHES // (16 * 16 * 16 * 3) + 1, (16, 16))
    made = OverlapDoubling(weight, bias, Workspace())(maps)
    assert torch.allclose(made, F.conv_transpose2d(maps, weight, bias, stride=2, padding=1), atol=1e-4)


def test_many_channels_are_made_in_small_tiles() -> None:
    maps, weight, bias = _case(2, MOST_WEIGHTS // 2 + 8, 1, (8, 8))  # large enough for large tiles
    layer = WinogradDoubling(weight, bias, Workspace(), rectify=False)
    assert torch.allclose(layer(maps), F.conv_transpose2d(maps, weight, bias, stride=2, padding=1), atol=1e-4)
    assert [name for name, _ in layer.named_children() if name.startswith("products")] == [f"products_{SMALL}"]


def test_each_thread_has_its_own_memory() -> None:
    workspace = Workspace()
    mine = workspace.take("a", 2)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(workspace.take, "a", 2).result()
    assert mine.data_ptr() != other.data_ptr()


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
