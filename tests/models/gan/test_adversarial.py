"""The adversarial objective: the classic by default, and each remedy does what its option says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from models.gan.adversarial import alikeness
from models.gan.dcgan import DcganObjective
from models.gan.r3 import R3Discriminator, R3Objective
from models.objective import Batch, Shape
from models.options import DcganOptions, R3Options

SMALL: dict[str, Any] = {"base_channels": 4, "latent_dim": 8, "batch_size": 8}


def _objective(classes: int = 0, **options: Any) -> DcganObjective:
    torch.manual_seed(0)
    return DcganObjective(DcganOptions(**SMALL, **options), Shape(32, 1, classes), torch.device("cpu"))


def _batch(*, images_seen: int = 0, fraction: float = 0.0) -> Batch:
    source = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 32, 32, generator=source) * 2 - 1
    return Batch(images, None, torch.randn(8, 8, generator=source), source, images_seen, fraction)


def test_by_default_there_is_one_discriminator_and_no_remedy() -> None:
    objective = _objective()
    assert objective.discriminator_losses(_batch()).keys() == {"D_real", "D_fake"}
    assert objective.generator_losses(_batch()).keys() == {"G"}
    assert not [name for name in objective.phases[0].module.state_dict() if "parametrizations" in name]


@pytest.mark.parametrize("penalty", ["r1", "r1-r2", "wgan-gp"])
@pytest.mark.parametrize("form", ["exact", "finite-difference"])
def test_a_lazy_penalty_comes_now_and_then_and_that_much_heavier(penalty: str, form: str) -> None:
    every, lazy = (
        _objective(penalty=penalty, penalty_form=form, penalty_every=steps).discriminator_losses(_batch())["penalty"]
        for steps in (1, 4)
    )
    assert lazy.item() == pytest.approx(4 * every.item(), rel=1e-4)
    assert "penalty" not in _objective(penalty=penalty, penalty_every=4).discriminator_losses(_batch(images_seen=8))
    assert "penalty" in _objective(penalty=penalty, penalty_every=4).discriminator_losses(_batch(images_seen=32))


def test_several_discriminators_begin_unlike_and_share_a_phase() -> None:
    objective = _objective(discriminators=3, augment="translation")
    assert len({next(judge.parameters()).sum().item() for judge in objective.discriminators}) == 3
    assert objective.discriminator_losses(_batch()).keys() == {"D_real", "D_fake"}
    count = sum(1 for _ in objective.phases[0].module.parameters())
    assert count == 3 * sum(1 for _ in objective.discriminators[0].parameters())


def test_spectral_norm_bounds_every_layer_of_the_discriminator_alone() -> None:
    objective = _objective(spectral_norm=True)
    for _ in range(20):  # of power iteration
        objective.discriminator_losses(_batch())
    weights = [layer.weight for layer in objective.discriminators[0].modules() if isinstance(layer, torch.nn.Conv2d)]
    assert weights
    for weight in weights:
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)
    assert not [name for name in objective.generator.state_dict() if "parametrizations" in name]


def test_minibatch_deviation_shows_a_collapsed_batch() -> None:
    objective = _objective(minibatch_stddev=True)
    judge = objective.discriminators[0].eval()
    same = _batch().images[:1].expand(8, -1, -1, -1)
    with torch.no_grad():
        alone, among_equals = judge(same[:1]), judge(same)
        among_others = judge(torch.cat([same[:1], -_batch().images[1:]]))[0]
    assert alone[0].item() == pytest.approx(among_equals[0].item(), abs=1e-5)
    assert among_others.item() != pytest.approx(among_equals[0].item(), abs=1e-5)


def test_two_step_sizes_and_their_cosine() -> None:
    objective = _objective(learning_rate=1e-3, discriminator_learning_rate=4e-3, schedule="cosine")
    judge, generator = objective.phases
    assert (judge.hyperparameters(0).learning_rate, generator.hyperparameters(0).learning_rate) == (4e-3, 1e-3)
    assert judge.hyperparameters(0.5).learning_rate == pytest.approx(4e-3 * 0.505)
    assert generator.hyperparameters(1).learning_rate == pytest.approx(1e-5)


def test_alikeness_counts_pairs_of_one_class_alone() -> None:
    latents = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    fakes = torch.stack([torch.full((1, 2, 2), value) for value in (0.0, 0.0, 0.5, 0.0)])
    far, alike = 1 / (0.5 + 1e-5), 1 / 1e-5
    assert alikeness(fakes, latents, None).item() == pytest.approx((far + alike) / 2, rel=1e-5)
    assert alikeness(fakes, latents, torch.tensor([0, 1, 0, 2])).item() == pytest.approx(far, rel=1e-5)
    assert alikeness(fakes, latents, torch.tensor([0, 1, 2, 3])).item() == 0


def test_mode_seeking_pulls_pictures_apart() -> None:
    objective = _objective(mode_seeking=0.1)
    objective.discriminator_losses(_batch())
    losses = objective.generator_losses(_batch())
    losses["alike"].backward()  # type: ignore[no-untyped-call]
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in objective.generator.parameters())


def test_r3_hears_labels_by_and_by_and_lets_gamma_fall() -> None:
    options = R3Options(base_channels=8, latent_dim=8, batch_size=8, label_ramp_images=80, block="dense")
    objective = R3Objective(options, Shape(32, 1, 2), torch.device("cpu"))
    judge = objective.discriminators[0]
    assert isinstance(judge, R3Discriminator)
    weights = []
    for seen in (0, 40, 800):
        batch = _batch(images_seen=seen)
        labelled = Batch(batch.images, torch.arange(8) % 2, batch.latents, batch.random, seen, 0.0)
        objective.discriminator_losses(labelled)
        weights.append(judge.label_weight.item())
    assert weights == [0, 0.5, 1]
    assert objective.gamma(0) == options.gamma
    assert objective.gamma(1) == pytest.approx(options.gamma * 0.1)
    assert objective.phases[0].hyperparameters(0).betas == (0.0, 0.9)
    assert objective.phases[0].hyperparameters(1).betas == pytest.approx((0.0, 0.99))


def test_r3_learns_to_tell_labels_of_real_pictures() -> None:
    """Given a label loss, I expect the game as it is without, a cross-entropy beside it whose slope moves the labels'
    embedding, and none without labels."""
    options = R3Options(base_channels=8, latent_dim=8, batch_size=8, block="dense", label_loss=0.5)
    torch.manual_seed(0)
    objective = R3Objective(options, Shape(32, 1, 2), torch.device("cpu"))
    judge = objective.discriminators[0]
    assert isinstance(judge, R3Discriminator)
    assert judge.embedding is not None
    images, labels = torch.rand(8, 1, 32, 32) * 2 - 1, torch.arange(8) % 2
    logits, further = objective.judged_real(judge, images, labels)
    assert torch.allclose(logits, judge(images, labels))
    assert further["label"].item() == pytest.approx(0.5 * math.log(2), rel=0.5)
    further["label"].backward()  # type: ignore[no-untyped-call]
    assert judge.embedding.weight.grad is not None
    step = judge.embedding.weight.grad
    with torch.no_grad():
        judge.embedding.weight -= 0.1 * step
    assert objective.judged_real(judge, images, labels)[1]["label"] < further["label"]

    unlabelled = R3Objective(options, Shape(32, 1, 0), torch.device("cpu"))
    assert unlabelled.judged_real(unlabelled.discriminators[0], images, None)[1] == {}
