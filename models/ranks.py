"""The processes that train one model together, each on a device of its own: data parallel.

All ranks hold the same weights and take the same steps. Each learns from its own share of every batch, and what they found
is averaged before an optimizer steps (Li et al. 2020, PyTorch Distributed, arXiv:2006.15704, §3). Why this is not PyTorch's
DistributedDataParallel is in docs/decisions/0011-data-parallel.md.

It knows nothing of kinds, checkpoints, or of how the processes are started (`models.distributed`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore  # which torch.distributed names, but not to a type checker

from models.errors import InvalidOption

#: Longest that a rank waits for another one. While rank 0 writes a checkpoint or has it measured, the others wait for what it
#: says next; whoever starts the ranks notices sooner when one is dead.
PATIENCE = timedelta(hours=1)

LEAST_SHARE = 2  # images of a batch for each rank: batch normalisation needs two


@dataclass(frozen=True)
class Ranks:
    """One process's place among those that train together; by itself it is the first of one, and nothing here does anything."""

    rank: int = 0  # this process's number; 0 leads: it alone saves, measures and says how things stand
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the rank that speaks for all."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Which of a batch's images are this rank's.

        Raises:
            InvalidOption: a batch cannot be shared evenly.
        """
        if self.count > 1 and not shareable(batch_size, self.count):
            raise InvalidOption(
                "batch_size",
                f"{batch_size} images cannot be shared by {self.count} devices",
                f"a multiple of {self.count}, at least {LEAST_SHARE * self.count}; or another number of devices",
            )
        own = batch_size // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over all ranks into each tensor, in place; all lie on one device, and every rank brings the same shapes.

        They travel as one, since many small messages take longer than one large one.
        """
        if self.count == 1 or not tensors:
            return
        together = torch.cat([tensor.reshape(-1) for tensor in tensors]).div_(self.count)
        dist.all_reduce(together)
        parts = torch.split(together, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(
            list(tensors), [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
        )

    def from_first(self, *numbers: float) -> tuple[float, ...]:
        """The numbers that rank 0 gives, on every rank; the others give as many of any value."""
        if self.count == 1:
            return numbers
        said = torch.tensor(numbers, dtype=torch.float64)  # on the CPU: no device is waited for
        dist.broadcast(said, src=0)
        return tuple(said.tolist())

    def text_from_first(self, text: str = "") -> str:
        """The text that rank 0 gives, on every rank."""
        if self.count == 1:
            return text
        (size,) = self.from_first(len(text.encode()))
        said = torch.zeros(int(size), dtype=torch.uint8)
        if self.leads:
            said.copy_(torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8))
        dist.broadcast(said, src=0)
        return bytes(said.tolist()).decode()


ALONE = Ranks()


def shareable(batch_size: int, count: int) -> bool:
    """Whether `count` ranks can take even shares of a batch."""
    return batch_size % count == 0 and batch_size >= LEAST_SHARE * count


def most_sharing(batch_size: int, count: int) -> int:
    """How many of `count` ranks can take even shares of a batch, at most."""
    return max(number for number in range(1, count + 1) if number == 1 or shareable(batch_size, number))


@contextmanager
def joined(rank: int, count: int, device: torch.device, meeting: Path) -> Iterator[Ranks]:
    """Meet the other ranks on this machine, and part from them when all is well.

    Gradients travel by NCCL between CUDA devices and by Gloo between CPUs; what the ranks say to each other besides always
    goes by Gloo, so that it needs no device.

    Args:
        rank: this process's number.
        count: how many there are.
        device: where this rank computes.
        meeting: a file that does not exist yet, the same one for all.
    """
    # Both libraries would listen on the network. These are their own variables, read when the first connection is made.
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = loopback
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = FileStore(str(meeting), count)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    yield Ranks(rank, count)
    dist.destroy_process_group()
