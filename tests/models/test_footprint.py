"""What a training will take is told before it starts, and refused where there is not so much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from models.catalog import KINDS, parse_options
from models.config import TrainingConfig
from models.errors import DoesNotFit
from models.footprint import Footprint, check_fits, footprint
from models.training import Training
from tests.models.conftest import Prepare

Configure = Callable[..., TrainingConfig]


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_counted_as_the_training_has_it(kind: str, prepared: Prepare, configured: Configure) -> None:
    data, config = prepared(8), configured(kind)
    told, training = footprint(data, config), Training(data, config, torch.device("cpu"))
    training.step()
    parameters = sum(w.nbytes for phase in training.objective.phases for w in phase.module.parameters())
    moments = sum(
        value.nbytes
        for phase in training.objective.phases
        for state in phase.optimizer.state.values()
        for value in state.values()
    )
    assert told.weights == pytest.approx(parameters, rel=0.1)
    assert told.optimizer == pytest.approx(moments, rel=0.1)
    assert told.average <= told.weights
    assert told.data == 0


@pytest.mark.parametrize("kind", KINDS)
def test_activations_grow_with_the_batch(kind: str, prepared: Prepare, configured: Configure) -> None:
    data = prepared(8)
    small, large = (footprint(data, configured(kind, options={"batch_size": size})) for size in (8, 80))
    assert large.activations == pytest.approx(
        10 * small.activations, rel=1e-3
    )  # a batch's own statistics are kept once
    assert large.activations > 8 * 4 * 32 * 32
    assert large.weights == small.weights


def test_scaled_images_are_copies(prepared: Prepare, configured: Configure) -> None:
    assert footprint(prepared(8, resolution=64), configured()).data == 8 * 32 * 32


def test_telling_it_leaves_the_random_state_alone(prepared: Prepare, configured: Configure) -> None:
    before = torch.get_rng_state()
    footprint(prepared(8), configured())
    assert torch.equal(torch.get_rng_state(), before)


def test_what_can_not_fit_is_refused_with_what_to_do(prepared: Prepare, configured: Configure) -> None:
    check_fits(footprint(prepared(8), configured()), "cpu")
    options = parse_options("gan-dcgan", {"base_channels": 16, "batch_size": 1024})
    needed = footprint(prepared(8), replace(configured(), options=options))
    with pytest.raises(DoesNotFit, match="batch_size"):
        check_fits(replace(needed, activations=10**15), "cpu")


def test_it_is_said_in_a_sentence() -> None:
    said = str(Footprint(2**20, 2**20, 2**21, 2**20, 2**24, 0))
    assert said == "about 21 MiB of memory (weights 1, gradients 1, optimizer 2, average 1, activations 16)"
