"""Each detector sees its own trouble, says so with the numbers, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from models.config import TrainingConfig
from models.errors import TrainingDiverged
from models.trouble import Moment, Trouble, coverage_drop, memorising, ms_ssim_gap, not_finite, overfitted
from models.watch import Watch

Configure = Callable[..., TrainingConfig]

HEALTHY = {
    "coverage": 0.6,
    "coverage_floor": 0.9,
    "ms_ssim": 0.45,
    "ms_ssim_floor": 0.4,
    "diversity": 0.9,
    "copies": 0.01,
}
CALM = {"R_t": 0.4, "D_real_logit": 1.0}


def watched(
    config: TrainingConfig,
    scores: Sequence[Mapping[str, float]] = (HEALTHY,) * 12,
    gauges: Sequence[Mapping[str, float]] = (CALM,) * 12,
) -> list[set[Trouble]]:
    """What is found at each of twelve moments of a training on 100 pictures."""
    watch, found = Watch(config, 100), []
    for number, (scored, gauged) in enumerate(zip(scores, gauges, strict=True), start=1):
        findings = watch.look(number * 100, number / 12, gauged, scored, Path(f"ckpt-{number}"))
        found.append({finding.name for finding in findings})
    return found


def moments(values: Sequence[Mapping[str, float]], fractions: Sequence[float] | None = None) -> list[Moment]:
    """Moments of 100 images each, past the beginning unless fractions say otherwise."""
    fractions = fractions or [0.2 + 0.6 * number / len(values) for number in range(len(values))]
    return [Moment((number + 1) * 100, fractions[number], one) for number, one in enumerate(values)]


def test_a_training_that_goes_well_is_left_in_peace(configured: Configure) -> None:
    assert watched(configured()) == [set()] * 12


@pytest.mark.parametrize(
    ("trouble", "change"),
    [
        (Trouble.COVERAGE_DROP, {"coverage": 0.2}),
        (Trouble.MS_SSIM_GAP, {"ms_ssim": 0.75}),
        (Trouble.LOW_DIVERSITY, {"diversity": 0.4}),
        (Trouble.MEMORISING, {"copies": 0.3}),
    ],
)
def test_scores_that_turn_bad_are_that_trouble_alone(
    trouble: Trouble, change: dict[str, float], configured: Configure
) -> None:
    found = watched(configured(), scores=[HEALTHY] * 8 + [{**HEALTHY, **change}] * 4)
    assert found[:8] == [set()] * 8
    assert found[9:] == [{trouble}] * 3


@pytest.mark.parametrize("bad", [{"R_t": 0.99}, {"R_t": 0.2, "r_v": 0.8}])
def test_a_discriminator_that_knows_its_pictures_by_heart_is_seen(bad: dict[str, float], configured: Configure) -> None:
    found = watched(configured(), gauges=[CALM] * 6 + [bad] * 6)
    assert found[:6] == [set()] * 6
    assert found[-1] == {Trouble.DISCRIMINATOR_OVERFITTING}


def test_held_out_pictures_are_believed_before_a_guess(configured: Configure) -> None:
    assert watched(configured(), gauges=[{"R_t": 1.0, "r_v": 0.1}] * 12) == [set()] * 12


def test_where_logits_are_only_compared_their_sign_says_nothing(configured: Configure) -> None:
    config = configured(options={"loss": "relativistic"})
    assert watched(config, gauges=[{"R_t": 1.0}] * 12) == [set()] * 12


def test_a_beginning_is_no_collapse(configured: Configure) -> None:
    """Given pictures that are all alike at first, as they are, I expect nothing to be found."""
    alike = moments([{"ms_ssim": 0.99, "ms_ssim_floor": 0.4}] * 2, fractions=[0.01, 0.02])
    assert ms_ssim_gap(alike) is None
    none_yet = moments([{"coverage": 0.05, "coverage_floor": 0.9}, {"coverage": 0.01, "coverage_floor": 0.9}])
    assert coverage_drop(none_yet) is None


def test_one_measurement_alone_may_be_chance() -> None:
    once = moments([{"copies": 0.01}, {"copies": 0.9}, {"copies": 0.01}])
    assert [memorising(once[: count + 1]) for count in range(3)] == [None] * 3


def test_a_guess_is_told_but_not_acted_on(configured: Configure) -> None:
    watch = Watch(configured(), 10)
    for number in range(1, 11):
        found = watch.look(number * 100, number / 10, {"R_t": 1.0}, None, Path(f"ckpt-{number}"))
    assert [finding.certain for finding in found] == [False]
    assert watch.certain == ()
    assert watch.sound == Path("ckpt-10")


def test_nothing_is_known_by_heart_after_a_few_looks() -> None:
    sure = moments([{"R_t": 1.0}] * 10)
    assert overfitted(sure, pictures=100, absolute=True) is not None
    assert overfitted(sure, pictures=1000, absolute=True) is None


def test_findings_say_the_numbers_and_the_remedy() -> None:
    found = coverage_drop(
        moments([{"coverage": 0.54, "coverage_floor": 0.93}, {"coverage": 0.12, "coverage_floor": 0.93}])
    )
    assert found is not None
    assert all(words in found.says for words in ("12%", "54%", "93%", "at 100 images", "heavier penalty"))
    assert "learning_rate" in not_finite(TrainingDiverged({"G": float("nan")}, 64)).says


def test_the_way_back_leads_to_what_was_measured_and_sound(configured: Configure) -> None:
    watch = Watch(configured(), 100)
    bad = {**HEALTHY, "diversity": 0.1}
    for number, scores in enumerate([HEALTHY, None, None, bad, bad], start=1):
        found = watch.look(number * 100, 0.2 + number / 10, CALM, scores, Path(f"ckpt-{number}"))
    assert [finding.name for finding in found] == [Trouble.LOW_DIVERSITY]
    assert watch.refuge(found[0]) == Path("ckpt-1")
    assert watch.refuge(not_finite(TrainingDiverged({}, 500))) == Path("ckpt-4")
