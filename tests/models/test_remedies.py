"""Remedies come one at a time, in order, and never change what the networks are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.catalog import KINDS, parse_options
from models.objective import Shape
from models.registry import build_objective
from models.remedies import Rollback, next_remedy, remedied
from models.trouble import Trouble
from tests.models.conftest import SMALL


def ladder(kind: str, trouble: Trouble, count: int, **options: Any) -> list[dict[str, Any]]:
    """The first `count` remedies."""
    start, taken = parse_options(kind, options), list[Rollback]()
    for _ in range(count):
        changes = next_remedy(remedied(start, taken), trouble)
        taken.append(Rollback(trouble=trouble, seen_at=2, back_to=1, options=changes))
    return [rollback.options for rollback in taken]


def test_a_gan_is_held_down_then_shown_views_then_slowed() -> None:
    assert ladder("gan-dcgan", Trouble.COVERAGE_DROP, 6) == [
        {"penalty": "r1"},
        {"penalty": "r1-r2", "gamma": 4.0},
        {"augment": "translation"},
        {"augment": "colour-translation-cutout"},
        {"learning_rate": 1e-4},
        {"learning_rate": 5e-5},
    ]


def test_what_is_there_already_is_no_remedy() -> None:
    options = {"penalty": "r1-r2", "augment": "colour-translation-cutout", "discriminator_learning_rate": 4e-4}
    assert ladder("gan-dcgan", Trouble.LOW_DIVERSITY, 1, **options) == [
        {"learning_rate": 1e-4, "discriminator_learning_rate": 2e-4}
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_against_numbers_that_overflow_steps_are_halved(kind: str) -> None:
    first, second = (changes["learning_rate"] for changes in ladder(kind, Trouble.NOT_FINITE, 2))
    assert second == first / 2 == getattr(parse_options(kind, {}), "learning_rate") / 4  # noqa: B009 # not all options have one


@pytest.mark.parametrize("kind", KINDS)
def test_weights_fit_after_every_remedy(kind: str) -> None:
    before = parse_options(kind, SMALL[kind])
    after = remedied(
        before,
        [
            Rollback(trouble=Trouble.COVERAGE_DROP, seen_at=2, back_to=1, options=changes)
            for changes in ladder(kind, Trouble.COVERAGE_DROP, 5, **SMALL[kind])
        ],
    )
    assert after != before
    one, other = (build_objective(kind, options, Shape(32, 1, 2), torch.device("cpu")) for options in (before, after))
    for phase, changed in zip(one.phases, other.phases, strict=True):
        changed.module.load_state_dict(phase.module.state_dict())


def test_a_rollback_can_be_told_in_a_sentence() -> None:
    told = Rollback(trouble=Trouble.COVERAGE_DROP, seen_at=20_000, back_to=8_000, options={"penalty": "r1"}).says
    assert told == (
        "After 20,000 images (coverage drop) the training went back to 8,000 images and on with penalty = r1."
    )
