"""Batches that several threads share are the batches that one would have made."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from models.generator import Generator, GeneratorCard
from models.lanes import Lanes, shared_out
from models.products import LEAST_ROWS
from models.registry import build_generator
from models.sampling import SampleItem, Sampler
from tests.models.conftest import SMALL

CLASSES = ["cat", "dog"]


class _Telling(nn.Module):
    """Gives its latents and labels back, and notes by whom it was called with how many."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int]] = []

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls.append((threading.get_ident(), len(latents)))
        if latents[0, 0] < 0:
            raise RuntimeError("out of memory")
        return latents if labels is None else latents + labels[:, None]


def _generator() -> Generator:
    torch.manual_seed(0)
    card = GeneratorCard(
        kind="gan-dcgan", options=SMALL["gan-dcgan"], resolution=32, channels=3, classes=CLASSES, images_seen=0
    )
    return Generator(build_generator(card.kind, card.parse_options(), card.shape), card)


@pytest.mark.parametrize("count", [1, LEAST_ROWS, LEAST_ROWS + 1, 4 * LEAST_ROWS + 3])
def test_shares_come_back_in_order(count: int) -> None:
    network = _Telling()
    latents, labels = torch.arange(count).float()[:, None], torch.arange(count) * 100
    lanes = Lanes(network, 3)
    assert torch.equal(lanes(latents, labels), latents + labels[:, None])
    assert torch.equal(lanes(latents), latents)


def test_a_batch_is_shared_out_but_not_into_crumbs() -> None:
    network = _Telling()
    lanes = Lanes(network, 4)
    lanes(torch.ones(LEAST_ROWS, 1))
    assert network.calls == [(threading.get_ident(), LEAST_ROWS)]
    network.calls.clear()
    lanes(torch.ones(4 * LEAST_ROWS, 1))
    assert [count for _, count in network.calls] == [LEAST_ROWS] * 4
    assert threading.get_ident() not in {thread for thread, _ in network.calls}


def test_what_is_left_over_is_no_share_of_its_own() -> None:
    network = _Telling()
    Lanes(network, 11)(torch.ones(56, 1))  # by sixes, two would be left
    assert min(count for _, count in network.calls) >= LEAST_ROWS
    assert sum(count for _, count in network.calls) == 56


def test_what_a_thread_raises_is_raised_to_the_caller() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        Lanes(_Telling(), 2)(torch.tensor([[1.0]] * LEAST_ROWS + [[-1.0]] * LEAST_ROWS))


def test_pictures_are_those_of_one_thread() -> None:
    plain = _generator()
    shared = shared_out(plain, 3)
    items = [SampleItem(seed) for seed in range(45)]
    for one, other in zip(Sampler(shared).sample(items), Sampler(plain).sample(items), strict=True):
        assert one.label == other.label
        assert abs(one.pixels.astype(int) - other.pixels.astype(int)).max() <= 1
    alone = Sampler(shared).sample([SampleItem(40)])
    assert (alone[0].pixels == Sampler(shared).sample(items)[40].pixels).all()
    assert shared.size_bytes == plain.size_bytes


def test_one_thread_changes_nothing() -> None:
    plain = _generator()
    assert shared_out(plain, 1) is plain
