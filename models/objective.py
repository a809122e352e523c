"""What a kind gives the training loop: networks, and the losses that its phases minimise.

The loop knows nothing of adversaries or likelihoods. It draws a batch, and for each phase in order asks for the losses,
differentiates their sum and lets the phase's optimizer step.

Shapes: N batch, C channels, H W pixels, D latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from models.options import Precision
from models.precision import computing


@dataclass(frozen=True)
class Shape:
    """What a kind's networks are built for."""

    resolution: int  # pixels on a side
    channels: int  # 1 grey, 3 RGB
    classes: int  # labels that the networks are told; 0 when they are not


@dataclass(frozen=True)
class Batch:
    """One step's input; every phase of the step sees the same one."""

    images: Tensor  # float [-1, 1], [N, C, H, W]
    labels: Tensor | None  # int64 [N]; None when the networks are not told labels
    latents: Tensor  # float, standard normal, [N, D]
    random: torch.Generator  # on the CPU, for every other draw; its state is part of a checkpoint
    images_seen: int = 0  # by these weights before this step, by all ranks: also where another training began them
    fraction: float = 0.0  # of the budget that is spent, 0 to 1: what schedules go by

    ranks: int = 1  # processes that learn from a batch like this each, at the same time (`models.ranks`)

    @property
    def size(self) -> int:
        """Images in this step, of all ranks."""
        return len(self.images) * self.ranks

    @property
    def number(self) -> int:
        """How many steps came before this one."""
        return self.images_seen // self.size


@dataclass(frozen=True)
class Hyperparameters:
    """What an optimizer of Adam's family works with in one step."""

    learning_rate: float
    betas: tuple[float, float]  # decays of the mean gradient and of its mean square


@dataclass(frozen=True)
class Phase:
    """One optimizer's turn within a step."""

    name: str  # as the papers call it: "D", "G"
    module: nn.Module  # whose weights this phase changes
    optimizer: torch.optim.Optimizer
    losses: Callable[[Batch], Mapping[str, Tensor]]  # scalars by name; their sum is minimised
    hyperparameters: Callable[[float], Hyperparameters]  # when so much of the budget is spent, 0 to 1

    def learn(
        self,
        batch: Batch,
        *,
        share: float = 1.0,
        precision: Precision = "fp32",
        reduce: Callable[[Sequence[Tensor]], None] | None = None,
    ) -> dict[str, Tensor]:
        """Take one step.

        Args:
            batch: what to learn from.
            share: what the step size is multiplied with, beside its schedule.
            precision: what the networks compute with.
            reduce: called between gradients and step on all gradients and the losses (float, of any shapes), and may change
                them in place; None: nothing is to be done there.

        Returns:
            the losses, detached.
        """
        chosen = self.hyperparameters(batch.fraction)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = chosen.learning_rate * share, chosen.betas
        self.optimizer.zero_grad(set_to_none=True)
        with computing(precision, batch.images.device):
            losses = self.losses(batch)
        each = torch.stack(list(losses.values()))
        each.sum().backward()  # type: ignore[no-untyped-call] # torch's own gap
        each = each.detach()
        if reduce is not None:
            reduce([*(weight.grad for weight in self.module.parameters() if weight.grad is not None), each])
        self.optimizer.step()
        return dict(zip(losses, each.unbind(), strict=True))


class Objective(Protocol):
    """A kind in training, built by the registry on the device it will train on."""

    #: What is sampled from in the end, `(latents [N, D], labels [N] | None) -> float [-1, 1], [N, C, H, W]`; the loop
    #: keeps its moving average.
    generator: nn.Module

    #: In the order they run within a step; together their modules hold all that is learnt.
    phases: tuple[Phase, ...]

    #: What a step lets people watch and no phase minimises, by name: detached scalars on the device, or numbers that the
    #: objective has at hand. Phases write here, the loop empties it before each step and keeps the means.
    gauges: dict[str, Tensor | float]


@runtime_checkable
class Encodes(Protocol):
    """A generator that can also say from which latents it would develop given pictures.

    Where it can, the prior of its latents is fitted to them (`models.prior`).
    """

    def posterior(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The means and the standard deviations, each [N, D], for images, float [-1, 1], [N, C, H, W]."""
        ...


@runtime_checkable
class Judges(Protocol):
    """An objective with a discriminator that may come to know its pictures by heart."""

    def judged(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The discriminator's logits, detached, for images, float [-1, 1], [N, C, H, W]; nothing that is learnt changes."""
        ...


@runtime_checkable
class Discriminates(Protocol):
    """An objective with discriminators, each with its layers from the pictures upwards in `layers`, an nn.Sequential."""

    discriminators: Sequence[nn.Module]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Build graphs through `module` without gradients for its weights, which would be computed only to be thrown away."""
    learning = [weight for weight in module.parameters() if weight.requires_grad]  # others may be fixed for good
    for weight in learning:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
