"""A batch is dealt out whole, and a process by itself does nothing that it would not do otherwise."""

from __future__ import annotations

import pytest
import torch

from models.errors import InvalidOption
from models.ranks import ALONE, Ranks, most_sharing


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_image_of_a_batch_is_one_ranks(count: int) -> None:
    images = list(range(8))
    shares = [images[Ranks(rank, count).share(8)] for rank in range(count)]
    assert [image for share in shares for image in share] == images
    assert {len(share) for share in shares} == {8 // count}


@pytest.mark.parametrize(("batch_size", "count"), [(8, 3), (4, 4), (2, 4)])
def test_a_batch_that_cannot_be_shared_evenly_is_refused(batch_size: int, count: int) -> None:
    with pytest.raises(InvalidOption, match=f"a multiple of {count}, at least {2 * count}") as caught:
        Ranks(0, count).share(batch_size)
    assert caught.value.parameter == "batch_size"


@pytest.mark.parametrize(("batch_size", "count", "most"), [(64, 4, 4), (50, 4, 2), (15, 4, 3), (7, 4, 1), (4, 8, 2)])
def test_of_several_devices_as_many_are_used_as_can_share(batch_size: int, count: int, most: int) -> None:
    assert most_sharing(batch_size, count) == most


def test_alone_nothing_is_changed() -> None:
    values = torch.tensor([1.0, 2.0])
    ALONE.average([values])
    assert values.tolist() == [1.0, 2.0]
    assert ALONE.from_first(1.0, 2.0) == (1.0, 2.0)
    assert ALONE.leads
