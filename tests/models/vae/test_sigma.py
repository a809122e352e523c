"""The losses of vae-sigma against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from models.objective import Batch, Encodes, Shape
from models.options import VaeSigmaOptions
from models.vae.sigma import (
    LEAST_VARIANCE,
    VaeSigma,
    VaeSigmaObjective,
    kl_divergence,
    negative_log_likelihood,
    warm_up,
)

SMALL = VaeSigmaOptions(base_channels=4, latent_dim=8)


def test_the_likelihood_is_that_of_the_best_variance() -> None:
    """Given errors of 0.1 and 0.3, I expect the Gaussian of variance (0.01 + 0.09) / 2, summed over two pixels."""
    images = torch.tensor([0.0, 0.5]).view(1, 1, 1, 2)
    pictures = torch.tensor([0.1, 0.2]).view(1, 1, 1, 2)

    def by_hand(variance: float) -> float:
        return sum(0.5 * (math.log(2 * math.pi * variance) + error**2 / variance) for error in (0.1, 0.3))

    assert negative_log_likelihood(pictures, images).item() == pytest.approx(by_hand(0.05), rel=1e-5)
    assert by_hand(0.05) < min(by_hand(0.04), by_hand(0.06))  # any other variance explains the images worse


def test_the_likelihood_is_a_mean_over_the_batch_and_a_sum_over_pixels() -> None:
    images = torch.randn(4, 3, 2, 2)
    pictures = images + 0.2
    by_hand = 12 / 2 * (math.log(2 * math.pi * 0.04) + 1)
    assert negative_log_likelihood(pictures, images).item() == pytest.approx(by_hand, rel=1e-5)
    assert negative_log_likelihood(pictures[:1], images[:1]).item() == pytest.approx(by_hand, rel=1e-5)


def test_the_gradient_is_that_of_the_logarithm_of_the_error() -> None:
    """The variance is treated as a constant: at its best value, that changes no gradient."""
    images, pictures = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4, requires_grad=True)
    (ours,) = torch.autograd.grad(negative_log_likelihood(pictures, images), pictures)
    (theirs,) = torch.autograd.grad(16 / 2 * torch.log((pictures - images).square().mean()), pictures)
    assert torch.allclose(ours, theirs, rtol=1e-4)


def test_a_perfect_reconstruction_is_no_infinity() -> None:
    images = torch.zeros(1, 1, 2, 2)
    by_hand = 4 / 2 * math.log(2 * math.pi * LEAST_VARIANCE)
    assert negative_log_likelihood(images, images).item() == pytest.approx(by_hand, rel=1e-5)


def test_the_divergence_is_that_of_two_gaussians() -> None:
    means, log_variances = torch.randn(5, 3), torch.randn(5, 3)
    posterior = torch.distributions.Normal(means, (0.5 * log_variances).exp())
    by_hand = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(dim=1).mean()
    assert kl_divergence(means, log_variances, free_nats=0).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_free_bits_count_for_each_latent_number_in_the_mean_of_the_batch() -> None:
    """Given means of 2 and 0 in one number and 0.2 in the other, I expect 1 nat as it is, and 0.02 nats raised to 0.5."""
    means = torch.tensor([[2.0, 0.2], [0.0, 0.2]], requires_grad=True)
    loss = kl_divergence(means, torch.zeros(2, 2), free_nats=0.5)
    assert loss.item() == pytest.approx(1.0 + 0.5)
    (gradient,) = torch.autograd.grad(loss, means)
    assert gradient.tolist() == [[pytest.approx(1.0), 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(("seen", "weight"), [(0, 0.0), (50, 0.25), (200, 1.0), (1000, 1.0)])
def test_the_divergence_warms_up_in_a_straight_line(seen: int, weight: float) -> None:
    assert warm_up(seen, 200) == weight
    assert warm_up(seen, 0) == 1.0


def test_the_warm_up_follows_the_images_seen() -> None:
    objective = VaeSigmaObjective(
        SMALL.model_copy(update={"kl_warmup_images": 100}), Shape(32, 1, 0), torch.device("cpu")
    )
    images, latents = torch.rand(10, 1, 32, 32), torch.zeros(10, 8)
    early, late, later = (
        objective.losses(Batch(images, None, latents, torch.Generator(), images_seen=seen))["KL"].item()
        for seen in (0, 90, 5000)
    )
    assert early == pytest.approx(late / 10)
    assert late == later > 0


def test_gauges_tell_sigma_and_the_divergence_before_its_weight() -> None:
    objective = VaeSigmaObjective(
        SMALL.model_copy(update={"kl_warmup_images": 100, "free_nats": 0.0}), Shape(32, 1, 0), torch.device("cpu")
    )
    losses = objective.losses(
        Batch(torch.zeros(10, 1, 32, 32), None, torch.zeros(10, 8), torch.Generator(), images_seen=10)
    )
    gauges = {name: float(value) for name, value in objective.gauges.items()}
    assert gauges["KL_weight"] == 0.2
    assert gauges["KL_unweighted"] == pytest.approx(losses["KL"].item() / 0.2, rel=1e-4)
    nats = 512 * (math.log(2 * math.pi * gauges["sigma"] ** 2) + 1)  # P/2 (ln 2 pi sigma^2 + 1), at the best sigma
    assert nats == pytest.approx(losses["reconstruction"].item(), rel=1e-4)


def test_the_noise_of_the_posterior_is_the_latent_of_the_batch() -> None:
    """Nothing is drawn inside, so that a step follows from the loop's random state."""
    objective = VaeSigmaObjective(SMALL, Shape(32, 1, 0), torch.device("cpu"))
    images, latents = torch.rand(4, 1, 32, 32), torch.randn(4, 8)
    losses = [objective.losses(Batch(images, None, noise, torch.Generator())) for noise in (latents, latents, -latents)]
    assert losses[0]["reconstruction"] == losses[1]["reconstruction"] != losses[2]["reconstruction"]


@pytest.mark.parametrize("classes", [0, 3])
def test_it_can_say_where_pictures_lie(classes: int) -> None:
    network = VaeSigma(SMALL, Shape(96, 3, classes)).eval()
    assert isinstance(network, Encodes)
    labels = torch.tensor([0, 2]) if classes else None
    means, deviations = network.posterior(torch.zeros(2, 3, 96, 96), labels)
    assert means.shape == deviations.shape == (2, 8)
    assert (deviations > 0).all()
    assert torch.equal(means[0], means[1]) == (classes == 0)
