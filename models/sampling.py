"""From seeds to pictures: the same model, seed and label give the same pixels, alone or in any company.

Two things make that so. A picture's latent comes from a random generator of its own, on the CPU, seeded with its seed alone.
And the network only ever sees a few fixed batch sizes: others are padded up to one of these, and of these only the ones are
used for which a probe finds every bit independent of size, place and neighbours. (A matrix product may well sum in another
order for one row than for thirty-two.)

Shapes: N batch, C channels, H W pixels, D latent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.blending import slerp, vary
from models.errors import OutOfMemory, UnknownLabel
from models.generator import Generator
from models.lanes import Compute, Lanes, Then
from models.memory import is_out_of_memory, release_memory

log = logging.getLogger(__name__)

SEVERAL = 8  # pictures, at least, by which the sizes of batches are compared


@dataclass(frozen=True)
class Blend:
    """What a picture's latent is made of besides its own seed's."""

    how: Literal["slerp", "variation"]  # on the arc from its own seed to `seed`, or near `seed` by its own seed's noise
    seed: int
    weight: float  # 0 to 1: of the way from its own seed to `seed`, or the strength of its own seed's noise

    @property
    def recipe(self) -> dict[str, Any]:
        """As JSON values, without the picture's own seed."""
        if self.how == "slerp":
            return {"slerp": {"to": self.seed, "weight": self.weight}}
        return {"variation": {"of": self.seed, "strength": self.weight}}


@dataclass(frozen=True)
class SampleItem:
    """One picture that is asked for."""

    seed: int
    label: int | None = (
        None  # None: drawn from the seed, where the generator takes labels at all; of a blend's two, the first
    )
    truncation: float = (
        1.0  # psi, above 0: how far the latent lies from its mean (its component's), 1 leaves it where it is
    )
    blend: Blend | None = None

    @property
    def recipe(self) -> dict[str, Any] | None:
        """What it is made of besides seed and label, as JSON values; None: nothing."""
        truncation = {} if self.truncation == 1 else {"truncation": self.truncation}
        return {**(self.blend.recipe if self.blend is not None else {}), **truncation} or None


@dataclass(frozen=True)
class RenderedImage:
    """One picture that was developed."""

    seed: int
    label: int | None  # the one it was made for; None when the generator takes no labels
    pixels: NDArray[np.uint8]  # [C, H, W]
    recipe: dict[str, Any] | None = None  # as in SampleItem
    file: bytes | None = None  # what a lane has encoded it to


Encode = Callable[[RenderedImage, int], bytes]  # a picture, and its place among those that were asked for


def latents(generator: Generator, seeds: Sequence[int], labels: Sequence[int | None]) -> tuple[Tensor, Tensor | None]:
    """Draw what pictures are developed from, as `latents_of` does, from seeds and labels alone, [N] each."""
    return latents_of(generator, [SampleItem(seed, label) for seed, label in zip(seeds, labels, strict=True)])


def latents_of(generator: Generator, items: Sequence[SampleItem]) -> tuple[Tensor, Tensor | None]:
    """Draw what pictures are developed from.

    Args:
        generator: the model that will develop them.
        items: the pictures; where one's label is None, one of the generator's classes is drawn after the latent.

    Returns:
        latents, float [N, D], as the generator's prior has them, and labels, int64 [N]; None instead of labels when the
        generator takes none. Asking for the label that would have been drawn gives the same latent.

    Raises:
        UnknownLabel: the generator has no such class, or none at all.

    Source: truncation as in Karras et al. 2019, arXiv:1812.04948, appendix B, applied to the latent: it moves towards its
    mean, so that the psi of 1 leaves every bit. (Brock et al. 2019, arXiv:1809.11096, §3.1, draw far numbers anew instead.)
    """
    drawn, chosen = [], []
    for item in items:
        latent, label = _drawn(generator, item)
        drawn.append(latent)
        if label is not None:
            chosen.append(label)
    stacked = torch.stack(drawn) if drawn else torch.empty(0, generator.latent_dim)
    return stacked, None if generator.classes is None else torch.tensor(chosen, dtype=torch.int64)


class _Draw:
    """What one seed gives, in this order: noise, what chooses a component of the prior, and a label."""

    def __init__(self, generator: Generator, seed: int) -> None:
        self._source = torch.Generator(device="cpu").manual_seed(seed)
        self.noise = torch.randn(generator.latent_dim, generator=self._source)
        self.uniform = float(torch.rand((), generator=self._source)) if generator.prior is not None else 0.0

    def label(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self._source))


def _drawn(generator: Generator, item: SampleItem) -> tuple[Tensor, int | None]:
    """One latent, float [D], and the label that goes with it."""
    count, label = None if generator.classes is None else len(generator.classes), item.label
    if label is not None and (count is None or not 0 <= label < count):
        raise UnknownLabel(
            f"label {label} is unknown: "
            + ("this generator takes no labels, ask without one" if count is None else f"use 0 to {count - 1}")
        )
    own = _Draw(generator, item.seed)
    other = _Draw(generator, item.blend.seed) if item.blend is not None else own
    root = other if item.blend is not None and item.blend.how == "variation" else own
    if count is not None and label is None:
        label = root.label(count)
    noise = root.noise
    if item.blend is not None:
        ends = (root.noise.double(), (own if root is other else other).noise.double())
        noise = (slerp if item.blend.how == "slerp" else vary)(*ends, item.blend.weight).float()
    if item.truncation != 1:
        noise = item.truncation * noise
    if generator.prior is None:
        return noise, label
    if item.blend is not None and item.blend.how == "slerp":
        return generator.prior.between(noise, (own.uniform, other.uniform), item.blend.weight, label), label
    return generator.prior.draw(noise, root.uniform, label), label


class Rendering:
    """Pictures under way: asked for, drawn, and being developed."""

    def __init__(self, sampler: Sampler, items: Sequence[SampleItem], encode: Encode | None) -> None:
        self.started = time.monotonic()  # seconds
        self._sampler, self._items = sampler, items
        self._drawn, self._labels = latents_of(sampler.generator, items)
        self._made_for = [None] * len(items) if self._labels is None else self._labels.tolist()
        self._encode, self._files = encode, dict[int, bytes]()  # by place
        self._parts = self._begin_developing()
        self._ends: list[float] = []  # of shares, as they end
        for share in self._unfinished():
            share.add_done_callback(lambda _: self._ends.append(time.monotonic()))

    @property
    def generator(self) -> Generator:
        """Who makes them."""
        return self._sampler.generator

    @property
    def first_share_s(self) -> float | None:
        """How long the share took that was done first, where several threads had some."""
        return self._ends[0] - self.started if self._ends else None

    def wait_for_room(self, at_most_s: float | None = None) -> None:
        """Wait until a lane has nothing of this left to begin with, or all is done, or so many seconds have passed."""
        left = self._unfinished()
        while len(left) >= self._sampler.lanes.threads and wait(left, at_most_s, FIRST_COMPLETED).done:
            left = self._unfinished()

    @property
    def is_done(self) -> bool:
        """Whether `pictures` has nothing to wait for."""
        return not self._unfinished()

    def pictures(self) -> list[RenderedImage]:
        """The pictures, in the order they were asked for.

        Raises:
            OutOfMemory: the device has not even room for one.
        """
        while (pixels := self._developed()) is None:
            tried = max(part.bucket for part in self._parts)
            self._parts = []  # what failed holds memory
            self._sampler.make_smaller(than=tried)
            self._parts = self._begin_developing()
        return [self._image(place, picture) for place, picture in enumerate(pixels)]

    def _begin_developing(self) -> list[Part]:
        then = self._encode_share if self._encode is not None else None
        return self._sampler.begin_developing(self._drawn, self._labels, then)

    def _image(self, place: int, pixels: NDArray[np.uint8]) -> RenderedImage:
        item = self._items[place]
        return RenderedImage(item.seed, self._made_for[place], pixels, item.recipe, self._files.get(place))

    def _encode_share(self, pictures: Tensor, first: int) -> None:
        assert self._encode is not None
        for place, pixels in enumerate(pictures.numpy()[: max(0, len(self._items) - first)], first):  # others pad
            self._files[place] = self._encode(self._image(place, pixels), place)

    def _developed(self) -> list[NDArray[np.uint8]] | None:
        """The pictures, each [C, H, W]; None where memory ran out."""
        try:
            return [picture for part in self._parts for picture in part.pixels()]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _unfinished(self) -> list[Future[Tensor]]:
        return [share for part in self._parts for share in part.shares if not share.done()]


@dataclass(frozen=True)
class Part:
    """Pictures that go through the network together."""

    count: int  # of pictures that were asked for
    bucket: int  # batch size, with what pads it
    shares: Sequence[Future[Tensor]]  # uint8 [N, C, H, W] each, one after the other

    def pixels(self) -> Iterator[NDArray[np.uint8]]:
        """The pictures that were asked for, each [C, H, W]."""
        made = (picture for share in self.shares for picture in share.result().numpy())
        return islice(made, self.count)


class Sampler:
    """Develops any number of pictures in batches of a few fixed sizes.

    Where the device runs out of memory, the largest size is halved, for good, and the pictures are tried again.

    Args:
        generator: the model; it stays on its device.
        buckets: the batch sizes to choose from. A probe on construction drops those that do not give the very bits of the
            largest; should even the largest give other bits in other places of the batch, pictures are made one by one.
        lanes: the cores among which batches are shared out, of a generator that bears it; None: none but the caller's.
    """

    def __init__(self, generator: Generator, buckets: Sequence[int] = (1, 8, 32), lanes: Lanes | None = None) -> None:
        self.generator = generator
        self.lanes = lanes if lanes is not None else Lanes(1)
        self._sizes = tuple(sorted(set(buckets)))
        self.buckets = self._probed()

    def begin(self, items: Sequence[SampleItem], encode: Encode | None = None) -> Rendering:
        """Begin to develop pictures. What the caller's own thread computes is done when this returns.

        Args:
            items: the pictures that are asked for.
            encode: makes files of them where lanes of several cores share them out, each with its share; elsewhere that would
                hold the device up. None: nobody does.

        Raises:
            UnknownLabel: the generator has no such class, or none at all.
        """
        return Rendering(self, items, encode)

    def sample(self, items: Sequence[SampleItem]) -> list[RenderedImage]:
        """Develop pictures, in the order they are asked for.

        Raises:
            UnknownLabel: the generator has no such class, or none at all.
            OutOfMemory: the device has not even room for one.
        """
        return self.begin(items).pictures()

    def begin_developing(self, drawn: Tensor, labels: Tensor | None, then: Then | None = None) -> list[Part]:
        """Begin with the network's part: latents [N, D] and labels [N] in batches of our sizes.

        `then` is for what lanes have made, as in `Lanes.begin`, with places among all latents; beyond are those that pad.
        """
        parts = []
        for start, count, bucket in self._plan(len(drawn)):
            rows = slice(start, start + count)
            named = None if labels is None else _padded(labels[rows], bucket)
            further = None if then is None else partial(_from, then, start)
            shares = self.lanes.begin(self.generator.render, _padded(drawn[rows], bucket), named, further)
            parts.append(Part(count, bucket, shares))
        return parts

    def make_smaller(self, *, than: int) -> None:
        """Take half of the largest size for the largest, for good; where it is smaller already, that may do.

        Raises:
            OutOfMemory: the largest is one picture already.
        """
        if self._sizes[-1] >= than:
            self._halve()
            self.buckets = self._probed()

    def _synthesized(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        shares = self.lanes.begin(self.generator.synthesize, latents, labels)
        return torch.cat([share.result() for share in shares])

    def _probed(self) -> tuple[int, ...]:
        """Those of our sizes that agree, after as many halvings as memory asks for."""
        while True:
            try:
                return _agreeing(self.generator, self._synthesized, self._sizes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._halve()

    def _halve(self) -> None:
        release_memory(self.generator.device)
        half = self._sizes[-1] // 2
        if half == 0:
            raise OutOfMemory(
                f"{self.generator.device} has no room for one picture of {self.generator.resolution} px at a time; free "
                "the device of other work, or generate with a smaller model"
            )
        log.warning("%s ran out of memory; batches of at most %d images from now on", self.generator.device, half)
        self._sizes = (*(size for size in self._sizes if size < half), half)

    def _plan(self, total: int) -> Iterator[tuple[int, int, int]]:
        """Cut `total` pictures into (start, count, bucket): the smallest that holds all, if they fill it by more than half."""
        start = 0
        while (left := total - start) > 0:
            smaller = max((bucket for bucket in self.buckets if bucket <= left), default=self.buckets[0])
            bucket = min((bucket for bucket in self.buckets if left <= bucket < 2 * left), default=smaller)
            count = min(bucket, left)
            yield start, count, bucket
            start += count


def _from(then: Then, start: int, pictures: Tensor, first: int) -> None:
    then(pictures, start + first)


def _padded(rows: Tensor, size: int) -> Tensor:
    """Rows [n, …] with the last one repeated up to [size, …]."""
    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])]) if len(rows) < size else rows


def _agreeing(generator: Generator, synthesize: Compute, buckets: tuple[int, ...]) -> tuple[int, ...]:
    """Those of `buckets` whose pictures are the same to the last bit, before rounding to pixels could hide a difference."""
    largest = buckets[-1]
    drawn, labels = latents(generator, range(largest), [None] * largest)

    def develop(order: Tensor, size: int) -> Tensor:
        parts = [
            synthesize(_padded(drawn[rows], size), None if labels is None else _padded(labels[rows], size))
            for rows in torch.split(order, size)
        ]
        return torch.cat(parts)[: len(order)].cpu()

    straight = torch.arange(largest)
    reference = develop(straight, largest)
    for shift in {1, largest // 2, largest - 1}:
        if not torch.equal(develop(straight.roll(shift), largest), reference.roll(shift, dims=0)):
            return (1,)
    # Of each size one batch, so that each of its places is looked at; and a few of the smallest.
    counts = {size: min(largest, max(size, SEVERAL)) for size in buckets}
    return tuple(
        size
        for size, count in counts.items()
        if size == largest or torch.equal(develop(straight[:count], size), reference[:count])
    )
