"""When priors are fitted, to what, and that no step notices. What every kind must do is in test_kinds.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import training as training_module
from models.checkpoint import latest
from models.config import TrainingConfig
from models.errors import TrainingDiverged
from models.generator import Generator
from models.sampling import latents
from models.trainer import train
from models.training import Training
from tests.models.conftest import Prepare

Configure = Callable[..., TrainingConfig]
CPU = torch.device("cpu")


def test_a_checkpoint_holds_a_prior_of_its_own_moment(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    training = Training(prepared(60), configured("vae-sigma"), CPU)
    priors = []
    for _ in range(2):
        training.step()
        prior = Generator.load(training.save(tmp_path)).prior
        assert prior is not None
        priors.append(prior)
        assert set(prior.owners.tolist()) == {0, 1}
    assert not torch.equal(priors[0].means, priors[1].means)


def test_a_preview_uses_the_prior_of_the_last_checkpoint(
    prepared: Prepare, configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(prepared(60), configured("vae-sigma"), CPU)
    first = training.sampled().prior
    training.step()
    assert training.sampled().prior is first
    training.save(tmp_path)
    saved = training.sampled().prior
    assert saved is not first
    found = latest(tmp_path)
    assert found is not None

    def fit(*_: object, **__: object) -> None:
        raise AssertionError("a prior was fitted again")

    monkeypatch.setattr(training_module, "fit_prior", fit)
    resumed = Training(prepared(60), configured("vae-sigma"), CPU)
    resumed.restore(found)
    drawn = [latents(each.sampled(), range(5), [None] * 5)[0] for each in (training, resumed)]
    assert torch.equal(*drawn)


def test_fitting_a_prior_often_changes_nothing_that_is_learnt(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    data, config = prepared(21), configured("vae-sigma", images=8 * 4)
    often = replace(config, checkpoint_interval_s=0, preview_interval_s=0)
    quiet, busy = train(data, config, tmp_path / "quiet"), train(data, often, tmp_path / "busy")
    for name in ("training.safetensors", "generator.safetensors", "generator.json"):
        assert (quiet.checkpoint / name).read_bytes() == (busy.checkpoint / name).read_bytes()


def test_each_class_is_encoded_even_when_it_is_rare(
    prepared: Prepare, configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a class of one image in a hundred, I expect all of its images among those that priors are fitted to."""
    monkeypatch.setattr(training_module, "QUICK_IMAGES", 20)
    monkeypatch.setattr(training_module, "LEAST_OF_A_CLASS", 5)
    data = prepared(400)
    assert data.labels is not None
    data.labels[:] = 0
    data.labels[::100] = 1
    training = Training(data, configured("vae-sigma"), CPU)
    chosen = training._some_of_each_class(20, torch.Generator().manual_seed(0))
    assert len(chosen.unique()) == len(chosen)  # type: ignore[no-untyped-call] # torch's own gap
    assert (chosen % 100 == 0).sum() == 4
    assert len(chosen) == 14


def test_a_model_of_few_images_carries_a_note(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    few, enough = (
        train(prepared(count), configured("vae-sigma", images=8), tmp_path / str(count)) for count in (8, 60)
    )
    (note,) = Generator.load(few.checkpoint).card.notes
    assert "N(0, I)" in note
    assert Generator.load(enough.checkpoint).card.notes == ()
    assert "notes" not in (enough.checkpoint / "generator.json").read_text()


def test_a_kind_that_does_not_encode_has_no_prior(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    outcome = train(prepared(8), configured("gan-dcgan", images=8), tmp_path)
    assert Generator.load(outcome.checkpoint).prior is None
    assert b"prior." not in (outcome.checkpoint / "generator.safetensors").read_bytes()


def test_latents_that_are_no_numbers_are_said_to_be_so(prepared: Prepare, configured: Configure) -> None:
    training = Training(prepared(21), configured("vae-sigma"), CPU)
    for weight in training.average.network.parameters():
        weight.fill_(float("nan"))
    with pytest.raises(TrainingDiverged):
        training.sampled()
