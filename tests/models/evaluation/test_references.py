"""Our measures against other people's implementations of them, on the same features and pictures.

Where definitions differ, parameters are set so that the difference vanishes, and the test says what it was.

Shapes: N and M images, F features, K classes.
"""

from __future__ import annotations

import pytest
import torch
from prdc import compute_prdc
from pytorch_msssim import ms_ssim as their_ms_ssim
from pytorch_msssim import ssim as their_ssim
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kernel_mmd, kid_features_to_metric

from models.evaluation.frechet import frechet_distance
from models.evaluation.kernel import kernel_distance, polynomial_mmd
from models.evaluation.neighbours import manifold
from models.evaluation.reading import inception_score
from models.evaluation.similarity import ms_ssim

KERNEL = {
    "kid_kernel": "poly",
    "kid_kernel_poly_degree": 3,
    "kid_kernel_poly_gamma": None,
    "kid_kernel_poly_coef0": 1.0,
}


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _features(count: int, size: int, seed: int) -> Tensor:
    """Correlated features as a network gives them: a random mixture of Gaussians, cut off below 0; float64 [count, size]."""
    mixture = torch.randn(size, size, generator=_random(0), dtype=torch.float64) / size**0.5
    features: Tensor = torch.randn(count, size, generator=_random(seed), dtype=torch.float64) @ mixture + 0.3
    return features.relu()


def _shifted(count: int, size: int, seed: int) -> Tensor:
    return 1.2 * _features(count, size, seed) + 0.1


def _pictures(count: int, channels: int, resolution: int) -> tuple[Tensor, Tensor]:
    """Random pictures of smooth colour and the same with noise, from little to much: uint8 [count, C, H, W] each."""
    coarse = torch.rand(count, channels, resolution // 8, resolution // 8, generator=_random(1))
    clean = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    noise = torch.randn(clean.shape, generator=_random(2)) * torch.linspace(0.02, 0.3, count).view(-1, 1, 1, 1)
    return (clean * 255).byte(), ((clean + noise).clamp(0, 1) * 255).byte()


@pytest.mark.parametrize(("first", "second", "size"), [(300, 200, 16), (40, 30, 64)])
def test_the_frechet_distance_is_torch_fidelitys(first: int, second: int, size: int) -> None:
    """With an inverse and, where there are fewer images than features, without.

    Theirs takes the roots of the eigenvalues of Σ₁Σ₂, which is not symmetric, so without an inverse the zeros among them come
    out as ± 10⁻¹⁶ or so, and their roots as 10⁻⁸.
    """
    ours, theirs = _features(first, size, seed=1), _shifted(second, size, seed=2)
    expected = fid_statistics_to_metric(*map(fid_features_to_statistics, (ours, theirs)), verbose=False)
    assert frechet_distance(ours, theirs) == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)


def test_the_estimator_under_kid_is_torch_fidelitys() -> None:
    """Theirs needs equal numbers of images, ours does not."""
    first, second = _features(120, 32, seed=1), _shifted(120, 32, seed=2)
    assert polynomial_mmd(first, second) == pytest.approx(kernel_mmd(first.numpy(), second.numpy(), **KERNEL), rel=1e-9)


def test_kid_over_subsets_is_torch_fidelitys_but_for_the_draw() -> None:
    """Subsets come from different random sources, so the means lie within four standard errors and spreads within a third."""
    first, second = _features(400, 32, seed=1), _shifted(300, 32, seed=2)
    theirs = kid_features_to_metric(
        first, second, kid_subsets=100, kid_subset_size=100, rng_seed=0, verbose=False, **KERNEL
    )
    mean, spread = kernel_distance(first, second, random=_random(3), subsets=100, subset_size=100)
    assert abs(mean - theirs["kernel_inception_distance_mean"]) < 4 * spread * (2 / 100) ** 0.5
    assert spread == pytest.approx(theirs["kernel_inception_distance_std"], rel=1 / 3)
    assert mean > 4 * spread, "the shift is seen, so that agreeing means something"


@pytest.mark.parametrize("neighbours", [3, 5])
def test_precision_recall_density_and_coverage_are_prdcs(neighbours: int) -> None:
    """Theirs leaves out what lies on the very edge of a ball, ours counts it in: no matter where features are not discrete."""
    real, generated = _features(250, 8, seed=1), _shifted(200, 8, seed=2)
    ours = manifold(real, generated, neighbours=neighbours)
    theirs = compute_prdc(real.numpy(), generated.numpy(), nearest_k=neighbours)
    assert set(theirs) == {"precision", "recall", "density", "coverage"}
    for name, value in theirs.items():
        assert getattr(ours, name) == pytest.approx(value, abs=1e-12), name
        assert 0.1 < value < 0.99, f"{name} is not at its end, where anything agrees"


def test_ms_ssim_over_five_scales_is_pytorch_msssims() -> None:
    """Theirs needs more than 160 pixels, where ours takes five scales too; and one channel.

    Of several channels, ours takes the mean at each scale, theirs that of the products over the scales.
    """
    first, second = _pictures(4, channels=1, resolution=192)
    theirs = their_ms_ssim(first.float(), second.float(), data_range=255, size_average=False)
    assert ms_ssim(first, second).tolist() == pytest.approx(theirs.tolist(), rel=1e-4)
    assert theirs.max() - theirs.min() > 0.1


def test_ms_ssim_of_small_pictures_is_pytorch_msssims_ssim() -> None:
    """Below 22 pixels there is room for one scale, and with that for any number of channels."""
    first, second = _pictures(4, channels=3, resolution=16)
    theirs = their_ssim(first.float(), second.float(), data_range=255, size_average=False, nonnegative_ssim=True)
    assert ms_ssim(first, second).tolist() == pytest.approx(theirs.tolist(), rel=1e-4)
    assert theirs.max() - theirs.min() > 0.1


def test_the_inception_score_is_torch_fidelitys() -> None:
    """Over all images at once: theirs is the mean of ten parts, shuffled first, unless told otherwise."""
    logits = 3 * torch.randn(200, 10, generator=_random(1))
    theirs = isc_features_to_metric(logits, splits=1, shuffle=False)
    assert inception_score(logits) == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert theirs["inception_score_mean"] > 2
