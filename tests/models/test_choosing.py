"""`auto` looks at data, device and budget, says why, keeps what the user asked for, and never chooses twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import choosing
from models.catalog import AUTO, KINDS
from models.choosing import choose, images_per_s, shape_of
from models.errors import InvalidOption
from models.objective import Batch, Phase, Shape
from models.options import DcganOptions, R3Options
from tests.models.conftest import SMALL, Prepare

CPU = torch.device("cpu")
SECONDS = 60.0  # of budget


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate is as fast as every other, so that tests need not wait for trials; one of them looks at a real one."""
    monkeypatch.setattr(choosing, "images_per_s", lambda *_, **__: 100.0)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("classes", [0, 2])
def test_the_reason_says_what_was_looked_at(classes: int, prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "FEW_IMAGES", {32: 0, 64: 0})
    manifest = prepared(8, classes=classes).manifest
    choice = choose(AUTO, {"batch_size": 2}, manifest, 32, CPU, budget_images=80)
    assert choice.kind == "vae-gan"
    assert f"8 {'labelled' if classes else 'unlabelled'} pictures of 32 px, each seen 10 times" in choice.reasons[0]
    unlabelled = choose(AUTO, {"conditional": False}, manifest, 32, CPU, budget_images=80)
    assert "8 unlabelled pictures" in unlabelled.reasons[0]


@pytest.mark.usefixtures("fast")
def test_what_the_user_asked_for_is_kept(prepared: Prepare) -> None:
    wanted = {"batch_size": "4", "latent_dim": 8, "mirror": True}
    choice = choose(AUTO, wanted, prepared(8).manifest, 32, CPU, budget_s=SECONDS)
    assert (choice.options.batch_size, choice.options.latent_dim, choice.options.mirror) == (4, 8, True)


@pytest.mark.usefixtures("fast")
def test_few_pictures_are_left_to_the_kind_that_covers_them(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, images = prepared(8).manifest, choosing.SHORT_IMAGES[32]
    few = choose(AUTO, {"batch_size": 4}, manifest, 32, CPU, budget_images=images)
    monkeypatch.setitem(choosing.FEW_IMAGES, 32, 8)
    enough = choose(AUTO, {"batch_size": 4}, manifest, 32, CPU, budget_images=images)
    assert (few.kind, enough.kind) == ("vae-gan", "gan-r3")
    assert "needs 5,000 pictures" in few.reasons[0]


@pytest.mark.usefixtures("fast")
def test_a_longer_budget_brings_augmentation_and_wider_networks(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "FEW_IMAGES", {32: 0, 64: 0})
    manifest = prepared(8).manifest
    needed = choosing.SHORT_IMAGES[32]
    short, longer, longest = (
        choose(AUTO, {"batch_size": 4}, manifest, 32, CPU, budget_images=images)
        for images in (needed - 1, needed, choosing.MANY_IMAGES)
    )
    assert short.kind == "vae-gan"
    assert isinstance(longer.options, R3Options)
    assert isinstance(longest.options, R3Options)
    assert (longer.options.augment, longer.options.base_channels) == ("translation", 16)
    assert (longest.options.augment, longest.options.base_channels) == ("translation", choosing.WIDE)


@pytest.mark.usefixtures("fast")
def test_larger_pictures_go_to_a_gan_after_fewer_of_them(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = prepared(8).manifest
    monkeypatch.setattr(choosing, "SCARCE_PASSES", 10**9)
    monkeypatch.setattr(choosing, "FEW_IMAGES", {32: 0, 64: 0})
    needed = choosing.SHORT_IMAGES[64]
    kinds = [
        choose(AUTO, {"batch_size": 2}, manifest, 64, CPU, budget_images=images).kind for images in (needed - 1, needed)
    ]
    assert kinds == ["vae-gan", "gan-r3"]


def test_an_option_of_one_kind_alone_is_refused_where_the_kind_is_open(prepared: Prepare) -> None:
    with pytest.raises(InvalidOption, match="free_nats"):
        choose(AUTO, {"free_nats": 0}, prepared(8).manifest, 32, CPU, budget_s=SECONDS)
    with pytest.raises(InvalidOption, match="preset"):
        choose(AUTO, {}, prepared(8).manifest, 32, CPU, preset="quick", budget_s=SECONDS)


def test_a_training_that_goes_on_keeps_what_was_chosen(prepared: Prepare) -> None:
    begun = {"kind": "vae-sigma", "options": SMALL["vae-sigma"]}
    choice = choose(AUTO, {}, prepared(8).manifest, 32, CPU, begun=begun, budget_s=SECONDS)
    assert (choice.kind, choice.options.latent_dim, choice.reasons) == ("vae-sigma", 8, ())


@pytest.mark.usefixtures("fast")
def test_the_block_of_r3_is_settled_once(prepared: Prepare) -> None:
    manifest = prepared(8).manifest
    first = choose("gan-r3", SMALL["gan-r3"], manifest, 32, CPU, budget_s=SECONDS)
    assert isinstance(first.options, R3Options)
    assert first.options.block in {"dense", "grouped"}
    assert "images/s" in first.reasons[0]
    other = "dense" if first.options.block == "grouped" else "grouped"
    begun: dict[str, Any] = {"kind": "gan-r3", "options": {**SMALL["gan-r3"], "block": other}}
    again = choose("gan-r3", SMALL["gan-r3"], manifest, 32, CPU, begun=begun, budget_s=SECONDS)
    assert isinstance(again.options, R3Options)
    assert (again.options.block, again.reasons) == (other, ())


def test_the_precision_is_settled_once_and_without_trial_where_there_is_one(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "candidates", lambda _device: ("fp32",))
    manifest, options = prepared(8).manifest, SMALL["gan-dcgan"]
    assert options.get("precision") is None

    first = choose("gan-dcgan", options, manifest, 32, CPU, budget_s=SECONDS)
    begun: dict[str, Any] = {"kind": "gan-dcgan", "options": {**options, "precision": "bf16"}}
    again = choose("gan-dcgan", options, manifest, 32, CPU, begun=begun, budget_s=SECONDS)
    old = choose("gan-dcgan", options, manifest, 32, CPU, begun={"kind": "gan-dcgan", "options": options})
    asked = choose("gan-dcgan", {**options, "precision": "bf16"}, manifest, 32, CPU, budget_s=SECONDS)

    settled = [choice.options.precision for choice in (first, again, old, asked)]
    assert settled == ["fp32", "bf16", "fp32", "bf16"]
    assert first.reasons == ()


def test_the_faster_precision_is_taken_and_nothing_is_timed_twice(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a device that is faster with grouped blocks and with bfloat16, I expect both, after three trials of `auto`'s
    candidate, none of which may take a larger part of the budget."""
    timed: list[tuple[str, str]] = []

    def seen(_kind: str, options: R3Options, *_: Any, longest_s: float) -> float:
        timed.append((options.block, options.precision))
        assert longest_s == pytest.approx(choosing.TRIAL_SHARE * SECONDS)
        return 2_000.0 * (1 + (options.block == "grouped")) * (1 + (options.precision == "bf16"))

    monkeypatch.setattr(choosing, "images_per_s", seen)
    monkeypatch.setattr(choosing, "candidates", lambda _device: ("fp32", "bf16"))
    monkeypatch.setattr(choosing, "FEW_IMAGES", {32: 0, 64: 0})
    monkeypatch.setattr(choosing, "SCARCE_PASSES", 10**9)
    choice = choose(AUTO, {}, prepared(8).manifest, 32, CPU, budget_s=SECONDS)
    assert isinstance(choice.options, R3Options)
    assert (choice.options.block, choice.options.precision) == ("grouped", "bf16")
    assert timed == [("dense", "fp32"), ("grouped", "fp32"), ("grouped", "bf16")]
    assert "bf16 8,000 images/s" in choice.reasons[-1]


@pytest.mark.parametrize("budget", [{"budget_images": 1_000}, {"budget_s": 5.0}, {}])
def test_nothing_is_tried_where_a_trial_would_take_much_of_the_budget(
    budget: dict[str, Any], prepared: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(choosing, "images_per_s")
    monkeypatch.setattr(choosing, "candidates", lambda _device: ("fp32", "bf16"))
    choice = choose("gan-r3", {}, prepared(8).manifest, 32, CPU, **budget)
    assert isinstance(choice.options, R3Options)
    assert (choice.options.block, choice.options.precision, choice.reasons) == ("dense", "fp32", ())


def test_timing_a_kind_touches_no_random_state() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    options = KINDS["gan-dcgan"].options(**SMALL["gan-dcgan"])
    assert images_per_s("gan-dcgan", options, Shape(32, 1, 2), CPU) > 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_networks_are_told_no_labels_where_none_are_wanted(prepared: Prepare) -> None:
    manifest = prepared(8).manifest
    assert shape_of(DcganOptions(), manifest, 32).classes == 2
    assert shape_of(DcganOptions(conditional=False), manifest, 32).classes == 0


def test_a_trial_pays_for_what_comes_every_few_steps_as_a_training_does(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []
    learn = Phase.learn

    def noting(phase: Phase, batch: Batch, **rest: Any) -> Any:
        numbers.append(batch.number)
        return learn(phase, batch, **rest)

    monkeypatch.setattr(Phase, "learn", noting)
    monkeypatch.setattr(choosing, "STEPS", 3)
    images_per_s("gan-dcgan", DcganOptions(**SMALL["gan-dcgan"]), Shape(32, 1, 0), CPU)
    assert numbers == [0, 0, 1, 1, 2, 2, 3, 3]  # both networks learn in each
