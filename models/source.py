"""Another model's weights, for a training to begin with.

A checkpoint brings the generator, its moving average, and where the kind has one the discriminator; a generator's own two files
bring the average alone, which then serves as both. Optimizers always start anew.

What depends on classes is taken as far as it fits. Embeddings go by the classes' names; new names have fresh ones. Where one
of the two models is told labels and the other is not, the inputs that labels would come in by are left out, or begin at zero,
so that at first the pictures are what they were.

Shapes: K classes, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models import checkpoint
from models.catalog import inherited_options
from models.errors import BadCheckpoint, InvalidOption, NoCheckpoint
from models.freezing import layers_to_freeze
from models.generator import CARD, Generator, GeneratorCard
from models.objective import Discriminates, Objective
from models.origin import Origin

_MARK = ".weights."  # between a phase's name and a weight's, in a checkpoint's state


@dataclass(frozen=True)
class Source:
    """A model that was read, on the CPU."""

    path: Path
    card: GeneratorCard
    averaged: Mapping[str, Tensor]  # the generator's averaged weights
    learning: Mapping[str, Mapping[str, Tensor]]  # weights as they learn, by phase; empty for a generator alone

    @classmethod
    def read(cls, directory: Path) -> Source:
        """Read a checkpoint, or a directory that holds a generator's two files.

        Raises:
            NoCheckpoint: neither is there.
            BadCheckpoint: it is torn or damaged.
        """
        if not (directory / CARD).exists():
            raise NoCheckpoint(
                f"no model to begin with is in {directory} ({CARD} is missing); name a checkpoint, or an export of format "
                "native"
            )
        generator = Generator.load(directory)
        learning: dict[str, dict[str, Tensor]] = {}
        if (directory / checkpoint.RECORD).exists():
            for name, tensor in checkpoint.load(directory).state.items():
                phase, mark, weight = name.partition(_MARK)
                if mark:
                    learning.setdefault(phase, {})[weight] = tensor
        return cls(directory, generator.card, generator.network.state_dict(), learning)

    @property
    def judged(self) -> bool:
        """Whether the discriminator comes along."""
        return "D" in self.learning

    def check(self, card: GeneratorCard) -> None:
        """Raise InvalidOption where a training of such a generator cannot begin with these weights."""
        for name, asked, built in (
            ("resolution", card.resolution, self.card.resolution),
            ("channels", card.channels, self.card.channels),
        ):
            if asked != built:
                message = f"{asked} asked for, but the model to begin with makes pictures of {built}"
                raise InvalidOption(name, message, f"{built}, with images prepared for it, or no init_from")
        inherited_options(card.kind, card.options, self.card.kind, self.card.options, judged=self.judged)

    def origin(self, objective: Objective, classes: Sequence[str] | None, freeze_layers: int | None) -> Origin:
        """What a training should remember of this.

        Args:
            objective: that will begin with these weights.
            classes: that its networks are told.
            freeze_layers: of the discriminator, as asked for; None: half of those that are taken.

        Raises:
            InvalidOption: so many layers cannot be fixed.
        """
        judges = objective.discriminators if isinstance(objective, Discriminates) else ()
        if freeze_layers and not self.judged:
            raise InvalidOption(
                "freeze_layers",
                f"{freeze_layers} asked for, but {self.path} holds a generator alone",
                "0, or the newest checkpoint of a training, which also holds the discriminator",
            )
        return Origin(
            kind=self.card.kind,
            images_seen=self.card.images_seen,
            discriminator=self.judged,
            frozen_layers=layers_to_freeze(freeze_layers, judges) if self.judged else 0,
            fresh_classes=tuple(name for name in classes or () if name not in (self.card.classes or ())),
        )

    def give(self, objective: Objective, average: nn.Module, classes: Sequence[str] | None) -> None:
        """Put the weights into networks that have just been built.

        Args:
            objective: whose phases learn.
            average: the copy of its generator that is sampled from.
            classes: that the networks are told.

        Raises:
            BadCheckpoint: names or shapes are not the networks'.
        """
        for phase in objective.phases:
            own = self.averaged if phase.module is objective.generator else None
            weights = self.learning.get(phase.name, own)
            if weights is not None:
                self._fit(phase.module, weights, classes)
        self._fit(average, self.averaged, classes)

    @torch.no_grad()
    def _fit(self, module: nn.Module, weights: Mapping[str, Tensor], classes: Sequence[str] | None) -> None:
        embeddings = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
        taken = {}
        for name, fresh in module.state_dict().items():
            theirs = weights.get(name)
            if name in embeddings:
                taken[name] = self._rows(theirs, fresh, classes or ())
            elif theirs is not None:
                taken[name] = theirs if theirs.shape == fresh.shape else _widened(theirs, fresh)
        if unknown := module.state_dict().keys() - taken.keys():
            raise BadCheckpoint(f"{self.path} does not hold {min(unknown)}, which the network to train has")
        module.load_state_dict(taken)

    def _rows(self, theirs: Tensor | None, fresh: Tensor, classes: Sequence[str]) -> Tensor:
        """Embeddings, [K, E]: those of classes that both models know as they were, the others fresh."""
        if theirs is None or theirs.shape[1:] != fresh.shape[1:]:
            return fresh
        rows, known = fresh.clone(), {name: row for row, name in enumerate(self.card.classes or ())}
        for row, name in enumerate(classes):
            if name in known:
                rows[row] = theirs[known[name]]
        return rows


def _widened(theirs: Tensor, fresh: Tensor) -> Tensor:
    """Weights for more inputs, the new ones at zero, or for fewer: labels always come in last.

    Raises:
        BadCheckpoint: the shapes differ by more.
    """
    differing = [place for place, (a, b) in enumerate(zip(theirs.shape, fresh.shape, strict=False)) if a != b]
    if theirs.dim() != fresh.dim() or len(differing) != 1:
        raise BadCheckpoint(f"weights of shape {list(theirs.shape)} do not fit where {list(fresh.shape)} are needed")
    (place,) = differing
    shared = min(theirs.shape[place], fresh.shape[place])
    widened = torch.zeros_like(fresh)
    widened.narrow(place, 0, shared).copy_(theirs.narrow(place, 0, shared))
    return widened
