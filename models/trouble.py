"""What goes wrong with trainings, named: detectors over what was measured and watched so far.

Each detector is a function of the past alone and says in a sentence what it sees, with the numbers, and what to do. None of
them looks at pictures, and what is done about a finding is the loop's to decide (`models.trainer`, `models.remedies`).

Numbers go by the names that measurements (`models.evaluation.live`) and objectives give them; where one is absent, its
detector sees nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from models.errors import TrainingDiverged

SETTLED = 0.1  # of the budget: before it, pictures that are all alike are a beginning, not an end
CONFIRMED = 2  # measurements in a row that must agree, where one alone may be chance
COVERAGE_LOST = 0.5  # of the best coverage so far, and of what real pictures reach, below which data was given up
COVERAGE_GAINED = 0.2  # of what real pictures reach, above which there is coverage to lose
ALIKE = 0.4  # of the way from real pairs' MS-SSIM to 1, above which pairs are too alike
VARIED = 0.6  # of the mean distance between real pictures' features, below which there is little variety
SURE = 0.95  # of R_t
SURE_FOR = 0.1  # of the budget
SURE_EPOCHS = 5  # passes over the pictures before any can be known by heart
OVERFITTED = 0.5  # of r_v
COPIES = 0.1  # share of copies; new real pictures have 0.01
MOST_MOMENTS = 2_000  # of gauges that are kept


class Trouble(enum.StrEnum):
    """What can be found; a word is what rows and JSON have."""

    NOT_FINITE = "not_finite"
    COVERAGE_DROP = "coverage_drop"
    MS_SSIM_GAP = "ms_ssim_gap"
    LOW_DIVERSITY = "low_diversity"
    DISCRIMINATOR_OVERFITTING = "discriminator_overfitting"
    MEMORISING = "memorising"


@dataclass(frozen=True)
class Finding:
    """One trouble, seen at one moment."""

    name: Trouble
    says: str  # a sentence for people, with the numbers and what to do
    images_seen: int
    certain: bool = True  # False: a guess, which is told but never acted on

    def to_json(self) -> dict[str, Any]:
        """This finding as JSON values."""
        return {**vars(self), "name": self.name.value}


@dataclass(frozen=True)
class Moment:
    """Named numbers at one moment of a training."""

    images_seen: int
    fraction: float  # of the budget, 0 to 1
    values: Mapping[str, float]


def not_finite(error: TrainingDiverged) -> Finding:
    """What a loss or a weight that is no number is called."""
    return Finding(Trouble.NOT_FINITE, str(error), error.images_seen)


def coverage_drop(measured: Sequence[Moment], *, confirmed: int = CONFIRMED) -> Finding | None:  # noqa: ARG001 # see Args
    """Coverage once was much better than now: the generator gives up parts of the data.

    Args:
        measured: scores, oldest first.
        confirmed: not needed; a fall this deep is none of chance.
    """
    seen = _having(measured, "coverage")
    if not seen:
        return None
    last, best = seen[-1], max(seen, key=lambda moment: moment.values["coverage"])
    now, then = last.values["coverage"], best.values["coverage"]
    floor = last.values.get("coverage_floor", 1.0)
    if then < COVERAGE_GAINED * floor or now >= COVERAGE_LOST * min(then, floor):
        return None
    return Finding(
        Trouble.COVERAGE_DROP,
        f"the pictures cover {now:.0%} of the real ones, after {then:.0%} at {best.images_seen:,} images (other real "
        f"ones: {floor:.0%}); the generator gives up parts of the data: use the checkpoint of then, or train with a "
        "heavier penalty",
        last.images_seen,
    )


def ms_ssim_gap(measured: Sequence[Moment], *, confirmed: int = CONFIRMED) -> Finding | None:
    """Pairs of pictures are much more alike than pairs of real ones.

    Args:
        measured: scores, oldest first.
        confirmed: measurements in a row that must agree.
    """

    def gap(moment: Moment) -> float:
        alike, floor = moment.values["ms_ssim"], moment.values["ms_ssim_floor"]
        return (alike - floor) / max(1e-6, 1 - floor)

    last = _confirmed(_having(measured, "ms_ssim", "ms_ssim_floor"), lambda moment: gap(moment) > ALIKE, confirmed)
    if last is None:
        return None
    return Finding(
        Trouble.MS_SSIM_GAP,
        f"pairs of pictures are alike with an MS-SSIM of {last.values['ms_ssim']:.2f}, real ones with "
        f"{last.values['ms_ssim_floor']:.2f}; the generator repeats itself: use an earlier checkpoint, or train with a "
        "heavier penalty or more mode_seeking",
        last.images_seen,
    )


def low_diversity(measured: Sequence[Moment], *, confirmed: int = CONFIRMED) -> Finding | None:
    """Pictures lie much closer together than real ones do.

    Args:
        measured: scores, oldest first; diversity is the mean distance between pictures' features against that of real ones.
        confirmed: measurements in a row that must agree.
    """
    last = _confirmed(_having(measured, "diversity"), lambda moment: moment.values["diversity"] < VARIED, confirmed)
    if last is None:
        return None
    return Finding(
        Trouble.LOW_DIVERSITY,
        f"pictures differ {last.values['diversity']:.0%} as much as real ones do; the generator makes few kinds of "
        "them: use an earlier checkpoint, or train with a heavier penalty or more mode_seeking",
        last.images_seen,
    )


def memorising(measured: Sequence[Moment], *, confirmed: int = CONFIRMED) -> Finding | None:
    """Pictures lie nearer to training images than other real ones do.

    Args:
        measured: scores, oldest first.
        confirmed: measurements in a row that must agree.
    """
    copying = _having(measured, "copies")
    last = _confirmed(copying, lambda moment: moment.values["copies"] > COPIES, confirmed, settled=0.0)
    if last is None:
        return None
    return Finding(
        Trouble.MEMORISING,
        f"{last.values['copies']:.0%} of the pictures are nearer to a training image than 99 % of other real pictures "
        "are; the generator repeats what it learnt from: use an earlier checkpoint, train for less long, or on more "
        "pictures",
        last.images_seen,
    )


def overfitted(watched: Sequence[Moment], *, pictures: int, absolute: bool) -> Finding | None:
    """The discriminator knows its pictures by heart.

    Where some are held out, it is seen by its logits for these,

        r_v = (E D(training) - E D(held out)) / (E D(training) - E D(generated)),

    which nears 1 when pictures it has not learnt from are to it as good as generated ones. Where none are, it has to be
    guessed from how sure it is of those it learns from, R_t = E sign(D(training)), over a long time.

    Args:
        watched: gauges, oldest first.
        pictures: that are learnt from.
        absolute: whether the sign of a logit means anything: not in a game that only compares them.

    Source: Karras et al. 2020, arXiv:2006.06676, equation (1); the thresholds are ours, theirs steer an augmentation.
    """
    held_out = _having(watched, "r_v")
    if held_out:
        last = _confirmed(held_out, lambda moment: moment.values["r_v"] > OVERFITTED, CONFIRMED)
        if last is None:
            return None
        return Finding(
            Trouble.DISCRIMINATOR_OVERFITTING,
            f"to the discriminator, pictures that it has not learnt from are {last.values['r_v']:.0%} as far from its own "
            f"as generated ones (r_v, {last.images_seen / pictures:.0f} epochs); it knows them by heart: train with "
            "augment, or on more pictures",
            last.images_seen,
        )
    sure = _having(watched, "R_t") if absolute else []
    if not sure or sure[-1].images_seen < SURE_EPOCHS * pictures:
        return None
    last = since = sure[-1]
    for moment in reversed(sure):
        if moment.values["R_t"] <= SURE:
            break
        since = moment
    if last.fraction - since.fraction < SURE_FOR:
        return None
    return Finding(
        Trouble.DISCRIMINATOR_OVERFITTING,
        f"the discriminator has been sure of its pictures since {since.images_seen:,} images (R_t = "
        f"{last.values['R_t']:.2f}, {last.images_seen / pictures:.0f} epochs); it may know them by heart: train with "
        "augment, or hold some out to be certain",
        last.images_seen,
        certain=False,
    )


class OfScores(Protocol):
    """A detector that reads scores alone."""

    def __call__(self, measured: Sequence[Moment], *, confirmed: int = CONFIRMED) -> Finding | None: ...


OF_SCORES: tuple[OfScores, ...] = (coverage_drop, ms_ssim_gap, low_diversity, memorising)


def _having(moments: Sequence[Moment], *names: str) -> list[Moment]:
    return [moment for moment in moments if all(name in moment.values for name in names)]


def _confirmed(
    seen: Sequence[Moment], bad: Callable[[Moment], bool], confirmed: int, *, settled: float = SETTLED
) -> Moment | None:
    """The last moment, where it and those just before it are bad; None where they are not, or it is too early to tell."""
    last = seen[-confirmed:]
    enough = len(last) == confirmed and last[0].fraction >= settled
    return last[-1] if enough and all(bad(moment) for moment in last) else None
