"""What a classifier reads, in numbers."""

from __future__ import annotations

import pytest
import torch

from models.evaluation.reading import control_accuracy, inception_score


def test_accuracy_is_the_share_of_labels_that_are_read() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 9.0]])
    assert control_accuracy(logits, torch.tensor([0, 1, 2, 2])) == 0.75


def test_clear_and_even_readings_score_as_many_as_there_are_classes() -> None:
    clear = torch.eye(5).repeat(4, 1) * 100
    assert inception_score(clear) == pytest.approx(5)
    assert inception_score(clear[:1].expand(20, 5)) == pytest.approx(1), "one class alone"
    assert inception_score(torch.zeros(20, 5)) == pytest.approx(1), "nothing is read"


def test_a_score_by_hand() -> None:
    """Given p(y|x) = (0.8, 0.2) and (0.2, 0.8), I expect exp(0.8 ln 1.6 + 0.2 ln 0.4)."""
    logits = torch.tensor([[0.8, 0.2], [0.2, 0.8]], dtype=torch.float64).log()
    assert inception_score(logits) == pytest.approx(1.6**0.8 * 0.4**0.2)
