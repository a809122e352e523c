"""Several cores of a CPU: each computes a share of a batch by itself.

PyTorch's own threads share every single operation and meet after each, and the compiled loops of `models.tiles` have one thread
anyway. Shares of a batch meet once, and a lane that is done with its share goes on with the next batch's.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

# Of the threads: what is made is to be stored and told of before more is made, or who asks again comes when lanes are idle.
NICENESS = 10
FEWEST = 6  # pictures of a share: each reads all weights, which takes as long as two pictures

Given = ParamSpec("Given")
Result = TypeVar("Result")
Compute = Callable[[Tensor, Tensor | None], Tensor]  # from latents [N, D] and labels [N] to [N, …]
Then = Callable[[Tensor, int], None]  # with a share of these, and the place of its first


class Lanes:
    """Threads with operations of their own, among which batches are shared out.

    No share of several has fewer than FEWEST pictures.

    Args:
        threads: how many, the caller's not counted: it computes by itself what is one share only, unless they are at work.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._at_work: list[Future[Tensor]] = []  # when the latest batch was begun
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lane", initializer=_stand_back)

    def begin(
        self, compute: Compute, latents: Tensor, labels: Tensor | None = None, then: Then | None = None
    ) -> list[Future[Tensor]]:
        """Begin a batch.

        Args:
            compute: must bear to be called by several threads at once.
            latents: [N, D].
            labels: [N]; None: none.
            then: what a lane does with its share before that counts as done; None: nothing.

        Returns:
            what will be computed of each share, in the order of the batch; what fails is raised by its future.
        """
        shares = max(1, min(self.threads, len(latents) // FEWEST))
        self._at_work = [share for share in self._at_work if not share.done()]
        if shares == 1 and not self._at_work:  # else the caller could not begin another batch as soon as a lane is idle
            return [at_once(compute, latents, labels)]
        named = [None] * shares if labels is None else torch.tensor_split(labels, shares)
        begun, first = [], 0
        for share in zip(torch.tensor_split(latents, shares), named, strict=True):
            begun.append(self._pool.submit(_computed, compute, then, first, *share))
            first += len(share[0])
        self._at_work += begun
        return begun


def _computed(compute: Compute, then: Then | None, first: int, latents: Tensor, labels: Tensor | None) -> Tensor:
    made = compute(latents, labels)
    if then is not None:
        then(made, first)
    return made


def _stand_back() -> None:
    """One thread of PyTorch's for this one, which lets all others have its core first."""
    torch.set_num_threads(1)
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + NICENESS)  # 19 at most, says Linux


def at_once(task: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Future[Result]:
    """Do something here and now; what it gives, or raises, is in the future."""
    done: Future[Result] = Future()
    try:
        done.set_result(task(*args, **kwargs))
    except Exception as error:
        done.set_exception(error)
    return done
