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

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from models.errors import InvalidOption, UnknownKind
from models.options import (
    DISCRIMINATOR_SHAPE,
    GENERATOR_SHAPE,
    DcganOptions,
    FewshotOptions,
    OnTrouble,
    R3Options,
    TrainOptions,
    VaeGanOptions,
    VaeSigmaOptions,
)

__all__ = [
    "AUTO",
    "KINDS",
    "MAX_BUDGET_IMAGES",
    "MAX_BUDGET_S",
    "MAX_EVALUATION_SHARE",
    "MAX_HELD_OUT",
    "MAX_PATIENCE",
    "MAX_RESOLUTION",
    "MAX_SEED",
    "ExportFormat",
    "InvalidOption",
    "Kind",
    "OnTrouble",
    "TrainOptions",
    "UnknownKind",
    "describe",
    "inherited_options",
    "kind",
    "parse_options",
    "wanted",
]

AUTO = "auto"  # no kind, but the wish that one be chosen by data, device and budget (`models.choosing`)
MAX_RESOLUTION = 256  # pixels on a side; also the largest that prepared data is kept at
MAX_BUDGET_IMAGES = 1_000_000_000
MAX_BUDGET_S = 30 * 24 * 3600.0  # thirty days
MAX_EVALUATION_SHARE = 0.5  # of a training's time; measuring more than learning would be no training
MAX_HELD_OUT = (
    0.2  # of the images: the part that measurements compare with, which the extractor has not learnt from either
)
MAX_PATIENCE = 1000  # measurements
RESOLUTIONS = (32, 64, 96, 128)  # pixels on a side that every kind makes
MAX_SEED = 2**32 - 1  # PyTorch's CPU generator reads no more bits than these: larger seeds would repeat smaller ones


class DuplicatePolicy(enum.StrEnum):
    """What becomes of images that an import finds more than once (`models.duplicates`)."""

    KEEP = "keep"  # they stay, and are reported
    DROP_EXACT = "drop-exact"  # of the same file, byte for byte, the first stays
    DROP = "drop"  # and of pictures that look the same


class ExportFormat(enum.StrEnum):
    """What a trained generator can be handed on as (`models.export`)."""

    NATIVE = "native"  # what any Darkroom loads: safetensors and JSON
    TORCH_EXPORT = "torch-export"  # what PyTorch loads without our code
    ONNX = "onnx"  # what many runtimes load, without PyTorch


@dataclass(frozen=True)
class Preset:
    """Options of a kind that go together, under a name."""

    name: str
    summary: str
    options: Mapping[str, Any]  # those that differ from the defaults


@dataclass(frozen=True)
class Kind:
    """One way to train a generator."""

    name: str  # as users write it, for example "gan-dcgan"
    title: str
    summary: str
    source: str  # the paper
    options: type[TrainOptions]
    resolutions: tuple[int, ...] = RESOLUTIONS
    channels: tuple[int, ...] = (1, 3)  # grey, RGB
    abilities: tuple[str, ...] = ("sample", "conditional")
    presets: tuple[Preset, ...] = ()

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
                presets=(
                    Preset(
                        "quick",
                        "Half as wide, each fake against a real picture, slopes held down now and then: learns several times "
                        "as fast.",
                        {
                            "base_channels": 32,
                            "batch_size": 32,
                            "loss": "relativistic",
                            "penalty": "r1-r2",
                            "penalty_every": 8,
                        },
                    ),
                ),
            ),
            Kind(
                name="gan-r3",
                title="R3GAN",
                summary="The modern GAN: no normalisation, every fake against a real picture, both slopes held down; for "
                "longer budgets and GPUs.",
                source="Huang et al. 2025, The GAN is dead; long live the GAN! A Modern Baseline GAN, arXiv:2501.05441",
                options=R3Options,
                presets=(
                    Preset(
                        "quick",
                        "A third as wide, larger steps in batches of 32, slopes held down less often: learns within minutes.",
                        {
                            "base_channels": 16,
                            "batch_size": 32,
                            "learning_rate": 1e-3,
                            "penalty_every": 8,
                            "label_ramp_images": 5_000,
                            "label_loss": 0.1,
                        },
                    ),
                ),
            ),
            Kind(
                name="gan-fewshot",
                title="Few-shot GAN",
                summary="For 20 to 2,000 pictures: a discriminator that must also redraw what it sees, through strong "
                "augmentation.",
                source="Liu et al. 2021, Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image Synthesis"
                ", arXiv:2101.04775",
                options=FewshotOptions,
            ),
            Kind(
                name="vae-sigma",
                title="Sigma-VAE",
                summary="A variational autoencoder that balances itself: steady, covers all of the data, a little soft.",
                source="Rybkin, Daniilidis and Levine 2021, Simple and Effective VAE Training with Calibrated Decoders, "
                "arXiv:2006.13202; latents from a mixture, Ghosh et al. 2020, arXiv:1903.12436",
                options=VaeSigmaOptions,
            ),
            Kind(
                name="vae-gan",
                title="VAE-GAN",
                summary="vae-sigma with edges: its decoder also answers to an adversary that looks at patches; covers the data "
                "and is sharp.",
                source="Ours, after Larsen et al. 2016, arXiv:1512.09300 (a VAE's decoder as generator) and Esser et al. 2021, "
                "arXiv:2012.09841 (adversary balanced by gradient norms)",
                options=VaeGanOptions,
            ),
        )
    }
)


#: What stands for a kind until one is chosen; its options are those that every kind has.
WISH = Kind(
    name=AUTO,
    title="Automatic",
    summary="Kind, preset, augmentation and batch are chosen by the data, the device and the budget.",
    source="docs/benchmarks.md",
    options=TrainOptions,
)


def wanted(name: str) -> Kind:
    """A kind by name, or the wish for one (AUTO).

    Raises:
        UnknownKind: no kind is called that.
    """
    return WISH if name == AUTO else kind(name)


def kind(name: str) -> Kind:
    """Look a kind up by name.

    Raises:
        UnknownKind: no kind is called that.
    """
    try:
        return KINDS[name]
    except KeyError:
        raise UnknownKind(name, known=tuple(KINDS)) from None


def parse_options(kind_name: str, options: Mapping[str, Any], preset: str | None = None) -> TrainOptions:
    """Check a user's options for a kind, and fill in the defaults.

    Args:
        kind_name: a key of KINDS, or AUTO for the options that every kind has.
        options: option name to value; numbers and booleans may be written as strings, as on a command line.
        preset: the name of one of the kind's presets, which `options` take precedence over. None: the defaults.

    Returns:
        the kind's own options class, frozen.

    Raises:
        UnknownKind: no kind is called that.
        InvalidOption: an option is unknown or out of bounds; the first one found; or no preset is called that.
    """
    model = wanted(kind_name).options
    try:
        return model.model_validate({**_preset_options(kind_name, preset), **options})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        parameter = str(first["loc"][0]) if first["loc"] else "options"
        if first["type"] == "extra_forbidden":
            names = ", ".join(model.model_fields)
            raise InvalidOption(parameter, f"{kind_name} has no option of this name", f"one of: {names}") from error
        message = f"{first['msg']}, got {first['input']!r}"
        field = model.model_fields.get(parameter)  # none where a name is no text at all
        raise InvalidOption(parameter, message, _bounds_in_words(field) if field is not None else None) from error


def inherited_options(
    wanted_kind: str,
    options: Mapping[str, Any],
    source_kind: str,
    source_options: Mapping[str, Any],
    *,
    preset: str | None = None,
    judged: bool = True,
) -> TrainOptions:
    """The options of a training that begins with another model's weights: what is not asked for is as it was there.

    Args:
        wanted_kind: the same kind, or AUTO.
        options: the user's, as for parse_options.
        source_kind: the other model's kind.
        source_options: the other model's options.
        preset: as for parse_options.
        judged: whether the other model brings its discriminator; where it does not, any may be built.

    Raises:
        InvalidOption: it is another kind, or an option asks for networks of other shapes.
    """
    if wanted_kind not in (AUTO, source_kind):
        bounds = f"{source_kind}, {AUTO}, or no init_from"
        raise InvalidOption("kind", f"{wanted_kind} cannot begin with the weights of a {source_kind}", bounds)
    theirs = parse_options(source_kind, source_options)
    # What is fixed is this training's to decide, the precision its device's, and whether there are labels its data's.
    kept = theirs.model_dump(
        exclude={"freeze_layers", "precision"} | ({"conditional"} if theirs.conditional else set())
    )
    own = parse_options(source_kind, {**kept, **_preset_options(source_kind, preset), **options})
    for name in sorted(GENERATOR_SHAPE | (DISCRIMINATOR_SHAPE if judged else set())):
        asked, built = getattr(own, name, None), getattr(theirs, name, None)
        if asked != built:
            message = f"{asked} asked for, but the model to begin with was built with {built}"
            raise InvalidOption(name, message, f"{built}, or no init_from")
    return own


def _preset_options(kind_name: str, preset: str | None) -> Mapping[str, Any]:
    if preset is None:
        return {}
    known = {one.name: one.options for one in wanted(kind_name).presets}
    if preset not in known:
        bounds = "one of: " + ", ".join(known) if known else "none"
        raise InvalidOption("preset", f"{kind_name} has no preset called {preset!r}", bounds)
    return known[preset]


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
        "presets": [
            {"name": preset.name, "summary": preset.summary, "options": dict(preset.options)} for preset in kind.presets
        ],
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
