"""A network on several cores of a CPU: each thread computes a share of the batch by itself.

PyTorch's own threads share every single operation and meet after each, and the compiled loops of `models.tiles` have one thread
anyway. Shares of a batch meet once.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.generator import Generator
from models.winograd import LEAST_ROWS


def shared_out(generator: Generator, threads: int) -> Generator:
    """The same generator on so many threads, each with operations of its own; itself where one thread is all there is.

    The network must bear to be called by several threads at once.
    """
    if threads == 1 or generator.device.type != "cpu":
        return generator
    return Generator(Lanes(generator.network, threads), generator.card, generator.prior)


class Lanes(nn.Module):
    """Shares a batch out among threads: latents [N, D], labels [N] to what the network makes of them, in their order.

    No share has fewer pictures than a matrix product needs rows. What is too small to be shared out the caller computes; if
    that gives the same bits, as the first time shows, PyTorch shares each of its operations among the threads.

    Args:
        network: what each of them calls.
        threads: how many of them, the caller's thread not counted.
    """

    def __init__(self, network: nn.Module, threads: int) -> None:
        super().__init__()
        self.network = network
        self.threads = threads
        self.divisible: bool | None = (
            None  # whether the bits are the same where operations are shared; not known at first
        )
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix="lane", initializer=torch.set_num_threads, initargs=(1,)
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        shares = min(self.threads, len(latents) // LEAST_ROWS)
        if shares <= 1:
            return self._together(latents, labels)
        named = [None] * shares if labels is None else torch.tensor_split(labels, shares)
        return torch.cat(list(self._pool.map(self._compute, torch.tensor_split(latents, shares), named)))

    def _together(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        if self.divisible is None:
            alone = self.network(latents, labels).clone()
            with _operations_of(self.threads):
                self.divisible = torch.equal(alone, self.network(latents, labels))
        with _operations_of(self.threads if self.divisible else 1):
            pictures: Tensor = self.network(latents, labels)
        return pictures

    @torch.inference_mode()
    def _compute(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        pictures: Tensor = self.network(latents, labels)
        return pictures


@contextmanager
def _operations_of(threads: int) -> Iterator[None]:
    """Lets PyTorch share each operation of the calling thread among so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
