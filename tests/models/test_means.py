"""Means are kept by name, for as many steps as had one."""

from __future__ import annotations

import pytest
import torch

from models.means import Means


def test_each_mean_is_over_the_steps_that_had_one() -> None:
    means = Means()
    means.add({"loss": torch.tensor(1.0), "penalty": torch.tensor(5.0), "weight": 0.5})
    means.add({"loss": torch.tensor(2.0), "weight": 1.0})
    assert means.read() == {"loss": 1.5, "penalty": 5.0, "weight": 0.75}


def test_reading_begins_anew() -> None:
    means = Means()
    means.add({"loss": torch.tensor(1.0)})
    means.read()
    assert means.read() == {}
    means.add({"loss": torch.tensor(3.0)})
    assert means.read() == {"loss": 3.0}


def test_no_graph_is_kept() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    means = Means()
    means.add({"loss": weight * 3})
    (kept,) = means._sums.values()
    assert isinstance(kept, torch.Tensor)
    assert not kept.requires_grad
    assert means.read() == {"loss": 6.0}


def test_the_sum_of_many_steps_is_not_rounded_away() -> None:
    means = Means()
    for _ in range(1000):
        means.add({"loss": torch.tensor(0.1)})
    assert means.read()["loss"] == pytest.approx(0.1, rel=1e-5)
