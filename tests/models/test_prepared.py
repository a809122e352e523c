"""Prepared generators make the pictures that plain ones make, in less time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.catalog import KINDS
from models.generator import Generator, GeneratorCard
from models.prepared import Gather, Spread, prepared
from models.registry import build_generator
from models.sampling import SampleItem, Sampler
from models.winograd import WinogradDoubling
from tests.models.conftest import SMALL


def _generator(kind: str, *, resolution: int = 32, classes: int = 0, **options: int) -> Generator:
    torch.manual_seed(5)
    names = [f"class {index}" for index in range(classes)] or None
    chosen = {**SMALL[kind], **options}
    card = GeneratorCard(kind=kind, options=chosen, resolution=resolution, channels=3, classes=names, images_seen=0)
    parsed = card.parse_options()
    network = build_generator(kind, parsed, card.shape)
    labels = torch.arange(16) % classes if classes else None
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # statistics of the one batch below
    with torch.no_grad():
        network(torch.randn(16, parsed.latent_dim), labels)
        for layer in network.modules():  # blocks that begin as the identity would hide a wrong convolution
            if isinstance(layer, nn.Conv2d) and not layer.weight.any():
                nn.init.normal_(layer.weight, std=0.05)
    generator = Generator(network.to(memory_format=torch.channels_last), card)
    *_, last = (layer for layer in network.modules() if isinstance(layer, nn.ConvTranspose2d))
    with torch.no_grad():  # pictures of all levels, as after training, not of one grey
        last.weight *= 0.5 / generator.synthesize(*_latents(generator)).std()
    return generator


def _latents(generator: Generator, count: int = 5) -> tuple[Tensor, Tensor | None]:
    labels = None if generator.classes is None else torch.arange(count) % len(generator.classes)
    return torch.randn(count, generator.latent_dim, generator=torch.Generator().manual_seed(1)), labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("resolution", "classes"), [(32, 0), (64, 3), (96, 0), (128, 0)])
def test_every_kind_makes_the_same_pictures(kind: str, resolution: int, classes: int) -> None:
    plain = _generator(kind, resolution=resolution, classes=classes)
    before = {name: tensor.clone() for name, tensor in plain.network.state_dict().items()}

    ready = prepared(plain)

    assert ready is not plain
    assert torch.allclose(ready.synthesize(*_latents(plain)), plain.synthesize(*_latents(plain)), atol=2e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.network.modules())
    after = plain.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_wide_layers_are_computed_with_fewer_products() -> None:
    plain = _generator("gan-dcgan", base_channels=64)
    ready = prepared(plain)
    assert sum(isinstance(module, WinogradDoubling) for module in ready.network.modules()) == 2
    assert torch.allclose(ready.synthesize(*_latents(plain)), plain.synthesize(*_latents(plain)), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_the_same_alone_and_in_company(kind: str) -> None:
    sampler = Sampler(prepared(_generator(kind, classes=2)))
    together = sampler.sample([SampleItem(seed) for seed in range(13)])
    for seed in (0, 7, 12):
        (alone,) = sampler.sample([SampleItem(seed)])
        assert np.array_equal(alone.pixels, together[seed].pixels)


def test_memory_that_layers_compute_in_is_counted() -> None:
    ready = prepared(_generator("gan-dcgan", base_channels=64))
    ready.synthesize(*_latents(ready, 1))
    one = ready.size_bytes
    ready.synthesize(*_latents(ready, 32))
    assert ready.size_bytes > one > 0


def test_several_threads_do_not_spoil_each_others_pictures() -> None:
    ready = prepared(_generator("gan-dcgan", base_channels=64))
    expected = [ready.synthesize(latents[None]) for latents in _latents(ready, 8)[0]]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(ready.synthesize, _latents(ready, 8)[0].unsqueeze(1)))
    assert all(torch.equal(one, other) for one, other in zip(made, expected, strict=True))


def test_a_rewriting_that_would_change_pictures_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.prepared.NEAREST", ((1, 0, 0), (0, 1, 1), (1, 1, 0), (1, 0, 0)))
    plain = _generator("gan-fewshot")
    assert prepared(plain) is plain


def test_one_pixel_spreads_and_maps_gather_as_convolutions_do() -> None:
    torch.manual_seed(0)
    spreading, gathering = nn.ConvTranspose2d(6, 5, 4), nn.Conv2d(5, 6, 4)
    with torch.no_grad():
        maps = spreading(torch.ones(3, 6, 1, 1))
        assert torch.allclose(Spread(spreading)(torch.ones(3, 6, 1, 1)), maps, atol=1e-6)
        assert torch.allclose(Gather(gathering)(maps), gathering(maps), atol=1e-6)
        larger = torch.randn(2, 5, 9, 9)
        assert torch.equal(Gather(gathering)(larger), gathering(larger))
