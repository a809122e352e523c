"""Lists and mixes as `darkroom generate` is told them; what goes together is for the service to judge."""

from __future__ import annotations

import re

import typer

from app.client import JsonObject


def seeds_of(text: str) -> list[int]:
    """Return the seeds that a list such as `3,7,9` names.

    Raises:
        typer.BadParameter: it is no such list.
    """
    if not re.fullmatch(r"\s*[0-9]+\s*(,\s*[0-9]+\s*)*", text):
        raise typer.BadParameter(f"{text!r} is no list of seeds; write them as 3,7,9", param_hint="--seeds")
    return [int(seed) for seed in text.split(",")]


def labels_of(text: str) -> list[str]:
    """Return the classes that a list such as `cat,dog` names.

    Raises:
        typer.BadParameter: a name is missing.
    """
    labels = [label.strip() for label in text.split(",")]
    if not all(labels):
        raise typer.BadParameter(f"{text!r} lacks a class; write them as cat,dog", param_hint="--labels")
    return labels


def mix_of(text: str) -> JsonObject:
    """Return two seeds and the weight of the second: `3:9` is halfway, `3:9:0.25` nearer to 3.

    Raises:
        typer.BadParameter: it says something else.
    """
    found = re.fullmatch(r"([0-9]+):([0-9]+)(?::([0-9]*\.?[0-9]+))?", text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no mix; write two seeds, and the weight of the second where it is not half: 3:9 or 3:9:0.25",
            param_hint="--mix",
        )
    first, second, weight = found.groups(default="0.5")
    return {"seeds": [int(first), int(second)], "weight": float(weight)}
