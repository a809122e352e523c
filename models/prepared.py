"""Generators made ready for sampling: the same network, rewritten so that it costs less.

- Batch normalisation is folded into the convolution before it: in evaluation mode it is one more multiplication by constants.
- A transposed convolution of a single pixel, and a convolution that leaves one, are matrix products.
- Doubling by nearest neighbours before a convolution of 3x3 is one transposed convolution of 4x4, with 4/9 of the work.
- On a CPU, transposed convolutions of 4x4 are computed as `models.winograd` says, and matrix products as `models.products`
  says: summed in another order, one picture alone would differ from the same in company.

Numbers change by rounding alone; should more than one pixel level change on a probe, the plain network is kept. Group
normalisation depends on the picture, so it stays. What was tried besides is in docs/experiments.md.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from models.generator import Generator, to_pixels
from models.products import Product
from models.winograd import OverlapDoubling, WinogradDoubling, Workspace

FEWEST_OUTPUTS = 8  # channels of a transposed convolution, below which patches that overlap are faster
FEWEST_INPUTS = 128  # channels, below which what is added before and after outweighs the products that are saved
PROBED = 8  # pictures that are compared with the plain network's
#: What the taps of a 4x4 transposed convolution are, where a 3x3 convolution reads each pixel twice: each row sums taps of it.
NEAREST = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))


def prepared(generator: Generator) -> Generator:
    """A generator that makes the same pictures, up to one level of some pixels, in less time; the given one is left as it is.

    It may be called from several threads at once. It can't be trained or exported.
    """
    network = copy.deepcopy(generator.network)
    _rewrite(network, Workspace())
    ready = Generator(network.to(memory_format=torch.channels_last), generator.card, generator.prior)
    return ready if _agree(generator, ready) else generator


class Spread(nn.Module):
    """A transposed convolution of one pixel: [N, C, 1, 1] to [N, O, S, S]."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = layer.weight.detach()  # (C, O, S, S)
        self.size = weight.shape[2]
        bias = None if layer.bias is None else layer.bias.detach().repeat(self.size**2)
        self.product = Product(weight.permute(2, 3, 1, 0).flatten(0, 2), bias)  # (S S O, C)

    def forward(self, maps: Tensor) -> Tensor:
        spread: Tensor = self.product(maps.flatten(1)).unflatten(1, (self.size, self.size, -1))
        return spread.permute(0, 3, 1, 2)


class Gather(nn.Module):
    """A convolution as large as its maps, without padding: [N, C, S, S] to [N, O, 1, 1]; other maps are convolved."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self.product = Product(layer.weight.detach().permute(0, 2, 3, 1).flatten(1), _detached(layer.bias))

    def forward(self, maps: Tensor) -> Tensor:
        if maps.shape[2:] != self.layer.weight.shape[2:]:
            convolved: Tensor = self.layer(maps)
            return convolved
        gathered: Tensor = self.product(maps.permute(0, 2, 3, 1).flatten(1))
        return gathered[:, :, None, None]


FORMS = (Product, Spread, Gather, WinogradDoubling, OverlapDoubling)  # cheap already, and so is all within


def _rewrite(module: nn.Module, workspace: Workspace) -> None:
    """Replace, in place and all the way down, what there is a cheaper form for."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            child = nn.Sequential(*_fused(list(child), workspace))
            setattr(module, name, child)
        replaced = _alone(child, workspace)
        if replaced is not child:
            setattr(module, name, replaced)
        elif not isinstance(child, FORMS):
            _rewrite(child, workspace)


def _fused(layers: list[nn.Module], workspace: Workspace) -> list[nn.Module]:
    """A sequence's layers, those made one that can be."""
    done: list[nn.Module] = []
    for layer in layers:
        last = done[-1] if done else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(last, nn.Conv2d | nn.ConvTranspose2d):
            done[-1] = fuse_conv_bn_eval(last, layer, transpose=isinstance(last, nn.ConvTranspose2d))
        elif isinstance(layer, nn.Conv2d) and isinstance(last, nn.Upsample) and _follows_doubling(layer):
            done[-1] = _doubling_convolution(layer)
        else:
            done.append(layer)
    sparing: list[nn.Module] = []
    for layer in done:
        last = sparing[-1] if sparing else None
        if isinstance(layer, nn.ReLU) and isinstance(last, WinogradDoubling):
            last.rectify = True
        else:
            sparing.append(_alone(layer, workspace))
    return sparing


def _alone(layer: nn.Module, workspace: Workspace) -> nn.Module:
    """The cheaper form of one layer; itself where there is none."""
    on_cpu = all(tensor.device.type == "cpu" for tensor in layer.parameters())
    if isinstance(layer, nn.Linear):
        return Product(layer.weight.detach(), _detached(layer.bias))
    if isinstance(layer, nn.ConvTranspose2d) and layer.groups == 1:
        if layer.stride == (1, 1) and layer.padding == (0, 0):
            return Spread(layer)  # in all kinds it begins with one pixel
        if on_cpu and layer.kernel_size == (4, 4) and layer.stride == (2, 2) and layer.padding == (1, 1):
            weight, bias = layer.weight.detach(), _detached(layer.bias)
            if layer.out_channels < FEWEST_OUTPUTS:
                return OverlapDoubling(weight, bias, workspace)
            if layer.in_channels >= FEWEST_INPUTS:
                return WinogradDoubling(weight, bias, workspace, rectify=False)
    if isinstance(layer, nn.Conv2d) and on_cpu and layer.padding == (0, 0) and layer.groups == 1:
        return Gather(layer)
    return layer


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


def _follows_doubling(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (3, 3) and layer.stride == (1, 1) and layer.padding == (1, 1) and layer.groups == 1


def _doubling_convolution(layer: nn.Conv2d) -> nn.ConvTranspose2d:
    """Nearest neighbours twice as large, then this convolution, in one."""
    taps = torch.tensor(NEAREST, dtype=torch.float64, device=layer.weight.device)
    weight = torch.einsum("ki,lj,ocij->cokl", taps, taps, layer.weight.detach().double()).float()
    one = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 4, 2, 1, bias=layer.bias is not None).eval()
    one.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        one.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return one


def _agree(plain: Generator, ready: Generator) -> bool:
    """Whether no pixel of a few pictures, made one by one in case memory is scarce, differs by more than one level."""
    source = torch.Generator(device="cpu").manual_seed(0)
    for index in range(PROBED):
        latent = torch.randn(1, plain.latent_dim, generator=source)
        label = None if plain.classes is None else torch.tensor([index % len(plain.classes)])
        there, here = (to_pixels(one.synthesize(latent, label)).int() for one in (plain, ready))
        if int((there - here).abs().max()) > 1:
            return False
    return True
