"""Which module builds which kind: beside the catalogue, the only place that knows kinds by name.

A kind's module is imported when it is first built, so that one kind's dependencies are no other's.
"""

from __future__ import annotations

import torch
from torch import nn

from models.catalog import DcganOptions, TrainOptions, VaeSigmaOptions
from models.errors import UnknownKind
from models.objective import Objective, Shape


def build_objective(kind: str, options: TrainOptions, shape: Shape, device: torch.device) -> Objective:
    """Build a kind for training, its weights fresh from torch's global random state.

    Raises:
        UnknownKind: no kind is called that.
    """
    if kind == "gan-dcgan":
        from models.gan.dcgan import DcganObjective

        assert isinstance(options, DcganOptions)
        return DcganObjective(options, shape, device)
    if kind == "vae-sigma":
        from models.vae.sigma import VaeSigmaObjective

        assert isinstance(options, VaeSigmaOptions)
        return VaeSigmaObjective(options, shape, device)
    raise UnknownKind(kind)


def build_generator(kind: str, options: TrainOptions, shape: Shape) -> nn.Module:
    """Build the network that a kind is sampled with, weights still to be loaded.

    Raises:
        UnknownKind: no kind is called that.
    """
    if kind == "gan-dcgan":
        from models.gan.dcgan import DcganGenerator

        assert isinstance(options, DcganOptions)
        return DcganGenerator(options, shape)
    if kind == "vae-sigma":
        from models.vae.sigma import VaeSigma

        assert isinstance(options, VaeSigmaOptions)
        return VaeSigma(options, shape)
    raise UnknownKind(kind)
