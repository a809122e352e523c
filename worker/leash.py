"""`python -m worker.leash …`: what `python -m models …` does, in a process that does not outlive the worker that started it.

A worker that is killed has no moment to end its child, which would go on computing what nobody waits for.
"""

from __future__ import annotations

import os
import runpy
import signal

from store.processes import die_with_parent


def main() -> None:
    """Runs the command line of models."""
    die_with_parent(os.getppid(), signal.SIGKILL)
    runpy.run_module("models", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
