"""Augmentation moves, cuts and tints what is seen, by its own random numbers, and lets gradients through."""

from __future__ import annotations

import pytest
import torch

from models.augment import POLICIES, augmented

IMAGES = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("policy", POLICIES)
def test_equal_states_give_equal_views_and_the_world_outside_does_not_matter(policy: str) -> None:
    views = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        views.append(augmented(IMAGES, policy, torch.Generator().manual_seed(seed)))  # type: ignore[arg-type]
    assert torch.equal(views[0], views[1])
    assert torch.equal(views[0], views[2]) == (policy == "none")
    assert views[0].shape == IMAGES.shape


def test_translation_moves_by_an_eighth_at_most_and_fills_with_grey() -> None:
    dot = torch.zeros(64, 1, 16, 16)
    dot[:, :, 8, 8] = 1
    moved = augmented(dot, "translation", torch.Generator().manual_seed(0))
    places = moved[:, 0].nonzero()
    assert len(places) == 64
    assert set((places[:, 1] - 8).tolist()) == set((places[:, 2] - 8).tolist()) == {-2, -1, 0, 1, 2}
    edge = torch.ones(64, 1, 16, 16)
    moved = augmented(edge, "translation", torch.Generator().manual_seed(0))
    assert set(moved.flatten().tolist()) == {0.0, 1.0}


def test_cutout_takes_at_most_a_quarter() -> None:
    kept = augmented(torch.ones(64, 1, 16, 16), "translation-cutout", torch.Generator().manual_seed(3))
    assert kept.mean() < 1
    assert (kept.mean(dim=(1, 2, 3)) >= 0.75 - 60 / 256).all()  # a quarter, and the translation's two grey edges


def test_colour_leaves_shapes_and_changes_tints() -> None:
    tinted = augmented(IMAGES, "colour-translation-cutout", torch.Generator().manual_seed(0))
    assert not torch.equal(tinted, augmented(IMAGES, "translation-cutout", torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_reach_the_pictures(policy: str) -> None:
    images = IMAGES.clone().requires_grad_(True)
    augmented(images, policy, torch.Generator().manual_seed(0)).square().sum().backward()  # type: ignore[arg-type,no-untyped-call]
    assert images.grad is not None
    assert (images.grad.abs().sum(dim=(1, 2, 3)) > 0).all()
