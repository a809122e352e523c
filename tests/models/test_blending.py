"""Latents made of two."""

from __future__ import annotations

import math

import pytest
import torch

from models.blending import slerp, vary

A, B = (torch.randn(100, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (1, 2))


def test_ends_are_given_back_to_the_bit() -> None:
    assert torch.equal(slerp(A, B, 0.0), A)
    assert torch.equal(slerp(A, B, 1.0), B)
    assert torch.equal(vary(A, B, 0.0), A)
    assert torch.equal(vary(A, B, 1.0), B)


def test_the_way_is_an_arc_and_not_its_chord() -> None:
    x, y = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64)
    third = slerp(x, y, 1 / 3)
    assert third.tolist() == pytest.approx([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)])
    assert float(slerp(A, B, 0.5).norm()) > 1.2 * float(((A + B) / 2).norm())


def test_what_has_no_arc_is_crossed_in_a_straight_line() -> None:
    for start, end in ((A, A), (A, 2 * A), (A, -A), (A, torch.zeros_like(A))):
        way = slerp(start, end, 0.5)
        assert way.isfinite().all()


def test_variations_stay_standard_normal() -> None:
    source = torch.Generator().manual_seed(3)
    of, noise = torch.randn(2, 100_000, generator=source, dtype=torch.float64)
    varied = vary(of, noise, 0.6)
    assert float(varied.std()) == pytest.approx(1, abs=0.02)
    assert float((varied * of).mean()) == pytest.approx(0.8, abs=0.02)
