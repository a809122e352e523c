"""One of our kinds, trained as `python -m models train` does."""

from __future__ import annotations

from bench.child import Task, Trained
from models.catalog import parse_options
from models.config import TrainingConfig
from models.data import PreparedImages
from models.trainer import train as train_kind


def train(task: Task) -> Trained:
    """Train a kind of the catalogue; its last checkpoint is left in the run's directory, named in the facts."""
    cell = task.cell
    config = TrainingConfig(
        kind=cell.trainer,
        resolution=cell.resolution,
        options=parse_options(cell.trainer, cell.options),
        budget_s=cell.budget_s,
        budget_images=cell.budget_images,
        seed=cell.seed,
    )
    outcome = train_kind(PreparedImages.open(task.prepared), config, task.directory / "run", device=cell.device)
    facts = {"checkpoint": str(outcome.checkpoint), "losses": outcome.losses, "options": config.to_json()["options"]}
    return Trained(outcome.images_seen, outcome.elapsed_s, facts)
