"""Copies are caught, and generalisation is not taken for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.evaluation.memorisation import memorisation


def _draw(count: int, seed: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TRAINING, HELD_OUT = _draw(600, 1), _draw(200, 2)


def test_new_pictures_are_as_near_to_held_out_as_to_training_ones() -> None:
    found = memorisation(_draw(500, 3), TRAINING, HELD_OUT, held_out_unseen=True)
    assert found.closer_to_training == pytest.approx(0.5, abs=0.07)
    assert found.copies < 0.05
    assert found.to_training["0.5"] == pytest.approx(found.to_held_out["0.5"], rel=0.1)
    assert found.real_to_training["0.5"] == pytest.approx(found.to_training["0.5"], rel=0.1)
    assert (found.n_training, found.n_held_out, found.held_out_unseen) == (600, 200, True)


def test_copies_of_training_pictures_are_caught() -> None:
    """Given copies with a little noise of half the training pictures, I expect nearly all to be named as copies."""
    copied = TRAINING[:300] + _draw(300, 3) * 0.02
    found = memorisation(copied, TRAINING, HELD_OUT, held_out_unseen=True)
    assert found.copies > 0.95
    assert found.closer_to_training > 0.75  # 200 of the 300 are copies of the 200 that are as many as the held-out ones
    assert found.to_training["0.25"] < 0.1 * found.to_held_out["0.25"]


def test_copies_are_caught_even_where_the_held_out_pictures_were_copied_too() -> None:
    both = torch.cat([TRAINING[:200], HELD_OUT]) + _draw(400, 3) * 0.02
    found = memorisation(both, TRAINING, HELD_OUT, held_out_unseen=False)
    assert found.closer_to_training == pytest.approx(0.5, abs=0.05)
    assert found.copies == pytest.approx(0.5, abs=0.05)


def test_a_share_of_copies_is_that_share() -> None:
    mixed = torch.cat([TRAINING[:50], _draw(450, 3)])
    assert memorisation(mixed, TRAINING, HELD_OUT, held_out_unseen=True).copies == pytest.approx(0.1, abs=0.04)


def test_what_is_exactly_as_near_to_both_counts_half() -> None:
    same = _draw(20, 5)
    assert memorisation(_draw(50, 6), same, same, held_out_unseen=False).closer_to_training == 0.5
