"""Mixtures against data whose distribution is known."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.errors import BadCheckpoint
from models.generator import Generator, GeneratorCard, save_generator
from models.prior import LEAST_IMAGES, THOROUGH, Candidate, MixturePrior, fit_prior
from models.registry import build_generator
from models.sampling import SampleItem, Sampler, latents

CENTRES = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 4.0]])
CANDIDATES = (Candidate(1, "full"), Candidate(3, "full"), Candidate(12, "full"))


def _clusters(count: int = 600) -> tuple[Tensor, Tensor, Tensor]:
    """Means and deviations of posteriors around three centres, and which centre."""
    source = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    return CENTRES[labels] + 0.3 * torch.randn(count, 2, generator=source), torch.full((count, 2), 0.4), labels


def _drawn(prior: MixturePrior, count: int, label: int | None = None) -> Tensor:
    source = torch.Generator().manual_seed(2)
    noise, uniform = torch.randn(count, prior.means.shape[1], generator=source), torch.rand(count, generator=source)
    return torch.stack([prior.draw(noise[k], float(uniform[k]), label) for k in range(count)])


def test_clusters_are_found_with_the_spread_of_means_and_posteriors() -> None:
    """Given three clusters of deviation 0.3, encoded with 0.4 more, I expect three components of deviation 0.5."""
    means, deviations, _ = _clusters()
    prior, notes = fit_prior(means, deviations, None, classes=0, seed=0, candidates=CANDIDATES)
    assert prior.components(None) == 3
    assert notes == ()
    assert torch.cdist(CENTRES, prior.means).min(dim=1).values.max() < 0.15
    assert prior.weights.tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    for scale in prior.scales:
        assert torch.allclose(scale @ scale.T, 0.25 * torch.eye(2), atol=0.06)


def test_latents_are_drawn_from_what_was_fitted() -> None:
    means, deviations, _ = _clusters()
    prior, _ = fit_prior(means, deviations, None, classes=0, seed=0, candidates=CANDIDATES)
    drawn = _drawn(prior, 900)
    nearest = torch.cdist(drawn, CENTRES).min(dim=1)
    assert nearest.indices.bincount().tolist() == pytest.approx([300] * 3, abs=50)
    assert nearest.values.square().mean().item() == pytest.approx(2 * 0.25, rel=0.15)


def test_a_correlation_is_kept() -> None:
    source = torch.Generator().manual_seed(3)
    means = torch.randn(1000, 2, generator=source) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    prior, _ = fit_prior(means, torch.full((1000, 2), 1e-3), None, classes=0, seed=0)
    assert torch.corrcoef(_drawn(prior, 1000).T)[0, 1].item() == pytest.approx(0.8, abs=0.05)


def test_each_class_has_a_prior_of_its_own() -> None:
    means, deviations, labels = _clusters()
    prior, notes = fit_prior(means, deviations, labels, classes=3, seed=0, candidates=CANDIDATES)
    assert notes == ()
    for label in range(3):
        assert (_drawn(prior, 200, label).mean(dim=0) - CENTRES[label]).abs().max() < 0.15


def test_few_pictures_of_many_sorts_are_told_apart_by_what_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given 20 pictures each of 16 sorts, in 24 dimensions that are correlated alike in all of them, I expect a component for
    each, although 20 pictures alone know no covariance: new pictures are then likelier by far."""
    source = torch.Generator().manual_seed(4)
    dim, sorts = 24, 16
    centres = 2 * torch.randn(sorts, dim, generator=source)
    shape = torch.linalg.cholesky(0.2 * torch.eye(dim) + 0.3)

    def pictures(each: int) -> Tensor:
        noise: Tensor = torch.randn(sorts * each, dim, generator=source) @ shape.T
        return centres.repeat(each, 1) + 0.5 * noise

    known, unseen = pictures(20), pictures(50)
    deviations = torch.full_like(known, 0.05)
    prior, _ = fit_prior(known, deviations, None, classes=0, seed=0, candidates=THOROUGH)
    monkeypatch.setattr("models.prior.BORROWED", ())
    alone, _ = fit_prior(known, deviations, None, classes=0, seed=0, candidates=THOROUGH)
    assert prior.components(None) >= sorts
    assert prior.log_density(unseen).mean() > alone.log_density(unseen).mean() + 5


def test_few_pictures_are_given_as_many_components_as_they_bear() -> None:
    """Given 66 pictures in three clusters, I expect three components or more, and at most one for ten that are fitted to."""
    means, deviations, _ = _clusters(66)
    prior, _ = fit_prior(
        means, deviations, None, classes=0, seed=0, candidates=(Candidate(1, "full"), Candidate(64, "full"))
    )
    assert 3 <= prior.components(None) <= 6


def test_latents_of_many_numbers_are_given_no_more_components_than_can_be_afforded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given three clusters of 200 points, of which 2,160 draws in two dimensions are learnt from, and room for two components'
    products, I expect two, where three would be likelier."""
    means, deviations, _ = _clusters()
    monkeypatch.setattr("models.prior.MOST_WORK", 2 * 2160 * 2**2)
    prior, _ = fit_prior(means, deviations, None, classes=0, seed=0, candidates=CANDIDATES)
    assert prior.components(None) == 2


def test_densities_are_those_of_a_mixture() -> None:
    source = torch.Generator().manual_seed(5)
    prior = MixturePrior(
        weights=torch.tensor([0.2, 0.8]),
        owners=torch.tensor([0, 0]),
        means=torch.randn(2, 3, generator=source),
        scales=torch.randn(2, 3, 3, generator=source).tril(-1)
        + torch.diag_embed(torch.rand(2, 3, generator=source) + 0.5),
    )
    latents = torch.randn(20, 3, generator=source)
    reference = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(prior.weights),
        torch.distributions.MultivariateNormal(prior.means, scale_tril=prior.scales),
    )
    expected = reference.log_prob(latents).double()  # type: ignore[no-untyped-call]
    assert torch.allclose(prior.log_density(latents), expected, atol=1e-4)


def test_latents_that_are_standard_normal_stay_so() -> None:
    """Given posteriors that say nothing, I expect no mixture to be likelier than N(0, I)."""
    prior, notes = fit_prior(torch.zeros(200, 3), torch.ones(200, 3), None, classes=0, seed=0, candidates=THOROUGH)
    assert notes == ()
    assert torch.equal(prior.means, torch.zeros(1, 3))
    assert torch.equal(prior.scales[0], torch.eye(3))


def test_too_few_images_fall_back_to_the_standard_normal_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    few = LEAST_IMAGES - 1
    with caplog.at_level(logging.WARNING):
        prior, (note,) = fit_prior(torch.full((few, 2), 5.0), torch.ones(few, 2), None, classes=0, seed=0)
    assert torch.equal(prior.scales, torch.eye(2)[None])
    assert f"{few} images are too few" in note
    assert note in caplog.text


def test_only_the_classes_with_too_few_images_fall_back() -> None:
    means, deviations, labels = _clusters(90)
    labels[labels == 2] = 1
    labels[:5] = 2
    prior, (note,) = fit_prior(means, deviations, labels, classes=3, seed=0)
    assert "1 of 3 classes" in note
    assert "5 images" in note
    assert torch.equal(prior.means[prior.owners == 2], torch.zeros(1, 2))
    assert prior.means[prior.owners == 0].abs().max() > 2


def test_the_same_seed_gives_the_same_prior_whatever_was_drawn_before() -> None:
    means, deviations, labels = _clusters(150)
    priors = []
    for world in (1, 2):
        torch.manual_seed(world)
        before = torch.get_rng_state()
        priors.append(fit_prior(means, deviations, labels, classes=3, seed=5)[0].tensors())
        assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(priors[0][name], priors[1][name]) for name in priors[0])


@pytest.mark.parametrize(("uniform", "chosen"), [(0.0, 10.0), (0.24, 10.0), (0.26, 20.0), (0.999999999, 20.0)])
def test_the_uniform_number_chooses_by_weight(uniform: float, chosen: float) -> None:
    prior = MixturePrior(
        weights=torch.tensor([1.0, 0.25, 0.75]),
        owners=torch.tensor([0, 1, 1]),
        means=torch.tensor([[0.0], [10.0], [20.0]]),
        scales=torch.full((3, 1, 1), 0.5),
    )
    assert prior.draw(torch.tensor([2.0]), uniform, 1).tolist() == [chosen + 1.0]
    assert prior.draw(torch.tensor([2.0]), uniform, 0).tolist() == [1.0]


def _generator(prior: MixturePrior | None, classes: int = 2) -> Generator:
    card = GeneratorCard(
        kind="vae-sigma",
        options={"latent_dim": 2, "base_channels": 4},
        resolution=32,
        channels=1,
        classes=[f"class {index}" for index in range(classes)] or None,
        images_seen=0,
    )
    torch.manual_seed(0)
    return Generator(build_generator(card.kind, card.parse_options(), card.shape), card, prior)


def _two_classes() -> MixturePrior:
    return MixturePrior(
        weights=torch.tensor([0.5, 0.5, 1.0]),
        owners=torch.tensor([0, 0, 1]),
        means=torch.tensor([[50.0, 0.0], [-50.0, 0.0], [0.0, 50.0]]),
        scales=torch.eye(2).repeat(3, 1, 1),
    )


def test_a_sampler_draws_from_the_prior_of_the_class() -> None:
    generator = _generator(_two_classes())
    drawn, labels = latents(generator, range(40), [0] * 20 + [1] * 20)
    assert labels is not None
    assert (drawn[:20, 0].abs() > 40).all()
    assert set(drawn[:20, 0].sign().tolist()) == {-1.0, 1.0}
    assert (drawn[20:, 1] > 40).all()


def test_asking_for_the_label_that_would_have_been_drawn_gives_the_same_picture() -> None:
    sampler = Sampler(_generator(_two_classes()))
    free = sampler.sample([SampleItem(seed) for seed in range(9)])
    asked = sampler.sample([SampleItem(picture.seed, picture.label) for picture in free])
    assert {picture.label for picture in free} == {0, 1}
    assert [picture.pixels.tobytes() for picture in free] == [picture.pixels.tobytes() for picture in asked]


def test_a_picture_from_a_prior_is_the_same_alone_and_in_company() -> None:
    sampler = Sampler(_generator(_two_classes()))
    together = sampler.sample([SampleItem(seed) for seed in range(40)])
    for picture in together[::7]:
        (alone,) = sampler.sample([SampleItem(picture.seed)])
        assert alone.pixels.tobytes() == picture.pixels.tobytes()


def test_a_prior_travels_with_its_generator(tmp_path: Path) -> None:
    generator = _generator(_two_classes())
    save_generator(tmp_path, generator.network, generator.card, generator.prior)
    loaded = Generator.load(tmp_path)
    assert loaded.prior is not None
    ours, theirs = _two_classes().tensors(), loaded.prior.tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert loaded.size_bytes == generator.size_bytes > _generator(None).size_bytes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"means": torch.zeros(3, 5)}, r"means should be of shape \(3, 2\)"),
        ({"owners": torch.tensor([0, 0, 0])}, "2 classes"),
    ],
)
def test_a_prior_of_another_generator_is_refused(change: dict[str, Tensor], said: str, tmp_path: Path) -> None:
    generator = _generator(None)
    wrong = MixturePrior(**{**_two_classes().tensors(), **change})
    save_generator(tmp_path, generator.network, generator.card, wrong)
    with pytest.raises(BadCheckpoint, match=said):
        Generator.load(tmp_path)


def test_a_prior_with_a_missing_part_is_refused() -> None:
    tensors = _two_classes().tensors()
    del tensors["owners"]
    with pytest.raises(ValueError, match="owners"):
        MixturePrior.from_tensors(tensors, latent_dim=2, classes=2)
