"""One of our kinds, trained as `python -m models train` does."""

from __future__ import annotations

import time

import torch

from bench.cells import kind_of
from bench.child import Task, Trained
from models.choosing import choose
from models.config import TrainingConfig
from models.data import PreparedImages
from models.trainer import train as train_kind


def train(task: Task) -> Trained:
    """Train what the cell names; its last checkpoint is left in the run's directory, named in the facts.

    What choosing takes is taken from a budget in seconds.
    """
    cell, began = task.cell, time.monotonic()
    data = PreparedImages.open(task.prepared)
    kind, preset = kind_of(cell.trainer)
    choice = choose(
        kind,
        cell.options,
        data.manifest,
        cell.resolution,
        torch.device(cell.device),
        preset=preset,
        budget_images=cell.budget_images,
        budget_s=cell.budget_s,
    )
    chosen_in_s = time.monotonic() - began
    config = TrainingConfig(
        kind=choice.kind,
        resolution=cell.resolution,
        options=choice.options,
        budget_s=None if cell.budget_s is None else max(0.1, cell.budget_s - chosen_in_s),
        budget_images=cell.budget_images,
        seed=cell.seed,
    )
    outcome = train_kind(data, config, task.directory / "run", device=cell.device)
    facts = {
        "checkpoint": str(outcome.checkpoint),
        "losses": outcome.losses,
        "kind": choice.kind,
        "options": config.to_json()["options"],
        "reasons": list(choice.reasons),
        "chosen_in_s": chosen_in_s,
    }
    return Trained(outcome.images_seen, outcome.elapsed_s, facts)
