"""The plain loop is what we claim to compare with: our DCGAN's networks in another loop."""

from __future__ import annotations

import pytest
import torch

from bench.peers.plain import LATENT_DIM, discriminator, generator
from models.gan.dcgan import DcganDiscriminator, DcganGenerator
from models.objective import Shape
from models.options import DcganOptions


@pytest.mark.parametrize(("resolution", "channels"), [(32, 1), (64, 3)])
def test_its_networks_have_the_weights_of_ours(resolution: int, channels: int) -> None:
    options, shape = DcganOptions(), Shape(resolution, channels, classes=0)
    pairs = [
        (generator(channels, resolution), DcganGenerator(options, shape)),
        (discriminator(channels, resolution), DcganDiscriminator(options, shape)),
    ]
    for plain, ours in pairs:
        assert [weight.shape for weight in plain.parameters()] == [weight.shape for weight in ours.parameters()]
    latents = torch.randn(2, LATENT_DIM)
    plain, ours = pairs[0]
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    assert torch.equal(plain(latents[:, :, None, None]), ours(latents))
