"""What Darkroom can train: every kind, its options with bounds, and what it can do.

This module imports no PyTorch, so that the HTTP face can describe and check kinds without loading one. How a kind is built
is the registry's to know (`models.registry`).
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from models.errors import InvalidOption, UnknownKind

__all__ = [
    "KINDS",
    "MAX_BUDGET_IMAGES",
    "MAX_BUDGET_S",
    "MAX_EVALUATION_SHARE",
    "MAX_PATIENCE",
    "MAX_RESOLUTION",
    "MAX_SEED",
    "DcganOptions",
    "ExportFormat",
    "InvalidOption",
    "Kind",
    "TrainOptions",
    "UnknownKind",
    "VaeSigmaOptions",
    "describe",
    "kind",
    "parse_options",
]

MAX_RESOLUTION = 256  # pixels on a side; also the largest that prepared data is kept at
MAX_BUDGET_IMAGES = 1_000_000_000
MAX_BUDGET_S = 30 * 24 * 3600.0  # thirty days
MAX_EVALUATION_SHARE = 0.5  # of a training's time; measuring more than learning would be no training
MAX_PATIENCE = 1000  # measurements
MAX_SEED = 2**32 - 1  # PyTorch's CPU generator reads no more bits than these: larger seeds would repeat smaller ones


class ExportFormat(enum.StrEnum):
    """What a trained generator can be handed on as (`models.export`)."""

    NATIVE = "native"  # what any Darkroom loads: safetensors and JSON
    TORCH_EXPORT = "torch-export"  # what PyTorch loads without our code
    ONNX = "onnx"  # what many runtimes load, without PyTorch


class TrainOptions(BaseModel):
    """The options that the training loop itself reads, common to every kind."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    latent_dim: int = Field(100, ge=1, le=1024, description="Numbers in the latent that one picture is developed from.")
    conditional: bool | None = Field(
        None, description="Learn the labels, so that one can be asked for. None: when the data set has labels."
    )
    batch_size: int = Field(64, ge=2, le=1024, description="Images in one training step.")
    mirror: bool = Field(
        False, description="Flip each image left to right half of the time. Wrong for letters and digits."
    )
    ema_halflife_images: int = Field(
        10_000,
        ge=0,
        le=10_000_000,
        description="Images after which a weight's share in the averaged generator has halved; never more than 5 % of the "
        "images seen so far, so that short runs do not keep their beginnings. 0 keeps no average.",
    )


class DcganOptions(TrainOptions):
    """Options of `gan-dcgan`; the defaults are the paper's."""

    base_channels: int = Field(
        64,
        ge=4,
        le=256,
        description="Width of both networks (ngf = ndf); half of it trains about three times as fast on a CPU.",
    )
    learning_rate: float = Field(2e-4, gt=0, le=0.1, description="Adam's step size, for both networks.")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam's decay of the mean gradient; the other one is 0.999.")


class VaeSigmaOptions(TrainOptions):
    """Options of `vae-sigma`."""

    latent_dim: int = Field(64, ge=1, le=512, description="Numbers in the latent that one picture is developed from.")
    base_channels: int = Field(
        32,
        ge=4,
        le=256,
        description="Width of both networks; twice as much learns finer detail at a third of the speed.",
    )
    learning_rate: float = Field(1e-3, gt=0, le=0.1, description="Adam's step size.")
    kl_warmup_images: int = Field(
        10_000,
        ge=0,
        le=100_000_000,
        description="Images over which the weight of the KL divergence rises from 0 to 1. 0: full weight at once.",
    )
    free_nats: float = Field(
        0.05,
        ge=0,
        le=10,
        description="Free bits: the KL divergence below which no number of the latent is pushed, in nats. 0: none are free.",
    )


@dataclass(frozen=True)
class Kind:
    """One way to train a generator."""

    name: str  # as users write it, for example "gan-dcgan"
    title: str
    summary: str
    source: str  # the paper
    options: type[TrainOptions]
    resolutions: tuple[int, ...]  # pixels on a side
    channels: tuple[int, ...] = (1, 3)  # grey, RGB
    abilities: tuple[str, ...] = ("sample", "conditional")

    def check(self, resolution: int, channels: int) -> None:
        """Raise InvalidOption unless this kind makes pictures of such a size and so many channels."""
        for parameter, value, allowed in (
            ("resolution", resolution, self.resolutions),
            ("channels", channels, self.channels),
        ):
            if value not in allowed:
                bounds = "one of: " + ", ".join(map(str, allowed))
                raise InvalidOption(parameter, f"{self.name} cannot make pictures of {value}", bounds)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(
                name="gan-dcgan",
                title="DCGAN",
                summary="The classic convolutional GAN: small, quick to show something, the baseline for the others.",
                source="Radford, Metz and Chintala 2015, Unsupervised Representation Learning with Deep Convolutional "
                "Generative Adversarial Networks, arXiv:1511.06434",
                options=DcganOptions,
                resolutions=(32, 64, 128),
            ),
            Kind(
                name="vae-sigma",
                title="Sigma-VAE",
                summary="A variational autoencoder that balances itself: steady, covers all of the data, a little soft.",
                source="Rybkin, Daniilidis and Levine 2021, Simple and Effective VAE Training with Calibrated Decoders, "
                "arXiv:2006.13202; latents from a mixture, Ghosh et al. 2020, arXiv:1903.12436",
                options=VaeSigmaOptions,
                resolutions=(32, 64, 96, 128),
            ),
        )
    }
)


def kind(name: str) -> Kind:
    """Look a kind up by name.

    Raises:
        UnknownKind: no kind is called that.
    """
    try:
        return KINDS[name]
    except KeyError:
        raise UnknownKind(name, known=tuple(KINDS)) from None


def parse_options(kind_name: str, options: Mapping[str, Any]) -> TrainOptions:
    """Check a user's options for a kind, and fill in the defaults.

    Args:
        kind_name: a key of KINDS.
        options: option name to value; numbers and booleans may be written as strings, as on a command line.

    Returns:
        the kind's own options class, frozen.

    Raises:
        UnknownKind: no kind is called that.
        InvalidOption: an option is unknown or out of bounds; the first one found.
    """
    model = kind(kind_name).options
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        parameter = str(first["loc"][0]) if first["loc"] else "options"
        if first["type"] == "extra_forbidden":
            names = ", ".join(model.model_fields)
            raise InvalidOption(parameter, f"{kind_name} has no option of this name", f"one of: {names}") from error
        message = f"{first['msg']}, got {first['input']!r}"
        raise InvalidOption(parameter, message, _bounds_in_words(model.model_fields[parameter])) from error


def describe(kind: Kind) -> dict[str, Any]:
    """A kind as JSON values, with every option's type, default and bounds: what `GET /v1/kinds` answers."""
    return {
        "name": kind.name,
        "title": kind.title,
        "summary": kind.summary,
        "source": kind.source,
        "resolutions": list(kind.resolutions),
        "channels": list(kind.channels),
        "abilities": list(kind.abilities),
        "options": [_describe_option(name, field) for name, field in kind.options.model_fields.items()],
    }


_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _describe_option(name: str, field: FieldInfo) -> dict[str, Any]:
    """One option as JSON values; a bound that is itself excluded comes with `exclusive_…`: true."""
    described: dict[str, Any] = {"name": name, "default": field.default, "description": field.description}
    plain, nullable = _plain_type(field)
    if typing.get_origin(plain) is typing.Literal:
        choices = list(typing.get_args(plain))
        described |= {"type": _JSON_TYPES[type(choices[0])], "choices": choices}
    else:
        described |= {"type": _JSON_TYPES[plain]}
    if nullable:
        described["nullable"] = True
    for constraint in field.metadata:
        for attribute, bound, exclusive in _CONSTRAINTS:
            if (value := getattr(constraint, attribute, None)) is not None:
                described[bound] = value
                if exclusive:
                    described[f"exclusive_{bound}"] = True
    return described


_CONSTRAINTS = (("ge", "minimum", False), ("gt", "minimum", True), ("le", "maximum", False), ("lt", "maximum", True))


def _plain_type(field: FieldInfo) -> tuple[Any, bool]:
    """The option's type without None, and whether None was among its types."""
    annotation = field.annotation
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return annotation, False
    parts = typing.get_args(annotation)
    (plain,) = (part for part in parts if part is not types.NoneType)
    return plain, types.NoneType in parts


def _bounds_in_words(field: FieldInfo) -> str:
    """What an option accepts, for people: "integer from 2 to 1024"."""
    option = _describe_option("", field)
    if "choices" in option:
        return "one of: " + ", ".join(map(str, option["choices"]))
    words = str(option["type"])
    if "minimum" in option:
        words += f" {'above' if option.get('exclusive_minimum') else 'from'} {option['minimum']}"
    if "maximum" in option:
        words += f" {'and below' if option.get('exclusive_maximum') else 'to'} {option['maximum']}"
    return words + (" or null" if option.get("nullable") else "")
