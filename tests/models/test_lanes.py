"""Batches that several threads share are the batches that one would have made."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue

import pytest
import torch
from torch import Tensor

from models.generator import Generator, GeneratorCard
from models.lanes import FEWEST, NICENESS, Lanes
from models.registry import build_generator
from models.sampling import RenderedImage, SampleItem, Sampler
from tests.models.conftest import SMALL

CLASSES = ["cat", "dog"]


class _Telling:
    """Gives its latents and labels back, and notes by whom it was called with how many."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls.append((threading.get_ident(), len(latents)))
        if latents[0, 0] < 0:
            raise RuntimeError("out of memory")
        return latents if labels is None else latents + labels[:, None]


def _all(shares: Sequence[Future[Tensor]]) -> Tensor:
    return torch.cat([share.result() for share in shares])


def _generator() -> Generator:
    torch.manual_seed(0)
    card = GeneratorCard(
        kind="gan-dcgan", options=SMALL["gan-dcgan"], resolution=32, channels=3, classes=CLASSES, images_seen=0
    )
    return Generator(build_generator(card.kind, card.parse_options(), card.shape), card)


@pytest.mark.parametrize("count", [1, FEWEST, FEWEST + 1, 4 * FEWEST + 3])
def test_shares_come_back_in_order(count: int) -> None:
    latents, labels = torch.arange(count).float()[:, None], torch.arange(count) * 100
    lanes = Lanes(3)
    assert torch.equal(_all(lanes.begin(_Telling(), latents, labels)), latents + labels[:, None])
    assert torch.equal(_all(lanes.begin(_Telling(), latents)), latents)


def test_a_batch_is_shared_out_but_not_into_crumbs() -> None:
    lanes, small, large = Lanes(4), _Telling(), _Telling()
    _all(lanes.begin(small, torch.ones(FEWEST, 1)))
    assert small.calls == [(threading.get_ident(), FEWEST)]
    _all(lanes.begin(large, torch.ones(4 * FEWEST, 1)))
    assert [count for _, count in large.calls] == [FEWEST] * 4
    assert threading.get_ident() not in {thread for thread, _ in large.calls}


def test_while_lanes_are_at_work_the_caller_computes_nothing() -> None:
    """Given a lane at work, I expect one picture to be made by a lane, so that its caller may begin more; else by itself."""
    lanes, telling, let = Lanes(2), _Telling(), threading.Event()

    def slow(latents: Tensor, _labels: Tensor | None) -> Tensor:
        assert let.wait(30)
        return latents

    large = lanes.begin(slow, torch.ones(2 * FEWEST, 1))
    [alone] = lanes.begin(telling, torch.ones(1, 1))
    let.set()
    _all([*large, alone])
    _all(lanes.begin(telling, torch.ones(1, 1)))
    lane, caller = (thread for thread, _ in telling.calls)
    assert caller == threading.get_ident() != lane


def test_what_is_left_over_is_no_share_of_its_own() -> None:
    telling = _Telling()
    _all(Lanes(11).begin(telling, torch.ones(91, 1)))  # by nines, one would be left
    assert min(count for _, count in telling.calls) >= FEWEST
    assert sum(count for _, count in telling.calls) == 91


@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_is_raised_to_who_asks_for_it(threads: int) -> None:
    begun = Lanes(threads).begin(_Telling(), torch.tensor([[-1.0]] * FEWEST + [[1.0]] * FEWEST))
    with pytest.raises(RuntimeError, match="out of memory"):
        begun[0].result()


def test_pictures_are_those_of_one_thread() -> None:
    generator, lanes = _generator(), Lanes(3)
    shared = Sampler(generator, lanes=lanes)
    items = [SampleItem(seed) for seed in range(45)]
    together = shared.sample(items)
    for one, other in zip(together, Sampler(generator).sample(items), strict=True):
        assert one.label == other.label
        assert abs(one.pixels.astype(int) - other.pixels.astype(int)).max() <= 1
    [alone] = shared.sample([SampleItem(40)])
    assert (alone.pixels == together[40].pixels).all()


class _Gate(Generator):
    """A generator whose shares wait to be let through, one by one in the order they began, once it is closed."""

    def __init__(self, plain: Generator) -> None:
        super().__init__(plain.network, plain.card, plain.prior)
        self.closed = False
        self.numbers, self.begun = itertools.count(), Queue[int]()
        self.let = (threading.Event(), threading.Event())

    def render(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.closed:
            share = next(self.numbers)
            self.begun.put(share)
            assert self.let[share].wait(30)
        return super().render(latents, labels)


def test_there_is_room_when_a_lane_is_idle() -> None:
    gate = _Gate(_generator())
    sampler = Sampler(gate, lanes=Lanes(2))
    gate.closed = True
    rendering = sampler.begin([SampleItem(seed) for seed in range(32)])
    with ThreadPoolExecutor(1) as waiter:
        room = waiter.submit(rendering.wait_for_room)
        for _ in gate.let:
            gate.begun.get(timeout=30)
        rendering.wait_for_room(0)  # no longer than it was told to
        assert rendering.first_share_s is None
        assert not room.done()
        gate.let[0].set()
        room.result(30)
    assert not rendering.is_done
    gate.let[1].set()
    assert len(rendering.pictures()) == 32
    assert rendering.is_done
    assert rendering.first_share_s is not None


def test_what_the_caller_computes_is_done_at_once() -> None:
    rendering = Sampler(_generator(), lanes=Lanes(2)).begin([SampleItem(3)])
    assert rendering.is_done
    assert rendering.first_share_s is None
    rendering.wait_for_room()


def test_lanes_make_files_of_what_they_share_out_and_of_nothing_else() -> None:
    """Given 45 pictures, in batches of 32 and 16 by two lanes, I expect each encoded once, as itself, and none that pads."""
    sampler = Sampler(_generator(), buckets=(1, 16, 32), lanes=Lanes(2))
    items, encoded = [SampleItem(seed) for seed in range(45)], Queue[int]()

    def encode(picture: RenderedImage, place: int) -> bytes:
        assert threading.current_thread().name.startswith("lane")
        encoded.put(place)
        return bytes([picture.seed, picture.label or 0]) + picture.pixels.tobytes()

    pictures = sampler.begin(items, encode).pictures()

    assert sorted(encoded.get() for _ in range(encoded.qsize())) == list(range(45))
    for picture in pictures:
        assert picture.file == bytes([picture.seed, picture.label or 0]) + picture.pixels.tobytes()
    [alone] = sampler.begin(items[:1], encode).pictures()
    assert alone.file is None  # the caller has developed it, and does the rest as it likes


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux has a thread a priority of its own")
def test_lanes_stand_back_for_other_threads() -> None:
    nice = Queue[int]()

    def compute(latents: Tensor, _labels: Tensor | None) -> Tensor:
        nice.put(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return latents

    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    _all(Lanes(2).begin(compute, torch.ones(2 * FEWEST, 1)))

    assert [nice.get(), nice.get()] == [min(19, own + NICENESS)] * 2
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


def test_two_batches_that_run_out_of_memory_together_are_made_smaller_once(caplog: pytest.LogCaptureFixture) -> None:
    plain = _generator()
    want = Sampler(plain, buckets=(16, 32), lanes=Lanes(2)).sample([SampleItem(seed) for seed in range(32)])
    sampler = Sampler(_Scarce(plain), buckets=(16, 32), lanes=Lanes(2))
    sampler.generator.most = 8  # type: ignore[attr-defined]
    both = [sampler.begin([SampleItem(seed) for seed in range(32)]) for _ in range(2)]
    for rendering in both:
        for one, other in zip(rendering.pictures(), want, strict=True):
            assert abs(one.pixels.astype(int) - other.pixels.astype(int)).max() <= 1
    assert sampler.buckets[-1] == 16
    assert len(caplog.messages) == 1


class _Scarce(Generator):
    """A generator on a device that has room for shares of so many pictures."""

    def __init__(self, plain: Generator) -> None:
        super().__init__(plain.network, plain.card, plain.prior)
        self.most = 32

    def synthesize(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if len(latents) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return super().synthesize(latents, labels)
