"""Which cells the benchmark has: a cell is one trainer on one image set, for one budget, from one seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.sets import SETS
from models.catalog import KINDS

PLAIN = "plain-dcgan"
PYTHAE = (
    "pythae-shipped",
    "pythae-compact",
)  # the nets that it ships for such pictures, and nets about the size of ours
AUTO = "auto"  # `--kind auto`: Darkroom picks
OURS = (
    *KINDS,
    *(f"{kind.name}@{preset.name}" for kind in KINDS.values() for preset in kind.presets),
)  # as kind_of reads it
SPEED = "training-speed"  # not a trainer: PLAIN and gan-dcgan in turn, only for their images a second

SHORT_S, FASHION_S, PRODUCE_S, TURN_S = 180.0, 360.0, 600.0, 40.0
TURNS = 3  # of PLAIN and gan-dcgan each
COLLAPSE_SETS, COLLAPSE_SEEDS = ("fashion-mnist", "tiles-32"), (0, 1, 2)

#: Options other than a kind's defaults, by kind and set. The defaults are what users get, so think twice.
OPTIONS: Mapping[tuple[str, str], Mapping[str, Any]] = {}

QUICK_S, QUICK_PICTURES, QUICK_SET_IMAGES, QUICK_LESSON_IMAGES = 1.0, 64, 256, 128
QUICK_SETS = ("fashion-mnist", "fewshot-hands")
_QUICK_OPTIONS = {"base_channels": 8, "batch_size": 16, "latent_dim": 16}


@dataclass(frozen=True)
class Cell:
    """One entry of the results."""

    trainer: str  # one of OURS, AUTO, SPEED or a peer
    image_set: str  # a key of SETS
    resolution: int  # pixels on a side
    budget_s: float | None  # of training; for SPEED of each turn
    budget_images: int | None = None
    seed: int = 0
    pictures: int = 4000  # to generate and measure; 0: none
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)  # of the trainer, beside its defaults

    @property
    def key(self) -> str:
        """What tells cells apart: the name of the row in the results."""
        budget = f"{self.budget_images}images" if self.budget_s is None else f"{self.budget_s:g}s"
        parts = [self.trainer, self.image_set, f"{self.resolution}px", budget, f"seed{self.seed}", f"n{self.pictures}"]
        parts += [] if self.device == "cpu" else [self.device.partition(":")[0]]
        parts += [json.dumps(dict(self.options), sort_keys=True, separators=(",", ":"))] if self.options else []
        return "/".join(parts)

    def spent(self, elapsed_s: float, images_seen: int) -> bool:
        """Whether the budget is."""
        return (self.budget_s is not None and elapsed_s >= self.budget_s) or (
            self.budget_images is not None and images_seen >= self.budget_images
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "options": dict(self.options)}


@dataclass(frozen=True)
class Plan:
    """All cells of one benchmark, in the order they are run: those of the named figures first."""

    quick: bool = False
    device: str = "cpu"
    images: int | None = None  # the matrix goes by images instead of seconds, and nothing else is run

    def cells(self) -> list[Cell]:
        return list({cell.key: cell for cell in self._all()}.values())

    @property
    def sets(self) -> tuple[str, ...]:
        return QUICK_SETS if self.quick else tuple(SETS)

    @property
    def seeds(self) -> tuple[int, ...]:
        return COLLAPSE_SEEDS[:2] if self.quick else COLLAPSE_SEEDS

    @property
    def collapse_sets(self) -> tuple[str, ...]:
        return tuple(name for name in COLLAPSE_SETS if name in self.sets)

    def cell(self, trainer: str, image_set: str, budget_s: float, seed: int = 0) -> Cell:
        """The cell of this plan that stands for such a training."""
        chosen = SETS[image_set]
        options = dict(OPTIONS.get((trainer, image_set), {}))
        by_images = self.images if budget_s == SHORT_S else None
        if self.quick and trainer in OURS:
            fields = KINDS[kind_of(trainer)[0]].options.model_fields
            options = {**{name: value for name, value in _QUICK_OPTIONS.items() if name in fields}, **options}
        return Cell(
            trainer=trainer,
            image_set=image_set,
            resolution=chosen.resolution,
            budget_s=None if by_images else QUICK_S if self.quick else budget_s,
            budget_images=by_images,
            seed=seed,
            pictures=0 if trainer == SPEED else QUICK_PICTURES if self.quick else chosen.pictures,
            device=self.device,
            options=options,
        )

    def _all(self) -> Iterator[Cell]:
        shipped, compact = PYTHAE
        if self.images is None:
            yield self.cell(SPEED, "produce-64", TURN_S)
            if self.device != "cpu":  # what only a GPU is fast enough for
                yield from (self.cell(name, "produce-64", PRODUCE_S) for name in ("gan-dcgan", "gan-r3"))
                return
            for image_set, budget_s in (("fashion-mnist", FASHION_S), ("produce-64", PRODUCE_S)):
                if image_set in self.sets:
                    yield from (self.cell(name, image_set, budget_s) for name in contenders())
        for image_set in self.sets:
            yield from (self.cell(trainer, image_set, SHORT_S) for trainer in (PLAIN, *OURS, AUTO, compact))
        if self.images is None:
            for image_set in self.collapse_sets:
                yield from (self.cell(kind, image_set, SHORT_S, seed) for kind in OURS for seed in self.seeds)
        if not self.quick:  # last, since these take the longest, not to train but to fit and to sample
            yield from (self.cell(shipped, image_set, SHORT_S) for image_set in self.sets)


def contenders() -> list[str]:
    """Who runs for the named figures: the plain loop, and our kinds but for the one that is made for few pictures."""
    return [PLAIN, *(name for name in OURS if kind_of(name)[0] != "gan-fewshot")]


def kind_of(trainer: str) -> tuple[str, str | None]:
    """A kind (or AUTO) and a preset of it: `gan-dcgan@quick` is both."""
    kind, _, preset = trainer.partition("@")
    return kind, preset or None
