"""Precision, recall, density and coverage, on points that can be counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.evaluation.neighbours import manifold, nearest


def _line(*places: float) -> Tensor:
    return torch.tensor(places)[:, None]


def _draw(count: int, seed: int, size: int = 8) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_counted_by_hand_on_a_line() -> None:
    """Given reals 0, 1, 3, 10 with k = 1, their balls are [-1, 1], [0, 2], [1, 5], [3, 17].

    Generated 0.5, 0.6, 4, 30 lie in 2, 2, 2 and 0 of them; their own balls are [0.4, 0.6], [0.5, 0.7], [0.6, 7.4], [4, 56].
    """
    found = manifold(_line(0, 1, 3, 10), _line(0.5, 0.6, 4, 30), neighbours=1)
    assert found.precision == 3 / 4
    assert found.density == (2 + 2 + 2 + 0) / (1 * 4)
    assert found.coverage == 4 / 4
    assert found.recall == 3 / 4  # all but 0: 1 and 3 by 4's ball, 10 by 30's


def test_pictures_of_the_same_distribution_score_about_what_theory_says() -> None:
    found = manifold(_draw(1500, 1), _draw(1500, 2), neighbours=5)
    assert found.coverage == pytest.approx(1 - 0.5**5, abs=0.02)
    assert found.density == pytest.approx(1, abs=0.06)
    assert found.precision > 0.9
    assert found.recall > 0.9


def test_a_dropped_mode_lowers_coverage_and_recall_and_leaves_density() -> None:
    """Given reals in two clusters, when one is never generated, I expect half of them not to be covered."""
    real = torch.cat([_draw(200, 1), _draw(200, 2) + 50])
    whole = manifold(real, torch.cat([_draw(200, 3), _draw(200, 4) + 50]))
    dropped = manifold(real, _draw(400, 3))
    assert dropped.coverage < 0.55 < 0.9 < whole.coverage
    assert dropped.recall < 0.55 < 0.85 < whole.recall
    assert dropped.density == pytest.approx(whole.density, abs=0.2)


def test_noise_lowers_precision_and_density() -> None:
    real = _draw(300, 1)
    noisy = manifold(real, _draw(300, 2) * 3)
    assert noisy.precision < 0.2
    assert noisy.density < 0.2


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = _draw(100, 1), _draw(70, 2)
    whole = manifold(real, generated), nearest(generated, real)
    monkeypatch.setattr("models.evaluation.neighbours._ROWS_AT_ONCE", 16)
    assert manifold(real, generated) == whole[0]
    assert torch.allclose(nearest(generated, real), whole[1])


def test_the_nearest_is_found() -> None:
    assert nearest(_line(0, 9), _line(2, 3, 10)).tolist() == [2, 1]


def test_too_few_points_have_no_neighbourhoods() -> None:
    with pytest.raises(ValueError, match="more than 5 images"):
        manifold(_draw(20, 1), _draw(5, 2))
