"""vae-gan: edges and adversary pull with the share of the likelihood's force that options give them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.objective import Batch, Shape
from models.options import VaeGanOptions
from models.vae.gan import VaeGanObjective, laplacian_distance
from models.vae.sigma import VaeSigmaObjective

SMALL: dict[str, Any] = {"base_channels": 4, "discriminator_channels": 4, "latent_dim": 8, "batch_size": 8}


def _batch(fraction: float, dtype: torch.dtype = torch.float32) -> Batch:
    source = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 32, 32, generator=source) * 2 - 1
    latents = torch.randn(8, 8, generator=source)
    return Batch(images.to(dtype), None, latents.to(dtype), source, 0, fraction)


def _gradients(objective: VaeSigmaObjective, fraction: float) -> torch.Tensor:
    batch = _batch(fraction, next(objective.network.parameters()).dtype)
    torch.stack(list(objective.losses(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
    return torch.cat([weight.grad.flatten() for weight in objective.network.parameters() if weight.grad is not None])


def _objective(**options: Any) -> VaeGanObjective:
    torch.manual_seed(0)
    return VaeGanObjective(VaeGanOptions(**SMALL, **options), Shape(32, 1, 0), torch.device("cpu"))


def test_without_edges_and_adversary_it_learns_what_vae_sigma_learns() -> None:
    objective = _objective(laplacian_weight=0, adversarial_weight=0)
    torch.manual_seed(0)
    plain = VaeSigmaObjective(objective.sharpening, Shape(32, 1, 0), torch.device("cpu"))
    assert torch.allclose(_gradients(objective, 1.0), _gradients(plain, 1.0), rtol=1e-4, atol=1e-5)


def test_the_adversary_is_silent_first_and_heard_later() -> None:
    objective = _objective(adversary_from=0.25)
    assert "G" not in objective.losses(_batch(0.2))
    assert "G" in objective.losses(_batch(0.3))
    assert objective.voice(0.2) == 0
    assert objective.voice(0.3) == pytest.approx(0.5)
    assert objective.voice(1) == 1


def test_twice_the_weight_is_twice_the_pull() -> None:
    objectives = [_objective(laplacian_weight=weight, adversarial_weight=0) for weight in (0, 1, 2)]
    for objective in objectives:
        objective.network.double()  # else the rounding of large gradients hides small ones, on some processors
    none, once, twice = (_gradients(objective, 0.0) for objective in objectives)
    assert torch.allclose(twice - none, 2 * (once - none), rtol=1e-3, atol=1e-4)


def test_equal_pictures_have_equal_edges() -> None:
    images = _batch(0).images
    assert laplacian_distance(images, images).item() == 0
    assert laplacian_distance(images + 0.1, images).item() == pytest.approx(
        0.1 * 64 * 4, rel=1e-4
    )  # only the coarsest level


def test_the_discriminator_learns_from_the_first_step() -> None:
    objective = _objective()
    objective.losses(_batch(0.0))
    losses = objective.discriminator_losses(_batch(0.0))
    assert losses.keys() == {"D", "penalty"}
