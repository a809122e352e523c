"""One training, in a process of its own: `python -m bench.child TASK.json`.

The task names a cell and directories; what came out of it is left in the task's directory: `facts.json`, for a peer a file of
uint8 pictures for each of its ways to make them, for one of our kinds the run with its last checkpoint.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cells import PLAIN, PYTHAE, Cell
from models.errors import TrainingDiverged

FACTS = "facts.json"


@dataclass(frozen=True)
class Task:
    """What a child is to do."""

    cell: Cell
    prepared: Path  # prepared data
    files: Path  # the same pictures as image files, one folder a class
    directory: Path  # for what comes out
    threads: int

    def to_json(self) -> dict[str, Any]:
        paths = {name: str(getattr(self, name)) for name in ("prepared", "files", "directory")}
        return {"cell": self.cell.to_json(), **paths, "threads": self.threads}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Task:
        paths = {name: Path(content[name]) for name in ("prepared", "files", "directory")}
        return cls(Cell(**content["cell"]), **paths, threads=content["threads"])


@dataclass(frozen=True)
class Trained:
    """What a trainer did."""

    images_seen: int
    train_s: float  # as its budget counts
    facts: Mapping[str, Any] = field(default_factory=dict)  # whatever else is worth a look
    galleries: Mapping[str, tuple[Tensor, float]] = field(default_factory=dict)
    # of a peer, by the way they were made: uint8 [N, C, H, W], and how many a second


Trainer = Callable[[Task], Trained]


def trainer(name: str) -> Trainer:
    """The trainer of a name, its module imported only now: peers need packages that we do not."""
    if name == PLAIN:
        from bench.peers.plain import train
    elif name in PYTHAE:
        from bench.peers.autoencoder import train
    else:
        from bench.ours import train
    return train


def main(task_path: Path) -> None:
    """Do a task, and leave what came out of it."""
    task = Task.from_json(json.loads(task_path.read_text()))
    torch.set_num_threads(task.threads)
    facts: dict[str, Any] = {"threads": task.threads}
    try:
        done = trainer(task.cell.trainer)(task)
    except TrainingDiverged as error:
        facts |= {"diverged": str(error)}
    else:
        facts |= {"images_seen": done.images_seen, "train_s": done.train_s, **done.facts}
        facts["images_per_s"] = done.images_seen / done.train_s
        facts["galleries"] = {name: speed for name, (_, speed) in done.galleries.items()}
        for name, (pictures, _) in done.galleries.items():
            np.save(task.directory / f"{name}.npy", pictures.numpy())
    (task.directory / FACTS).write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
