"""`python -m tests.worker.poisoned …`: a worker like any other, but imports called `poison` kill it, and `greedy` ones take all
the memory that there is."""

from __future__ import annotations

import os
import resource
import signal
import sys
from unittest.mock import patch

import psutil

from worker import importing
from worker.main import main
from worker.running import Finish, Run

ROOM_BYTES = 256 * 2**20


def _import(run: Run) -> Finish:
    name = run.claim.request["name"]
    if name == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "greedy":
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + ROOM_BYTES, before[1]))
        try:
            taken = []
            while True:
                taken.append(bytearray(2**24))
        finally:
            taken.clear()
            resource.setrlimit(resource.RLIMIT_AS, before)
    return lambda _session: {"name": name}


if __name__ == "__main__":
    with patch.object(importing, "import_dataset", _import):
        sys.exit(main())
