"""Schedules go where they say."""

from __future__ import annotations

import pytest
import torch

from models.plateau import LEAST_SHARE, PATIENCE_WINDOWS, WINDOW_IMAGES, Plateau
from models.schedule import cosine, step_share


def test_a_cosine_goes_from_start_to_end_and_stays() -> None:
    assert cosine(2, 1, 0) == 2
    assert cosine(2, 1, 0.25, until=0.5) == pytest.approx(1.5)
    assert cosine(2, 1, 0.5, until=0.5) == cosine(2, 1, 0.9, until=0.5) == 1


def test_step_sizes_are_constant_unless_asked() -> None:
    assert step_share("constant", 0.7) == step_share("plateau", 0.7) == 1
    assert step_share("cosine", 0) == 1
    assert step_share("cosine", 1) == pytest.approx(0.01)


def _fed(plateau: Plateau, losses: list[float], start: int = 0) -> None:
    """One loss for each window."""
    for window, loss in enumerate(losses, start):
        plateau.add(torch.tensor(loss), window * WINDOW_IMAGES + 1)


def test_a_plateau_halves_the_step_once_a_loss_has_stopped_falling() -> None:
    plateau = Plateau()
    _fed(plateau, [3.0, 2.0, 1.0])
    assert plateau.share == 1
    _fed(plateau, [1.0] * (PATIENCE_WINDOWS + 1), start=3)
    assert plateau.share == 0.5


def test_a_plateau_never_stops_learning_altogether() -> None:
    plateau = Plateau()
    _fed(plateau, [1.0] * (PATIENCE_WINDOWS * 20))
    assert plateau.share == LEAST_SHARE


def test_a_plateau_goes_on_from_its_state() -> None:
    """Given a run that stops in the middle of a window, when it goes on, I expect the same halvings at the same images."""
    losses = [2.0, 1.0, *[1.0] * 12]
    straight, begun, resumed = Plateau(), Plateau(), Plateau()
    _fed(straight, losses)
    _fed(begun, losses[:6])
    resumed.restore(begun.state())
    _fed(resumed, losses[6:], start=6)
    assert torch.equal(resumed.state(), straight.state())
