"""A network on several cores of a CPU: each thread computes a share of the batch by itself.

PyTorch's own threads share every single operation and meet after each, and the compiled loops of `models.tiles` have one thread
anyway. Shares of a batch meet once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from models.generator import Generator
from models.products import LEAST_ROWS


def shared_out(generator: Generator, threads: int) -> Generator:
    """The same generator on so many threads, each with operations of its own; itself where one thread is all there is.

    The network must bear to be called by several threads at once.
    """
    if threads == 1 or generator.device.type != "cpu":
        return generator
    return Generator(Lanes(generator.network, threads), generator.card, generator.prior)


class Lanes(nn.Module):
    """Shares a batch out among threads: latents [N, D], labels [N] to what the network makes of them, in their order.

    No share has fewer pictures than a matrix product needs rows.

    Args:
        network: what each of them calls.
        threads: how many of them, the caller's thread not counted: it computes what is one share by itself.
    """

    def __init__(self, network: nn.Module, threads: int) -> None:
        super().__init__()
        self.network = network
        self.threads = threads
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix="lane", initializer=torch.set_num_threads, initargs=(1,)
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        shares = min(self.threads, len(latents) // LEAST_ROWS)
        if shares <= 1:
            pictures: Tensor = self.network(latents, labels)
            return pictures
        named = [None] * shares if labels is None else torch.tensor_split(labels, shares)
        return torch.cat(list(self._pool.map(self._compute, torch.tensor_split(latents, shares), named)))

    @torch.inference_mode()
    def _compute(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        pictures: Tensor = self.network(latents, labels)
        return pictures
