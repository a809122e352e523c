"""Each game pays who is right, and follows its paper's equation."""

from __future__ import annotations

import math

import pytest
import torch

from models.gan.losses import GAMES

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])


def _softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_bce_is_the_cross_entropy_of_sigmoids() -> None:
    losses = GAMES["bce"].discriminator(REAL, FAKE)
    real, fake = torch.sigmoid(REAL), torch.sigmoid(FAKE)
    assert losses["D_real"].item() == pytest.approx(-real.log().mean().item(), rel=1e-5)
    assert losses["D_fake"].item() == pytest.approx(-(1 - fake).log().mean().item(), rel=1e-5)
    assert GAMES["bce"].generator(None, FAKE).item() == pytest.approx(-fake.log().mean().item(), rel=1e-5)


def test_hinge_asks_nothing_of_who_is_right_by_more_than_one() -> None:
    losses = GAMES["hinge"].discriminator(REAL, FAKE)
    assert losses["D_real"].item() == pytest.approx((0 + 2) / 2)
    assert losses["D_fake"].item() == pytest.approx((1.5 + 0) / 2)
    assert GAMES["hinge"].generator(None, FAKE).item() == pytest.approx(1.25)


def test_wasserstein_is_the_gap_of_means() -> None:
    losses = GAMES["wasserstein"].discriminator(REAL, FAKE)
    assert sum(losses.values()).item() == pytest.approx(-1.25 - 0.5)  # type: ignore[union-attr] # a tensor: there are two
    assert GAMES["wasserstein"].generator(None, FAKE).item() == pytest.approx(1.25)


def test_relativistic_compares_each_fake_with_its_own_real_picture() -> None:
    loss = GAMES["relativistic"].discriminator(REAL, FAKE)["D"].item()
    assert loss == pytest.approx((_softplus(0.5 - 2) + _softplus(-3 + 1)) / 2, rel=1e-5)
    assert GAMES["relativistic"].generator(REAL, FAKE).item() == pytest.approx(
        (_softplus(2 - 0.5) + _softplus(-1 + 3)) / 2, rel=1e-5
    )


@pytest.mark.parametrize("name", GAMES)
def test_each_side_gains_by_moving_logits_its_way(name: str) -> None:
    game = GAMES[name]  # type: ignore[index] # one of its keys
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    torch.stack(list(game.discriminator(real, fake).values())).sum().backward()  # type: ignore[no-untyped-call]
    assert real.grad is not None
    assert fake.grad is not None
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    fake.grad = None
    game.generator(real.detach() if game.compares else None, fake).backward()  # type: ignore[no-untyped-call]
    assert fake.grad is not None
    assert (fake.grad < 0).all()
