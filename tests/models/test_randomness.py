"""The order of images follows from seed and position alone."""

from __future__ import annotations

import torch

from models.randomness import EndlessShuffle, derived_generator, derived_seed


def test_each_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    shuffle = EndlessShuffle(10, seed=1)
    first, second = shuffle.at(0, 10), shuffle.at(10, 10)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_a_batch_may_cross_the_end_of_an_epoch_or_several() -> None:
    shuffle = EndlessShuffle(10, seed=1)
    whole = torch.cat([shuffle.at(epoch * 10, 10) for epoch in range(4)])
    assert torch.equal(shuffle.at(7, 6), whole[7:13])
    assert torch.equal(shuffle.at(3, 32), whole[3:35])


def test_the_order_does_not_depend_on_where_one_begins() -> None:
    begun, resumed = EndlessShuffle(10, seed=1), EndlessShuffle(10, seed=1)
    begun.at(0, 24)
    assert torch.equal(begun.at(24, 8), resumed.at(24, 8))


def test_seeds_and_purposes_draw_different_numbers() -> None:
    seeds = {derived_seed(seed, purpose) for seed in (0, 1) for purpose in ("weights", "steps")}
    assert len(seeds) == 4
    assert derived_seed(0, "weights") == 133_441_691_874_178_746, "a training of an older version would go on wrongly"
    first, second = derived_generator(0, "steps"), derived_generator(0, "weights")
    assert not torch.equal(torch.randn(4, generator=first), torch.randn(4, generator=second))
