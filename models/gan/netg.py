"""Weights of the classic PyTorch DCGAN example, `netG.pth`, as a generator of ours.

That example saves the state dict of its generator: one nn.Sequential called `main` of transposed convolutions, batch
normalisations and ReLUs, tanh at the end. `gan-dcgan` is the same network under other names, so the weights are taken as they
are; latent_dim (its nz), base_channels (ngf) and channels (nc) follow from their shapes, the resolution from the number of
layers. Strides and paddings are in no state dict: those of the paper are assumed, of which each layer doubles its input.

The file is a pickle, and a pickle can hold anything. It is read by PyTorch's restricted reader, which builds tensors and
plain values and refuses everything else; what is no tensor is then refused here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.catalog import kind, parse_options
from models.errors import ForeignWeights, OptionError, TargetExists
from models.gan.dcgan import WIDTHS, DcganGenerator
from models.generator import GeneratorCard, load_weights, save_generator
from models.objective import Shape
from models.options import DcganOptions
from models.sealed import whole_directory

KIND = "gan-dcgan"
PREFIX = re.compile(r"(module\.)?main\.")  # `module.` where it was trained on several GPUs
COUNTER = ".num_batches_tracked"  # of a normalisation: needed for nothing, and absent from files of before 2018


def import_netg(path: Path, target: Path) -> GeneratorCard:
    """Make a generator out of a `netG.pth`, in a new directory.

    Args:
        path: a file that `torch.save(netG.state_dict(), …)` wrote.
        target: the directory to make; must not exist.

    Returns:
        the card of the new generator.

    Raises:
        TargetExists: something is there already.
        ForeignWeights: the file is no such state dict, or not of a network that gan-dcgan can be.
        CheckpointError: the target cannot be written.

    Source: the layers are those of Radford, Metz and Chintala 2015, arXiv:1511.06434, figure 1.
    """
    if target.exists():
        raise TargetExists(f"{target} is there already; name a directory that is not, nothing is overwritten")
    tensors = _read(path)
    options, shape = _inferred(tensors, path)
    network = DcganGenerator(options, shape)
    _compare(tensors, network, path)
    counters = {name: tensor for name, tensor in network.state_dict().items() if name.endswith(COUNTER)}
    floats = {name: tensor.float() for name, tensor in tensors.items() if not name.endswith(COUNTER)}
    load_weights(network, {**counters, **floats}, path)
    if not all(tensor.isfinite().all() for tensor in floats.values()):
        raise ForeignWeights(
            f"{path} holds weights that are not finite: its training had diverged, take an earlier file"
        )
    card = GeneratorCard(
        kind=KIND,
        options=options.model_dump(mode="json"),
        resolution=shape.resolution,
        channels=3 if shape.channels == 3 else 1,
        images_seen=0,
        notes=(f"imported from {path.name}, which does not say how many images it has seen",),
    )
    with whole_directory(target) as directory:
        save_generator(directory, network, card)
    return card


def _read(path: Path) -> dict[str, Tensor]:
    """The file's tensors under our names."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ForeignWeights(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a hostile or damaged file can make the reader raise whatever it likes
        raise ForeignWeights(
            f"{path} is no file of tensors alone, and nothing else is loaded from it; save "
            "`netG.state_dict()`, not the network itself"
        ) from error
    if not isinstance(content, Mapping) or not content:
        raise ForeignWeights(f"{path} holds no state dict but {type(content).__name__}; save `netG.state_dict()`")
    tensors = {}
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise ForeignWeights(
                f"{path} holds {type(value).__name__} under {name!r} where only tensors may be; "
                "save `netG.state_dict()` alone"
            )
        if not isinstance(name, str) or not PREFIX.match(name):
            raise ForeignWeights(
                f"{path} holds {name!r}; in a netG.pth of the DCGAN example all names begin with main."
            )
        if value.layout is not torch.strided or not (value.is_floating_point() or name.endswith(COUNTER)):
            raise ForeignWeights(f"{path}: {name} is of {value.dtype}, {value.layout}; weights are dense floats")
        tensors[PREFIX.sub("layers.", name, count=1)] = value.detach()
    return tensors


def _inferred(tensors: Mapping[str, Tensor], path: Path) -> tuple[DcganOptions, Shape]:
    """The options and the shape of the network that these weights are of."""
    convolutions = [tensor.shape for tensor in tensors.values() if tensor.dim() == 4]  # each (in, out, kernel, kernel)
    first = convolutions[0][2] if convolutions else 0  # its kernel is the side of the smallest maps
    resolution = first * 2 ** (len(convolutions) - 1)
    if resolution not in WIDTHS:
        layers = ", ".join(f"{len(widths) + 1} for {size} px" for size, widths in WIDTHS.items())
        raise ForeignWeights(f"{path} has {len(convolutions)} transposed convolutions; {KIND} has {layers}")
    (latent_dim, *_), (narrowest, channels, *_) = convolutions[0], convolutions[-1]
    wanted = {"latent_dim": latent_dim, "base_channels": narrowest // WIDTHS[resolution][-1], "conditional": False}
    try:
        kind(KIND).check(resolution, channels)
        options = parse_options(KIND, wanted)
    except OptionError as error:
        raise ForeignWeights(f"{path} is of a network that {KIND} cannot be: {error}") from error
    assert isinstance(options, DcganOptions)
    return options, Shape(resolution, channels, classes=0)


def _compare(tensors: Mapping[str, Tensor], network: DcganGenerator, path: Path) -> None:
    """Raise ForeignWeights unless names and shapes are the network's."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        missing = name not in found and not name.endswith(COUNTER)
        if missing or (name in found and found[name] != expected.get(name)):
            raise ForeignWeights(
                f"{path} is of another network than {KIND}: {name.replace('layers.', 'main.')} is "
                f"{found.get(name, 'absent')}, should be {expected.get(name, 'absent')}"
            )
