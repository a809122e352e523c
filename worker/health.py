"""The worker container's health check: `python -m worker.health` exits with 0 while every lane has a process."""

from __future__ import annotations

import sys

import psutil

from store.queue import Lane


def missing_lanes() -> set[Lane]:
    """Return the lanes that no process of this host (or container) works on."""
    found = set()
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        if "worker.main" in command and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.add(Lane(command[command.index("--lane") + 1]))
    return set(Lane) - found


if __name__ == "__main__":
    missing = missing_lanes()
    sys.exit(f"no process works on: {', '.join(sorted(missing))}" if missing else 0)
