"""What a training in trouble is given when it goes back to where it was well: other options, one remedy at a time.

A remedy changes how networks learn, never what they are: weights of before fit after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from models.options import TrainOptions
from models.trouble import Trouble

MOST_ROLLBACKS = 3  # of one training
HEAVIER = 4.0  # times gamma, where both slopes are held down


class Rollback(BaseModel):
    """One return to an earlier state, and what was changed there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trouble: Trouble
    seen_at: int = Field(ge=0)  # images seen when it was found
    back_to: int = Field(ge=0)  # images seen where the training went on from
    options: dict[str, Any]  # that changed, by name

    @property
    def says(self) -> str:
        """This as a sentence."""
        changed = ", ".join(f"{name} = {value}" for name, value in self.options.items())
        return (
            f"After {self.seen_at:,} images ({self.trouble.value.replace('_', ' ')}) the training went back to "
            f"{self.back_to:,} images and on with {changed}."
        )


Options = Mapping[str, Any]
Rung = Callable[
    [Options], dict[str, Any]
]  # the changes; none where this remedy is taken already, or is not for this kind


def _first_penalty(options: Options) -> dict[str, Any]:
    return {"penalty": "r1"} if options.get("penalty") == "none" else {}


def _both_penalties(options: Options) -> dict[str, Any]:
    if options.get("penalty") != "r1":
        return {}
    return {"penalty": "r1-r2", "gamma": min(1000.0, HEAVIER * max(1.0, options["gamma"]))}


def _little_augmentation(options: Options) -> dict[str, Any]:
    return {"augment": "translation"} if options.get("augment") == "none" else {}


def _much_augmentation(options: Options) -> dict[str, Any]:
    weaker = {"translation", "translation-cutout"}
    return {"augment": "colour-translation-cutout"} if options.get("augment") in weaker else {}


def _smaller_steps(options: Options) -> dict[str, Any]:
    rates = ("learning_rate", "discriminator_learning_rate")
    return {name: options[name] / 2 for name in rates if options.get(name) is not None}


#: From the first to the last. Kinds without an adversary have only the last, which can be taken again and again.
LADDER: tuple[Rung, ...] = (
    _first_penalty,
    _both_penalties,
    _little_augmentation,
    _much_augmentation,
    _smaller_steps,
)
#: Numbers overflow where steps are too large; what the game is played with has no part in it.
LADDER_WHERE_NOT_FINITE: tuple[Rung, ...] = (_smaller_steps,)


def next_remedy(options: TrainOptions, trouble: Trouble) -> dict[str, Any]:
    """The options to change next, by name; empty where there is nothing left to try.

    Args:
        options: with all remedies that were taken before.
        trouble: what was found.
    """
    current = options.model_dump()
    ladder = LADDER_WHERE_NOT_FINITE if trouble is Trouble.NOT_FINITE else LADDER
    return next((changes for rung in ladder if (changes := rung(current))), {})


def remedied(options: TrainOptions, rollbacks: Iterable[Rollback]) -> TrainOptions:
    """The options after all these remedies, checked like any others."""
    changes = {name: value for rollback in rollbacks for name, value in rollback.options.items()}
    return type(options).model_validate({**options.model_dump(), **changes})
