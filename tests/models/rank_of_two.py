"""`python -m tests.models.rank_of_two RANK MEETING DATA CONFIGS`: a few steps of several trainings, one after the other.

Writes what one rank saw to standard output, as JSON: for each configuration of the file CONFIGS what `steps`
returns, and for the last one what `setback` does.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.config import TrainingConfig
from models.data import PreparedImages
from models.objective import Batch
from models.ranks import ALONE, Ranks, joined
from models.trainer import follow, train
from models.training import Training
from models.vae.sigma import VaeSigmaObjective


def steps(data: PreparedImages, config: TrainingConfig, ranks: Ranks = ALONE, *, count: int = 5) -> dict[str, Any]:
    """Train for a few steps; returns the images seen in each, the losses, the gauges, and a hash of all that is learnt."""
    training = Training(data, config, torch.device("cpu"), ranks)
    seen: list[list[int]] = []
    batch = training.images.batch

    def noted(indices: Tensor) -> tuple[Tensor, Tensor | None]:
        seen.append(indices.tolist())
        return batch(indices)

    training.images.batch = noted  # type: ignore[method-assign] # to look on
    for _ in range(count):
        training.step()
    losses, gauges = training.read_losses(), training.read_gauges()
    state = hashlib.sha256()
    for _, tensor in sorted(training.state().items()):
        state.update(tensor.contiguous().numpy().tobytes())
    return {"seen": seen, "losses": losses, "gauges": gauges, "state": state.hexdigest()}


def setback(data: PreparedImages, config: TrainingConfig, run_dir: Path, ranks: Ranks) -> dict[str, Any]:
    """Train where a loss is no number on the second rank, once; returns what the leader says in the end."""
    whole, spoilt = VaeSigmaObjective.losses, config.options.model_dump()["learning_rate"]

    def losses(self: VaeSigmaObjective, batch: Batch) -> Mapping[str, Tensor]:
        bad = ranks.rank == 1 and batch.images_seen == 16 and self.options.learning_rate == spoilt
        return {name: loss * float("nan") if bad else loss for name, loss in whole(self, batch).items()}

    VaeSigmaObjective.losses = losses  # type: ignore[method-assign] # on purpose
    if not ranks.leads:
        follow(data, config, run_dir, device="cpu", ranks=ranks)
        return {}
    outcome = train(data, config, run_dir, ranks=ranks)
    return {"images_seen": outcome.images_seen, "back_to": [rollback.back_to for rollback in outcome.rollbacks]}


def main(rank: int, meeting: Path, data: Path, configs: Path) -> None:
    torch.set_num_threads(1)
    *wanted, last = [TrainingConfig.from_json(config) for config in json.loads(configs.read_text())]
    images = PreparedImages.open(data)
    with joined(rank, 2, torch.device("cpu"), meeting) as ranks:
        seen = [steps(images, config, ranks) for config in wanted]
        seen.append(setback(images, last, meeting.parent / "run", ranks))
        print(json.dumps(seen))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(Path, sys.argv[2:]))
