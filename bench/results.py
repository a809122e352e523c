"""The results file: a line of JSON for every finished cell, so that the matrix fills over several sittings."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.cells import Cell
from models.console import say

ROOT = Path(__file__).parents[1]


class Results:
    """The rows of a results file by their cells' keys; of several with one key the last counts.

    Args:
        path: the file; made with its first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Mapping[str, Any]] = {}
        if path.exists():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    row = json.loads(line)
                except ValueError:
                    say(f"line {number} of {path} is torn; its cell will be run again")
                else:
                    self.rows[row["key"]] = row

    def __contains__(self, cell: Cell) -> bool:
        return cell.key in self.rows

    def get(self, cell: Cell) -> Mapping[str, Any] | None:
        """The row of a cell; None while it has not been run."""
        return self.rows.get(cell.key)

    def append(self, cell: Cell, found: Mapping[str, Any]) -> None:
        """Keep what a cell gave, with where and when; it is on the disk when this returns."""
        row = {
            "key": cell.key,
            "cell": cell.to_json(),
            **found,
            "machine": machine(cell.device),
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows[cell.key] = row


def machine(device: str) -> dict[str, Any]:
    """What numbers depend on, without names: processor, cores, memory, versions, and the GPU where one computes."""
    described = {
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return described if device == "cpu" else {**described, "gpu": torch.cuda.get_device_name(device)}


def cores() -> int:
    """Cores that this process may use."""
    return (
        len(psutil.Process().cpu_affinity() or ()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1
    )


def commit() -> str:
    """The short hash of the commit that runs, with a plus when files differ from it; "unknown" outside a repository."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", "*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
