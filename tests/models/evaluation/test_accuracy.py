"""Classifier accuracy score: pictures that show their labels teach them, others do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.errors import Stopped
from models.evaluation.accuracy import classifier_accuracy_score

Parts = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Pictures of 16 px and their labels to learn from, and as many to be tested on."""
    return *_patches(240, 0), *_patches(240, 1)


@pytest.fixture(scope="module")
def plain_score(parts: Parts) -> float:
    """What these pictures teach as they are."""
    torch.set_num_threads(1)
    return _score(parts)


def _patches(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a bright square in it, which is left, right or below by the label, and never in quite the same place."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(90, (count, 1, 16, 16), generator=random)
    labels = torch.arange(count) % 3
    for image, label, shift in zip(images, labels, torch.randint(4, (count, 2), generator=random), strict=True):
        top, left = torch.tensor([[0, 0], [0, 8], [8, 4]])[label] + shift
        image[:, top : top + 5, left : left + 5] += 150
    return images.to(torch.uint8), labels


def _score(parts: tuple[Tensor, ...], lesson_images: int = 800) -> float:
    images, labels, real_images, real_labels = parts
    return classifier_accuracy_score(
        images, labels, real_images, real_labels, classes=3, seed=0, lesson_images=lesson_images
    )


def test_right_labels_teach_and_wrong_ones_mislead(parts: Parts, plain_score: float) -> None:
    images, labels, *real = parts
    assert plain_score > 0.9
    assert _score((images, (labels + 1) % 3, *real)) < 0.1


def test_classes_of_which_but_one_look_was_shown_are_not_learnt_in_the_other(parts: Parts, plain_score: float) -> None:
    """Given real pictures of which half are negatives, and generated ones that never are, I expect a low score."""
    images, labels, real_images, real_labels = parts
    half = torch.arange(len(real_images)) % 2 == 0
    mixed = torch.where(half[:, None, None, None], 255 - real_images, real_images)
    assert _score((images, labels, mixed, real_labels)) < 0.8 < plain_score


def test_equal_input_gives_equal_scores_and_no_random_state_moves(
    parts: Parts,
) -> None:
    before = torch.get_rng_state()
    assert _score(parts, 128) == _score(parts, 128)
    assert torch.equal(torch.get_rng_state(), before)


def test_larger_pictures_are_learnt_from_at_a_smaller_size(parts: Parts, plain_score: float) -> None:
    """Given pictures of 64 px, I expect about the score of those of 16 px that they were made of."""
    images, labels, real_images, real_labels = parts
    large, real_large = (part.repeat_interleave(4, 2).repeat_interleave(4, 3) for part in (images, real_images))
    assert _score((large, labels, real_large, real_labels)) == pytest.approx(plain_score, abs=0.1)


def test_it_can_be_stopped(parts: Parts) -> None:
    with pytest.raises(Stopped):
        classifier_accuracy_score(*parts, classes=3, seed=0, should_stop=lambda: True)
