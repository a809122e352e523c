"""The same model, seed and label give the same pixels, alone or in any company."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.catalog import MAX_SEED
from models.errors import OutOfMemory, UnknownLabel
from models.generator import Generator, GeneratorCard
from models.registry import build_generator
from models.sampling import SampleItem, Sampler, latents

ITEMS = st.builds(SampleItem, seed=st.integers(0, MAX_SEED), label=st.sampled_from([None, 0, 1, 2]))


def _generator(classes: int = 3, *, base_channels: int = 8) -> Generator:
    torch.manual_seed(5)
    options = {"base_channels": base_channels}
    names = [f"class {index}" for index in range(classes)] or None
    card = GeneratorCard(kind="gan-dcgan", options=options, resolution=32, channels=3, classes=names, images_seen=0)
    network = build_generator(card.kind, card.parse_options(), card.shape)
    network(torch.randn(16, 100), torch.arange(16) % 3 if classes else None)  # running statistics that are not 0 and 1
    return Generator(network.to(memory_format=torch.channels_last), card)


SAMPLER = Sampler(_generator())


@settings(max_examples=25, deadline=None)
@given(item=ITEMS, company=st.lists(ITEMS, max_size=70), place=st.floats(0, 1))
def test_a_picture_is_the_same_alone_and_in_any_company(
    item: SampleItem, company: list[SampleItem], place: float
) -> None:
    (alone,) = SAMPLER.sample([item])
    position = round(place * len(company))
    together = SAMPLER.sample([*company[:position], item, *company[position:]])
    assert together[position].pixels.tobytes() == alone.pixels.tobytes()
    assert (together[position].seed, together[position].label) == (alone.seed, alone.label)


def test_pictures_come_in_the_order_they_were_asked_for_and_differ() -> None:
    pictures = SAMPLER.sample([SampleItem(seed, label=seed % 3) for seed in (9, 3, 7, 3)])
    assert [(picture.seed, picture.label) for picture in pictures] == [(9, 0), (3, 0), (7, 1), (3, 0)]
    assert pictures[1].pixels.tobytes() == pictures[3].pixels.tobytes()
    assert len({picture.pixels.tobytes() for picture in pictures}) == 3
    assert all(picture.pixels.shape == (3, 32, 32) for picture in pictures)


def test_normalisation_uses_what_was_learnt_and_not_the_neighbours() -> None:
    """Given a network as it comes from training, I expect it in evaluation mode."""
    generator = _generator()
    assert not any(module.training for module in generator.network.modules())
    together = generator.synthesize(*latents(generator, [1, 2, 3], [0, 1, 2]))
    alone = generator.synthesize(*latents(generator, [2], [1]))
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_nothing_asked_for_is_nothing_made() -> None:
    assert SAMPLER.sample([]) == []


@pytest.mark.parametrize(
    ("total", "plan"),
    [(1, [1]), (2, [1, 1]), (5, [8]), (9, [8, 1]), (16, [8, 8]), (17, [32]), (40, [32, 8]), (64, [32, 32])],
)
def test_batches_are_of_fixed_sizes_and_mostly_full(total: int, plan: list[int]) -> None:
    sampler = Sampler(_generator())
    sampler.buckets = (1, 8, 32)
    cut = list(sampler._plan(total))
    assert [bucket for _, _, bucket in cut] == plan
    assert sum(count for _, count, _ in cut) == total


@pytest.mark.parametrize(("total", "plan"), [(8, [8]), (9, [16]), (17, [24]), (24, [24]), (25, [24, 1]), (29, [24, 8])])
def test_the_smallest_size_that_holds_what_is_left_is_taken(total: int, plan: list[int]) -> None:
    sampler = Sampler(_generator())
    sampler.buckets = (1, 8, 16, 24)
    cut = list(sampler._plan(total))
    assert [bucket for _, _, bucket in cut] == plan
    assert sum(count for _, count, _ in cut) == total


class _Moody(nn.Module):
    """Stands for a device whose sums depend on the batch: adds a little that depends on the size, or on the place."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.by = by

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        mood = len(latents) * 1e-7 if self.by == "size" else torch.arange(len(latents))[:, None, None, None] * 1e-7
        return latents[:, :1, None, None].tanh().expand(-1, 3, 32, 32) * self.weight + mood


def test_a_size_that_gives_other_bits_is_not_used() -> None:
    generator = _generator(classes=0)
    assert Sampler(Generator(_Moody("size"), generator.card)).buckets == (32,)
    assert Sampler(Generator(_Moody("place"), generator.card)).buckets == (1,)


def test_latents_follow_from_the_seed_alone() -> None:
    generator = _generator()
    together, labels = latents(generator, [4, 5, 6], [None, 2, None])
    alone, label = latents(generator, [6], [None])
    assert torch.equal(together[2:], alone)
    assert labels is not None
    assert label is not None
    assert torch.equal(labels[2:], label)
    assert together.shape == (3, 100)


def test_a_label_does_not_change_the_latent() -> None:
    generator = _generator()
    free, _ = latents(generator, [4], [None])
    asked, labels = latents(generator, [4], [1])
    assert torch.equal(free, asked)
    assert labels is not None
    assert labels.tolist() == [1]


def test_labels_that_nobody_asked_for_are_drawn_from_all_classes() -> None:
    _, labels = latents(_generator(), range(60), [None] * 60)
    assert labels is not None
    assert set(labels.tolist()) == {0, 1, 2}


def test_a_model_without_classes_takes_and_gives_no_labels() -> None:
    generator = _generator(classes=0)
    assert latents(generator, [1], [None])[1] is None
    assert Sampler(generator).sample([SampleItem(1)])[0].label is None
    with pytest.raises(UnknownLabel, match="label 0 is unknown: this generator takes no labels"):
        Sampler(generator).sample([SampleItem(1, label=0)])


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_no_class_has_is_refused(label: int) -> None:
    with pytest.raises(UnknownLabel, match="use 0 to 2"):
        SAMPLER.sample([SampleItem(1, label=label)])


def test_every_seed_up_to_the_largest_has_a_latent_of_its_own() -> None:
    generator = _generator()
    seeds = [0, 1, 2**31, 2**31 + 1, MAX_SEED - 1, MAX_SEED]
    drawn, _ = latents(generator, seeds, [0] * len(seeds))
    assert len({tuple(row.tolist()) for row in drawn}) == len(seeds)


class Narrow(nn.Module):
    """A network on a device with room for so many pictures at once."""

    def __init__(self, network: nn.Module, room: int) -> None:
        super().__init__()
        self.network, self.room = network, room
        self.rows: list[int] = []

    def forward(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        self.rows.append(len(latent))
        if len(latent) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(latent)} pictures")
        pictures: Tensor = self.network(latent, labels)
        return pictures


def _narrow(room: int) -> tuple[Generator, Narrow]:
    generator = _generator()
    network = Narrow(generator.network, room)
    return Generator(network, generator.card), network


def test_where_memory_runs_out_batches_are_halved_until_they_fit_and_the_pictures_stay_the_same() -> None:
    generator, network = _narrow(room=32)
    sampler = Sampler(generator, buckets=(1, 8, 32))
    items = [SampleItem(seed) for seed in range(40)]
    before = sampler.sample(items)
    network.room = 10  # somebody else takes the rest

    after = sampler.sample(items)

    assert [picture.pixels.tobytes() for picture in after] == [picture.pixels.tobytes() for picture in before]
    assert max(sampler.buckets) == 8
    network.rows.clear()
    sampler.sample(items)
    assert max(network.rows) == 8  # learnt for good, not tried again for each batch


def test_memory_that_is_short_from_the_start_is_found_by_the_probe() -> None:
    generator, _ = _narrow(room=5)
    sampler = Sampler(generator, buckets=(1, 8, 32))
    assert max(sampler.buckets) == 4
    assert len(sampler.sample([SampleItem(seed) for seed in range(9)])) == 9


def test_a_device_without_room_for_one_picture_is_an_error_that_says_so() -> None:
    generator, network = _narrow(room=32)
    sampler = Sampler(generator, buckets=(1, 2))
    network.room = 0
    with pytest.raises(OutOfMemory, match="no room for one picture of 32 px"):
        sampler.sample([SampleItem(1)])


def test_other_errors_of_a_network_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, network = _narrow(room=32)
    sampler = Sampler(generator, buckets=(1, 32))

    def broken(*_: object) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(network, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        sampler.sample([SampleItem(1)])
    assert max(sampler.buckets) == 32
