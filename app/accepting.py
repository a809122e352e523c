"""Which form of an answer a client prefers, by its Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from app.errors import NotAcceptable
from app.renditions import PictureFormat, Rendition

JSON = "application/json"
PICTURES = {f"image/{form}": Rendition(form) for form in PictureFormat}


def picture_wanted(accept: str | None, n: int) -> Rendition | None:
    """Return the picture that is preferred to JSON; None: JSON.

    Args:
        accept: the header; None: anything.
        n: how many pictures there will be.

    Raises:
        NotAcceptable: only a picture would do, but several were asked for.
    """
    ranks = _ranks(accept or "*/*")
    best = max(ranks, key=lambda offer: ranks[offer])  # the first of equals
    if best == JSON or ranks[best][0] == 0:
        return None
    if n == 1:
        return PICTURES[best]
    if ranks[JSON][0] > 0:
        return None
    raise NotAcceptable(
        f"n: {n} images do not fit into one picture",
        parameter="/n",
        remedy="ask for n = 1, or accept application/json and fetch each image's `url`",
    )


@lru_cache(maxsize=64)  # most clients send the same few
def _ranks(accept: str) -> Mapping[str, tuple[float, int]]:
    ranges = _ranges(accept)
    return {offer: _rank(offer, ranges) for offer in (JSON, *PICTURES)}


def _ranges(accept: str) -> dict[str, float]:
    """The weight of each range that the header names, from 0 to 1."""
    found: dict[str, float] = {}
    for part in accept.lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        weights = [re.fullmatch(r"q\s*=\s*([01](?:\.\d{0,3})?)", piece) for piece in parameters]
        found[media_range] = min(1.0, next((float(weight[1]) for weight in weights if weight), 1.0))
    return found


def _rank(offer: str, ranges: Mapping[str, float]) -> tuple[float, int]:
    """Its weight, by the range that names it most closely, and how closely that is."""
    for closeness, named in ((2, offer), (1, offer.partition("/")[0] + "/*"), (0, "*/*")):
        if named in ranges:
            return ranges[named], closeness
    return 0.0, 0
