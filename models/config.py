"""What a training is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from models.catalog import (
    MAX_BUDGET_IMAGES,
    MAX_BUDGET_S,
    MAX_EVALUATION_SHARE,
    MAX_HELD_OUT,
    MAX_PATIENCE,
    MAX_SEED,
    parse_options,
)
from models.errors import InvalidOption
from models.options import OnTrouble, TrainOptions


@dataclass(frozen=True)
class TrainingConfig:
    """What to train, for how long, and how often to show for it."""

    kind: str  # a key of catalog.KINDS
    resolution: int  # pixels on a side; the prepared images may have more
    options: TrainOptions  # of that kind, from catalog.parse_options
    budget_images: int | None = None  # images seen in the end; None: no such bound
    budget_s: float | None = (
        None  # seconds of training over all attempts; None: no such bound. One of the two is needed
    )
    seed: int = 0
    checkpoint_interval_s: float = 30.0
    tick_interval_s: float = 1.0
    preview_interval_s: float = 15.0
    evaluation_share: float = (
        0.05  # of the time, at most, for measuring the averaged generator; 0: it is never measured
    )
    evaluation_interval_s: float = 30.0  # at least, before the first measurement and between two
    patience: int | None = None  # measurements without a better FD-domain that end an attempt; None: it goes on
    on_trouble: OnTrouble = (
        "note"  # found while it trains: say so, end, or go back to a healthy checkpoint and remedy it
    )
    stop_on_memorising: bool | None = (
        None  # end at the last healthy checkpoint; None: where it began with another model's weights
    )
    held_out: float = (
        0.0  # share of the images that are not learnt from, so that overfitting shows; 0: all are learnt from
    )

    def __post_init__(self) -> None:
        if self.budget_images is None and self.budget_s is None:
            raise InvalidOption("budget", "neither images nor seconds are given", "images, seconds or both")
        if self.budget_images is not None and not 1 <= self.budget_images <= MAX_BUDGET_IMAGES:
            raise InvalidOption("budget_images", f"got {self.budget_images}", f"integer from 1 to {MAX_BUDGET_IMAGES}")
        if self.budget_s is not None and not 0 < self.budget_s <= MAX_BUDGET_S:
            raise InvalidOption("budget_s", f"got {self.budget_s}", f"seconds above 0, to {MAX_BUDGET_S:g}")
        if not 0 <= self.evaluation_share <= MAX_EVALUATION_SHARE:
            bounds = f"number from 0 to {MAX_EVALUATION_SHARE}"
            raise InvalidOption("evaluation_share", f"got {self.evaluation_share}", bounds)
        if self.patience is not None and not 1 <= self.patience <= MAX_PATIENCE:
            raise InvalidOption("patience", f"got {self.patience}", f"integer from 1 to {MAX_PATIENCE}")
        if self.on_trouble not in get_args(OnTrouble):
            bounds = "one of: " + ", ".join(get_args(OnTrouble))
            raise InvalidOption("on_trouble", f"got {self.on_trouble!r}", bounds)
        if not 0 <= self.held_out <= MAX_HELD_OUT:
            raise InvalidOption("held_out", f"got {self.held_out}", f"share from 0 to {MAX_HELD_OUT}")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidOption("seed", f"got {self.seed}", f"integer from 0 to {MAX_SEED}")

    def to_json(self) -> dict[str, Any]:
        """This configuration as JSON values."""
        return {**self.__dict__, "options": self.options.model_dump(mode="json")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainingConfig:
        """What to_json wrote; raises OptionError for a kind or an option that is not known."""
        return cls(**{**content, "options": parse_options(content["kind"], content["options"])})

    def fraction(self, images_seen: int, elapsed_s: float) -> float:
        """How much of the budget is spent, 0 to 1; with two budgets, of the one that will be spent first."""
        of_images = images_seen / self.budget_images if self.budget_images is not None else 0.0
        of_seconds = elapsed_s / self.budget_s if self.budget_s is not None else 0.0
        return min(1.0, max(of_images, of_seconds))

    def eta_s(self, images_seen: int, elapsed_s: float, images_per_s: float) -> float | None:
        """Seconds until the budget is spent; None while there is no telling."""
        left = []
        if self.budget_images is not None and images_per_s > 0:
            left.append((self.budget_images - images_seen) / images_per_s)
        if self.budget_s is not None:
            left.append(self.budget_s - elapsed_s)
        return max(0.0, min(left)) if left else None
