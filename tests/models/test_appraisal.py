"""Measuring keeps to its share of the time, ends no training by failing, and knows when it was in vain."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
import torch

from models.appraisal import Appraisals
from models.config import TrainingConfig
from models.errors import ModelsError, Stopped
from models.generator import Generator
from models.training import Training
from tests.models.conftest import Prepare

Configure = Callable[..., TrainingConfig]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def generator(prepared: Prepare, configured: Configure) -> Generator:
    return Training(prepared(8), configured(), torch.device("cpu")).sampled()


def scored(*scores: float) -> Callable[[Generator], Mapping[str, float]]:
    left: Iterator[float] = iter(scores)
    return lambda generator: {"fd_domain": next(left)}


def test_it_takes_no_more_than_its_share_of_the_time(configured: Configure, generator: Generator, clock: Clock) -> None:
    """Given a measurement of 2 s and a share of 5 %, I expect one after 30 s, then as many as 5 % allow and one at the end."""

    def measure(generator: Generator) -> dict[str, float]:
        clock.now_s += 2
        return {}

    appraisals, taken_at = Appraisals(measure, configured()), []
    began_at = clock.now_s
    while clock.now_s - began_at < 600:
        clock.now_s += 1
        if appraisals.due():
            appraisals.take(generator)
            taken_at.append(clock.now_s - began_at)
    assert taken_at[0] == 32
    assert all(2 * (number + 1) <= 0.05 * (at + 2) for number, at in enumerate(taken_at) if number > 0)
    assert 10 <= len(taken_at) <= 14
    assert appraisals.due(ending=True)
    assert (len(taken_at) + 1) * 2 <= 0.05 * 600 + 2


@pytest.mark.parametrize("change", [{"evaluation_share": 0.0}, {"measure": None}])
def test_where_nothing_is_measured_nothing_is_ever_due(
    change: dict[str, float | None], configured: Configure, clock: Clock
) -> None:
    config = replace(configured(), evaluation_share=change.get("evaluation_share", 0.05) or 0.0)
    appraisals = Appraisals(None if "measure" in change else scored(1), config)
    clock.now_s += 1e6
    assert not appraisals.due()
    assert not appraisals.due(ending=True)


@pytest.mark.parametrize("error", [ModelsError("too few"), RuntimeError("out of memory"), Stopped("stopped")])
def test_one_that_fails_is_left_out_and_its_time_counts(
    error: Exception, configured: Configure, generator: Generator, clock: Clock
) -> None:
    def measure(generator: Generator) -> dict[str, float]:
        clock.now_s += 30
        raise error

    appraisals = Appraisals(measure, configured())
    clock.now_s += 30
    assert appraisals.due()
    assert appraisals.take(generator) is None
    clock.now_s += 600
    assert not appraisals.due()


def test_patience_ends_after_so_many_that_are_no_better(configured: Configure, generator: Generator) -> None:
    appraisals = Appraisals(scored(5, 3, 4, 2, 2, 2), replace(configured(), patience=2))
    seen = []
    for _ in range(6):
        appraisals.take(generator)
        seen.append(appraisals.in_vain)
    assert seen == [False, False, False, False, False, True]


def test_without_patience_nothing_is_in_vain(configured: Configure, generator: Generator) -> None:
    appraisals = Appraisals(scored(1, 2, 3), configured())
    for _ in range(3):
        appraisals.take(generator)
    assert not appraisals.in_vain
