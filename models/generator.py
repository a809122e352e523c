"""A trained generator, as a sampler loads it: a network, and the card that says what it is.

A directory holds one: `generator.safetensors` and `generator.json`. It needs nothing else of the training: these two files
are the model's native export (`models.export` writes others). Where latents are not standard normal but have a prior of
their own (`models.prior`), it is among the tensors, under names that begin with "prior.".

Shapes: N batch, C channels, H W pixels, D latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.catalog import MAX_RESOLUTION, kind, parse_options
from models.errors import BadCheckpoint, NoCheckpoint, OptionError
from models.objective import Shape
from models.options import TrainOptions
from models.prior import MixturePrior
from models.registry import build_generator
from models.sealed import Seal, read_json, read_tensors, write_json, write_tensors

WEIGHTS = "generator.safetensors"
CARD = "generator.json"
PRIOR = "prior."  # what the names of the prior's tensors begin with
DRAWS = frozenset({"normal_", "uniform_", "kaiming_uniform_"})  # what fills weights with random numbers


class GeneratorCard(BaseModel):
    """Everything about a generator that is not a weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    kind: str  # a key of catalog.KINDS
    options: dict[str, Any]  # of that kind, complete
    resolution: int = Field(ge=1, le=MAX_RESOLUTION)  # pixels on a side
    channels: Literal[1, 3]
    classes: list[str] | None = None  # names, in the order of the labels; None when labels mean nothing to it
    images_seen: int = Field(ge=0)
    notes: tuple[str, ...] = Field((), exclude_if=lambda notes: not notes)  # what its owner should know, in sentences

    @property
    def shape(self) -> Shape:
        return Shape(self.resolution, self.channels, len(self.classes or ()))

    def parse_options(self) -> TrainOptions:
        """The options as the kind's own class; raises OptionError when kind, options or resolution make no sense."""
        options = parse_options(self.kind, self.options)
        kind(self.kind).check(self.resolution, self.channels)
        return options


class SealedCard(GeneratorCard):
    """A card as it lies on disk, with the seal of the weights that belong to it."""

    weights: Seal


def save_generator(
    directory: Path, network: nn.Module, card: GeneratorCard, prior: MixturePrior | None = None
) -> dict[str, Seal]:
    """Write a generator into an existing directory; returns the seals of its two files by name."""
    tensors = {PRIOR + name: tensor for name, tensor in (prior.tensors() if prior is not None else {}).items()}
    weights = write_tensors(directory / WEIGHTS, {**network.state_dict(), **tensors})
    return {WEIGHTS: weights, CARD: write_json(directory / CARD, SealedCard(**card.model_dump(), weights=weights))}


class Generator:
    """A network ready to develop pictures.

    Args:
        network: built for card.kind; used as it is, in evaluation mode, on the device where it lies.
        card: what the network is.
        prior: how its latents are distributed; None: standard normal.
    """

    def __init__(self, network: nn.Module, card: GeneratorCard, prior: MixturePrior | None = None) -> None:
        self.card = card
        self.prior = prior
        self.options = card.parse_options()
        self.network = network.eval()
        self.device = next(chain(network.parameters(), network.buffers())).device

    @classmethod
    def load(cls, directory: Path, device: str | torch.device = "cpu") -> Generator:
        """Load the generator that lies in a checkpoint, or in any directory its two files were copied to.

        Raises:
            NoCheckpoint: no generator is in this directory.
            BadCheckpoint: there is one, but it is torn, damaged or of a kind that this version does not know.
        """
        path = directory / CARD
        if not path.exists():
            raise NoCheckpoint(
                f"no generator is in {directory} ({CARD} is missing); name a checkpoint or an exported model"
            )
        sealed = read_json(path, SealedCard)
        card = GeneratorCard(**sealed.model_dump(exclude={"weights"}))
        try:
            options = card.parse_options()
        except OptionError as error:
            raise BadCheckpoint(f"{path} cannot be used: {error}") from error
        with torch.device("meta"), _Undrawn():  # no weights are drawn only to be overwritten
            network = build_generator(card.kind, options, card.shape)
        tensors = read_tensors(directory / WEIGHTS, sealed.weights)
        of_prior = {name: tensors.pop(name) for name in list(tensors) if name.startswith(PRIOR)}
        load_weights(network, tensors, directory / WEIGHTS, assign=True)
        prior = _prior(of_prior, card, options, directory / WEIGHTS)
        return cls(network.to(device).to(memory_format=torch.channels_last), card, prior)

    @property
    def kind(self) -> str:
        return self.card.kind

    @property
    def resolution(self) -> int:
        """Pixels on a side."""
        return self.card.resolution

    @property
    def channels(self) -> int:
        return self.card.channels

    @property
    def classes(self) -> list[str] | None:
        """The names that labels 0, 1, … stand for; None when the generator takes no labels."""
        return self.card.classes

    @property
    def latent_dim(self) -> int:
        return self.options.latent_dim

    @property
    def images_seen(self) -> int:
        return self.card.images_seen

    @property
    def size_bytes(self) -> int:
        """What the weights, the memory that the network computes in, and the prior take."""
        weights: int = sum(tensor.nbytes for tensor in chain(self.network.parameters(), self.network.buffers()))
        return weights + (self.prior.size_bytes if self.prior is not None else 0)

    @torch.inference_mode()
    def synthesize(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Pictures as float [-1, 1], [N, C, H, W] on the device, from latents [N, D] and, if it takes them, labels [N]."""
        latents = latents.to(self.device, non_blocking=True)
        labels = None if self.classes is None or labels is None else labels.to(self.device, non_blocking=True)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            pictures: Tensor = self.network(latents, labels)
        return pictures

    @torch.inference_mode()
    def render(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Pictures as uint8 [N, C, H, W] on the CPU, from latents [N, D] and, if it takes them, labels [N].

        A pixel's channels are neighbours in memory, as most networks leave them.
        """
        return to_pixels(self.synthesize(latents, labels)).cpu()


class _Undrawn(TorchFunctionMode):
    """Leaves new weights as they are; to draw what has no memory, PyTorch would import its compiler, for seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in DRAWS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def to_pixels(pictures: Tensor) -> Tensor:
    """Pictures, float [-1, 1], as uint8 [0, 255]."""
    return (pictures + 1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def _prior(
    tensors: Mapping[str, Tensor], card: GeneratorCard, options: TrainOptions, path: Path
) -> MixturePrior | None:
    """The prior among a generator's tensors, which stays on the CPU, where latents are drawn; None when there is none."""
    if not tensors:
        return None
    named = {name.removeprefix(PRIOR): tensor for name, tensor in tensors.items()}
    try:
        return MixturePrior.from_tensors(named, latent_dim=options.latent_dim, classes=card.shape.classes)
    except ValueError as error:
        raise BadCheckpoint(f"{path} cannot be used: {error}") from error


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, assign: bool = False) -> None:
    """Put tensors read from `path` into a module; `assign` takes them as they are, where the module has no memory yet.

    Raises:
        BadCheckpoint: names, shapes or types are not the module's.
    """
    for name, own in module.state_dict().items() if assign else ():
        if (
            name in tensors and tensors[name].dtype is not own.dtype
        ):  # which PyTorch would take, and fail on when sampling
            raise BadCheckpoint(
                f"{path} does not fit the network that it should hold: {name} is of {tensors[name].dtype}, "
                f"should be {own.dtype}"
            )
    try:
        module.load_state_dict(dict(tensors), assign=assign)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise BadCheckpoint(f"{path} does not fit the network that it should hold: {reason}") from error
