"""What each image of a sample job is made of: it follows from the request and the image's position alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.sampling import Blend, SampleItem


def item_of(request: Mapping[str, Any], position: int) -> SampleItem:
    """Return the picture at a position, from 0, of a sample job's request."""
    seed, blend = _made_of(request, position)
    label = request["labels"][position] if "labels" in request else request["label"]
    return SampleItem(seed, label, request.get("truncation", 1.0), blend)


def _made_of(request: Mapping[str, Any], position: int) -> tuple[int, Blend | None]:
    if "seeds" in request:
        return request["seeds"][position], None
    if "interpolate" in request:
        way = request["interpolate"]
        return way["from"], Blend("slerp", way["to"], position / (way["frames"] - 1))
    if "mix" in request:
        first, second = request["mix"]["seeds"]
        return first, Blend("slerp", second, request["mix"]["weight"])
    if "variations" in request:
        around = request["variations"]
        return request["seed"] + position, Blend("variation", around["of"], around["strength"])
    return request["seed"] + position, None
