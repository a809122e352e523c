"""What an evaluation says: the measures by name, and their values for one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from models.evaluation.memorisation import Memorisation
from models.evaluation.strips import Suspect


@dataclass(frozen=True)
class Measure:
    """One way to compare generated pictures with real ones."""

    name: str
    title: str
    better: Literal["lower", "higher", "near the floor"]
    question: str  # that it answers, for people


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        measure.name: measure
        for measure in (
            Measure("fd_domain", "FD-domain", "lower", "How far are the features' Gaussians apart?"),
            Measure("kid", "KID", "lower", "The same without Gaussians, and unbiased in N."),
            Measure("swd", "SWD", "lower", "Are patches of every scale as in real pictures?"),
            Measure("precision", "precision", "higher", "How many generated pictures look real?"),
            Measure("recall", "recall", "higher", "How many real pictures could it have made?"),
            Measure("density", "density", "higher", "How deep among real ones do they lie?"),
            Measure("coverage", "coverage", "higher", "How many real pictures have one nearby?"),
            Measure("ms_ssim", "MS-SSIM of pairs", "near the floor", "Are they as varied? Above: too alike."),
            Measure("is_domain", "IS-domain", "near the floor", "Are readings clear, and all classes there?"),
            Measure("control_accuracy", "control accuracy", "higher", "Is it what was asked for?"),
            Measure("classifier_accuracy_score", "classifier accuracy score", "higher", "Do they teach the classes?"),
            Measure("fid", "FID", "lower", "As FD-domain, with the features that papers use."),
            Measure("inception_score", "IS", "near the floor", "As IS-domain, with Inception's classes, in ten parts."),
        )
    }
)


@dataclass(frozen=True)
class Score:
    """One measure's value."""

    value: float  # mean over Evaluation.rounds
    floor: float  # the same measure of real pictures in the place of generated ones, with the same N
    spread: float | None  # standard deviation over the rounds; None when there was but one


@dataclass(frozen=True)
class Evaluation:
    """One generator, measured. The same generator, data, extractor, n and seed give an equal one on the same machine."""

    kind: str
    images_seen: int  # by the generator, in training
    resolution: int  # pixels on a side
    channels: int
    seed: int  # of the first picture; the others count up
    n: int  # generated pictures in one round, and real ones for the floor
    rounds: int  # of n pictures each: more than 1 where fewer real pictures were left for the floor than were asked for
    n_reference: int  # real pictures that both are compared with
    reference: str  # where these are from
    extractor_sha256: str
    extractor_lesson: str  # "labels" or "contrast"
    extractor_seed: int  # of its lesson
    scores: dict[str, Score]  # by name, in the order of MEASURES; those that apply
    inception_sha256: str | None  # of the file that FID and IS are taken with; None: no file, and neither of them
    memorisation: Memorisation
    suspects: tuple[Suspect, ...]  # generated pictures nearest to training pictures, the nearest first
    notes: tuple[str, ...]  # what one should know before believing the numbers, in sentences
    images_per_s: float = field(compare=False)  # generated, with the making of pixels
    elapsed_s: float = field(compare=False)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, each score with its measure's title and direction."""
        scores = {
            name: {"title": MEASURES[name].title, "better": MEASURES[name].better, **asdict(score)}
            for name, score in self.scores.items()
        }
        return {**asdict(self), "scores": scores, "notes": list(self.notes)}
