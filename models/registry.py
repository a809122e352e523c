"""Which module builds which kind: beside the catalogue, the only place that knows kinds by name.

A kind's module is imported when it is first built, so that one kind's dependencies are no other's.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn

from models.catalog import kind as kind_called
from models.objective import Objective, Shape
from models.options import TrainOptions

#: By kind: the objective that trains it and the network that is sampled from, each as module:name.
_BUILDERS = {
    "gan-dcgan": ("models.gan.dcgan:DcganObjective", "models.gan.dcgan:DcganGenerator"),
    "gan-r3": ("models.gan.r3:R3Objective", "models.gan.r3:R3Generator"),
    "gan-fewshot": ("models.gan.fewshot:FewshotObjective", "models.gan.fewshot:FewshotGenerator"),
    "vae-sigma": ("models.vae.sigma:VaeSigmaObjective", "models.vae.sigma:VaeSigma"),
    "vae-gan": ("models.vae.gan:VaeGanObjective", "models.vae.sigma:VaeSigma"),
}


def build_objective(kind: str, options: TrainOptions, shape: Shape, device: torch.device) -> Objective:
    """Build a kind for training, its weights fresh from torch's global random state.

    Raises:
        UnknownKind: no kind is called that.
    """
    objective, _ = _builders(kind, options)
    built: Objective = _found(objective)(options, shape, device)
    return built


def build_generator(kind: str, options: TrainOptions, shape: Shape) -> nn.Module:
    """Build the network that a kind is sampled with, weights still to be loaded.

    Raises:
        UnknownKind: no kind is called that.
    """
    _, network = _builders(kind, options)
    built: nn.Module = _found(network)(options, shape)
    return built


def _builders(kind: str, options: TrainOptions) -> tuple[str, str]:
    assert isinstance(options, kind_called(kind).options)
    return _BUILDERS[kind]


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
