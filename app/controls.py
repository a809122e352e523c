"""What a generation may ask of its latents: seeds one by one, ways between two, pictures near one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from app.errors import InvalidParameter
from app.values import Integer, Number
from models.catalog import MAX_SEED

Seed = Annotated[Integer, Field(ge=0, le=MAX_SEED)]
Label = StrictInt | str
WAYS = ("seeds", "interpolate", "variations", "mix")


class Interpolation(BaseModel):
    """Pictures on the way from one seed's to another's; the ends are those seeds' own pictures."""

    start: Seed = Field(alias="from", description="Seed of the first picture.")
    to: Seed = Field(description="Seed of the last picture.")
    frames: Integer = Field(ge=2, description="How many pictures, with both ends.")

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"from": 7, "to": 8, "frames": 16}]})


class Variations(BaseModel):
    """Pictures near one seed's."""

    of: Seed = Field(description="Whose picture to vary.")
    strength: Number = Field(
        ge=0, le=1, allow_inf_nan=False, description="0 is that picture, 1 has nothing of it; 0.3 keeps what matters."
    )

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"of": 7, "strength": 0.3}]})


class Mix(BaseModel):
    """One picture between two seeds'."""

    seeds: tuple[Seed, Seed] = Field(description="Of the two.")
    weight: Number = Field(ge=0, le=1, allow_inf_nan=False, description="Of the second: 0 is the first, 1 the second.")

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"seeds": [7, 8], "weight": 0.5}]})


class Controls(Protocol):
    """The members of a generation that say what its images are made of."""

    n: int
    seed: int | None
    label: Label | None
    seeds: list[Seed] | None
    labels: list[Label] | None
    truncation: float | None
    interpolate: Interpolation | None
    variations: Variations | None
    mix: Mix | None

    @property
    def model_fields_set(self) -> set[str]: ...


def count_images(asked: Controls) -> int:
    """Return how many images a generation makes.

    Raises:
        InvalidParameter: members that do not go together.
    """
    ways = [way for way in WAYS if getattr(asked, way) is not None]
    if len(ways) > 1:
        raise _clash(ways[1], ways[0])
    way = ways[0] if ways else None
    if asked.seed is not None and way not in {None, "variations"}:
        raise _clash("seed", str(way))
    if asked.labels is not None and asked.label is not None:
        raise _clash("labels", "label")
    if asked.labels is not None and way not in {None, "seeds"}:
        raise InvalidParameter(
            f"labels: {way} makes pictures of one class", parameter="/labels", remedy="give one class as label"
        )
    counts = {
        "seeds": len(asked.seeds) if asked.seeds is not None else None,
        "labels": len(asked.labels) if asked.labels is not None else None,
        "interpolate": asked.interpolate.frames if asked.interpolate is not None else None,
        "mix": 1 if asked.mix is not None else None,
        "n": asked.n if "n" in asked.model_fields_set else None,
    }
    given = {name: count for name, count in counts.items() if count is not None}
    first = next(iter(given), "n")
    for name, count in given.items():
        if count != given[first]:
            raise InvalidParameter(
                f"{name}: {count:,} images, but {given[first]:,} by {first}",
                parameter=f"/{name}",
                remedy="leave n out" if name == "n" else f"give as many {name} as {first}",
            )
    return given.get(first, asked.n)


def request_of(asked: Controls, n: int, seed: int, index: Callable[[Label | None, str], int | None]) -> dict[str, Any]:
    """Return the job's request: all that its images follow from, by position.

    Args:
        asked: what the client sent, checked by `count_images`.
        n: how many images.
        seed: of the first, where they count up.
        index: the class that a label names; told which parameter to blame.
    """
    request: dict[str, Any] = {"n": n, "seed": seed, "label": index(asked.label, "/label")}
    if asked.seeds is not None:
        request |= {"seed": asked.seeds[0], "seeds": asked.seeds}
    if asked.labels is not None:
        request["labels"] = [index(label, f"/labels/{place}") for place, label in enumerate(asked.labels)]
    if asked.truncation is not None and asked.truncation != 1:
        request["truncation"] = asked.truncation
    if asked.interpolate is not None:
        request |= {"seed": asked.interpolate.start, "interpolate": asked.interpolate.model_dump(by_alias=True)}
    if asked.variations is not None:
        request["variations"] = asked.variations.model_dump()
    if asked.mix is not None:
        request |= {"seed": asked.mix.seeds[0], "mix": asked.mix.model_dump(mode="json")}
    return request


def counts_up(asked: Controls) -> bool:
    """Whether each image has the seed after the one before it."""
    return asked.seeds is None and asked.interpolate is None and asked.mix is None


def recipe_of(seed: int, kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what an image was made of besides its label; rows of plain seeds keep nothing but the seed."""
    return {"seed": seed, **(kept or {})}


def _clash(name: str, other: str) -> InvalidParameter:
    return InvalidParameter(
        f"{name}: does not go with {other}, which says already what the pictures are made of",
        parameter=f"/{name}",
        remedy=f"give {name} or {other}, not both",
    )
