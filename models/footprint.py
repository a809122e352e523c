"""How much memory a training will need, told before it starts.

Weights, gradients, optimizer and average are counted; what a step keeps for its backward pass is weighed on two images, on the
CPU, and grows with the batch in proportion. Convolution workspaces and the allocator's own are not in it: expect about a
tenth more.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from models.config import TrainingConfig
from models.data import PreparedImages
from models.errors import DoesNotFit
from models.generator import GeneratorCard
from models.objective import Batch, Objective
from models.randomness import derived_seed
from models.registry import build_objective
from models.training import told_classes

WEIGHED = 2  # images; batch normalisation needs more than one
_MIB = 2**20


@dataclass(frozen=True)
class Footprint:
    """Bytes that a training takes on its device, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    average: int  # the copy of the generator that is sampled from
    activations: int  # kept from the forward to the backward pass of the largest phase
    data: int  # images, where they are copied into this memory

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        listed = ", ".join(f"{name} {size / _MIB:,.0f}" for name, size in parts.items() if size >= _MIB / 2)
        return f"about {self.total / _MIB:,.0f} MiB of memory ({listed})"


def footprint(data: PreparedImages, config: TrainingConfig, device: str | torch.device = "cpu") -> Footprint:
    """Estimate what a training takes on its device.

    Args:
        data: what it learns.
        config: the training.
        device: where it will compute.

    Raises:
        OptionError: kind, options and data do not fit together.
    """
    classes, manifest = told_classes(config.options, data.manifest.classes), data.manifest
    card = GeneratorCard(
        kind=config.kind,
        options=config.options.model_dump(mode="json"),
        resolution=config.resolution,
        channels=1 if manifest.channels == 1 else 3,
        classes=classes,
        images_seen=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "footprint"))
        objective = build_objective(config.kind, config.options, card.shape, torch.device("cpu"))
        side, channels = config.resolution, manifest.channels
        batch = Batch(
            images=torch.rand(WEIGHED, channels, side, side)
            .mul(2)
            .sub(1)
            .contiguous(memory_format=torch.channels_last),
            labels=None if classes is None else torch.zeros(WEIGHED, dtype=torch.int64),
            latents=torch.randn(WEIGHED, config.options.latent_dim),
            random=torch.Generator().manual_seed(config.seed),
        )
        kept = _kept_for_backward(objective, batch)
    weights = sum(_bytes_of(phase.module) for phase in objective.phases)
    # On a CUDA device or scaled down, images are copied; the host otherwise reads the mapped file.
    copied = torch.device(device).type == "cuda" or config.resolution < manifest.resolution
    return Footprint(
        weights=weights,
        gradients=weights,
        optimizer=2 * weights,  # Adam's two averages
        average=_bytes_of(objective.generator),
        activations=kept * config.options.batch_size // WEIGHED,
        data=len(data) * channels * side**2 if copied else 0,
    )


def free_bytes(device: str | torch.device) -> int:
    """The memory that a device has left, in bytes; for the CPU what the host can give without swapping."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_fits(needed: Footprint, device: str | torch.device) -> None:
    """Raise DoesNotFit where a device has not the memory that a training needs."""
    free = free_bytes(device)
    if needed.total > free:
        raise DoesNotFit(
            f"this training needs {needed}, {device} has {free / _MIB:,.0f} MiB left; "
            "choose a smaller batch_size, base_channels or resolution"
        )


def _kept_for_backward(objective: Objective, batch: Batch) -> int:
    """Bytes that the forward passes of one step keep, weights not counted, in the phase that keeps most."""
    weights = {
        weight.untyped_storage().data_ptr() for phase in objective.phases for weight in phase.module.parameters()
    }
    most = 0
    for phase in objective.phases:
        seen: dict[int, int] = {}

        def keep(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, _as_it_is):
            losses = phase.losses(batch)
        most = max(most, sum(seen.values()))
        del losses
    return most


def _as_it_is(tensor: Any) -> Any:
    return tensor


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())
