"""A child process that does what needs PyTorch, for a worker that holds none (docs/decisions/0009-exports.md)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from worker.errors import ChildFailed
from worker.running import Run

ASK_EVERY_S = 0.2  # whether the job was canceled meanwhile
PATIENCE_S = 5.0  # for a child that was told to end


def said_by_child(run: Run, arguments: Sequence[str]) -> dict[str, Any]:
    """What `python -m worker.leash …` said on its standard output, once it has ended well; it is ended when the work must.

    Args:
        run: the job's.
        arguments: the command and its own, without --json.

    Raises:
        ChildFailed: it said why it could not.
        Canceled, HandedBack: the work had to stop.
    """
    command = [sys.executable, "-m", "worker.leash", *arguments, "--json"]
    threads = run.resources.settings.torch_threads
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    said: list[tuple[str, str]] = []
    with subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        # A thread empties both pipes, so that the child never waits for a reader.
        listener = threading.Thread(target=lambda: said.append(child.communicate()), name="child")
        listener.start()
        while listener.is_alive() and not run.should_stop():
            listener.join(ASK_EVERY_S)
        if listener.is_alive():
            child.terminate()
            listener.join(PATIENCE_S)
            if listener.is_alive():
                child.kill()
            listener.join()
            run.raise_if_stopped()
    output, notes = said[0]
    last = _last_object(output)
    if child.returncode == 0 and last is not None:
        return last
    if last is not None and last.get("event") == "error":
        raise ChildFailed(last["error"], last["message"])
    raise RuntimeError(
        f"the process `models {arguments[0]}` ended with {child.returncode}: {notes.strip()[-1000:] or 'no word'}"
    )


def _last_object(output: str) -> dict[str, Any] | None:
    for line in reversed(output.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None
