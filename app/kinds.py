"""The catalogue over HTTP: what can be trained, and with which options."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.auth import MayRead
from app.pages import Page, example_page
from models import catalog

router = APIRouter(prefix="/v1/kinds", tags=["kinds"])

OPTION_EXAMPLE: dict[str, Any] = {
    "name": "batch_size",
    "type": "integer",
    "default": 64,
    "minimum": 2,
    "maximum": 1024,
    "description": "Images in one training step.",
}
PRESET_EXAMPLE: dict[str, Any] = {
    "name": "quick",
    "summary": "Half as wide: learns several times as fast.",
    "options": {"base_channels": 32},
}
EXAMPLE: dict[str, Any] = {
    "name": "gan-dcgan",
    "object": "kind",
    "title": "DCGAN",
    "summary": "The classic convolutional GAN.",
    "source": "Radford, Metz and Chintala 2015, arXiv:1511.06434",
    "resolutions": [32, 64, 128],
    "channels": [1, 3],
    "abilities": ["sample", "conditional"],
    "presets": [PRESET_EXAMPLE],
    "options": [OPTION_EXAMPLE],
}


class Option(BaseModel):
    """An option of a kind."""

    name: str = Field(description="Its name in a training's `options`.")
    type: str = Field(description="JSON type: integer, number, boolean or string.")
    default: Any = Field(description="Its value when none is given.")
    description: str | None = Field(None, description="What it does.")
    nullable: bool | None = Field(None, description="Whether null is a value.")
    minimum: int | float | None = Field(None, description="Least value.")
    maximum: int | float | None = Field(None, description="Greatest value.")
    exclusive_minimum: bool | None = Field(None, description="Whether the minimum itself is too little.")
    exclusive_maximum: bool | None = Field(None, description="Whether the maximum itself is too much.")
    choices: list[Any] | None = Field(None, description="Every value there is.")

    model_config = ConfigDict(json_schema_extra={"examples": [OPTION_EXAMPLE]})


class Preset(BaseModel):
    """Options that go together, under a name."""

    name: str = Field(description="Its name in a training's `preset`.")
    summary: str = Field(description="What it is good for.")
    options: dict[str, Any] = Field(description="The options that it sets; a training's own take precedence.")

    model_config = ConfigDict(json_schema_extra={"examples": [PRESET_EXAMPLE]})


class Kind(BaseModel):
    """A way to train a generator."""

    name: str = Field(description="Its name in a training's `kind`.")
    object: str = Field("kind", description="Always `kind`.")
    title: str = Field(description="What people call it.")
    summary: str = Field(description="What it is good for.")
    source: str = Field(description="The paper.")
    resolutions: list[int] = Field(description="Sides of the squares it can make, in pixels.")
    channels: list[int] = Field(description="1 for grey, 3 for RGB.")
    abilities: list[str] = Field(description="What it can do.")
    presets: list[Preset] = Field(description="Options that go together, by name.")
    options: list[Option] = Field(description="What can be set, with bounds and defaults.")

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})


class KindPage(Page[Kind]):
    """Every kind; there is only one page."""

    model_config = ConfigDict(json_schema_extra=example_page(EXAMPLE))


@router.get("", summary="List what can be trained", operation_id="list_kinds", response_model_exclude_unset=True)
async def list_kinds(_caller: MayRead) -> KindPage:
    """The catalogue: each kind, its options with bounds and defaults, what it can do."""
    kinds = [Kind(object="kind", **catalog.describe(kind)) for kind in catalog.KINDS.values()]
    return KindPage(object="list", data=kinds, has_more=False)
