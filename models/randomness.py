"""Random generators that follow from one seed, each for its own purpose, so that no two draw the same numbers."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits that follows from `seed` and `purpose` alone, on every machine."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derived_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator on the CPU, seeded with `derived_seed`."""
    return torch.Generator(device="cpu").manual_seed(derived_seed(seed, *purpose))


class EndlessShuffle:
    """The order in which images are seen: every image once, shuffled, then all again in another order, without end.

    An epoch's order follows from the seed and the epoch's number alone, so that a position is all there is to remember.

    Args:
        count: images that there are.
        seed: decides every order.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._epoch: tuple[int, torch.Tensor] | None = None  # the one drawn last

    def at(self, position: int, size: int) -> torch.Tensor:
        """Indices, int64 [size], of the images from `position` on, which counts images seen since the start."""
        parts = []
        while size > 0:
            epoch, offset = divmod(position, self.count)
            part = self._order(epoch)[offset : offset + size]
            parts.append(part)
            position += len(part)
            size -= len(part)
        return torch.cat(parts)

    def _order(self, epoch: int) -> torch.Tensor:
        if self._epoch is None or self._epoch[0] != epoch:
            drawn = torch.randperm(self.count, generator=derived_generator(self.seed, "epoch", epoch))
            self._epoch = (epoch, drawn)
        return self._epoch[1]
