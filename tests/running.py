"""The whole service as a user runs it: `darkroom up` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

WITHIN_S = 60.0


@contextmanager
def running(data_dir: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`darkroom up` on a free port, ready; with its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "up", "--port", "0", "--data-dir", str(data_dir)],
        cwd=data_dir.parent,  # away from anybody's .env
        env={name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
        | {"DARKROOM_DEVICES": "cpu", "DARKROOM_DRAIN_S": "5", "COLUMNS": "200"}
        | {f"DARKROOM_{name}": value for name, value in settings.items()},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    too_late = threading.Timer(WITHIN_S, process.kill)
    too_late.start()
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if "Ctrl-C; nothing is lost" in line:
                break
        url = next((line.split()[-1] for line in said if "Darkroom is up at" in line), None)
        assert url is not None, "".join(said)
        too_late.cancel()
        yield process, url
    finally:
        too_late.cancel()
        process.terminate()
        process.stderr.read()
        process.wait()
        process.stderr.close()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)
