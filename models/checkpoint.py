"""Checkpoints: all that a training needs to go on, bit for bit, and the generator as it is at that moment.

A run's directory holds `ckpt-{images_seen}/`, each with four files and maybe a fifth:

    training.json           what was trained, how far it came, and the seals of the other three
    training.safetensors    weights, averages of gradients, random state
    generator.json          the generator's card        } the two that
    generator.safetensors   its averaged weights        } make a model
    scores.json             what the generator scored, where it was measured (`models.appraisal`)

A directory gets its name when it is whole, and its seals are checked when it is read, so that one that was damaged later is
passed over for the one before. Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel
from torch import Tensor, nn

from models.appraisal import LEADING
from models.errors import BadCheckpoint, CheckpointError
from models.generator import CARD, WEIGHTS, GeneratorCard, save_generator
from models.origin import Origin
from models.prior import MixturePrior
from models.remedies import Rollback
from models.sealed import (
    Seal,
    read,
    read_json,
    read_tensors,
    remove_unfinished,
    whole_directory,
    write_json,
    write_tensors,
)

RECORD = "training.json"
STATE = "training.safetensors"
SCORES = "scores.json"
KEPT = 2  # checkpoints in a run's directory: the newest, and one to fall back on; the best one stays beside them

log = logging.getLogger(__name__)


class TrainingRecord(BaseModel):
    """What a training has to remember besides tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    config: dict[str, Any]  # TrainingConfig as JSON
    data: str  # fingerprint of the prepared images
    images_seen: int = Field(ge=0)  # also the position in the data, whose order follows from the seed
    elapsed_s: float = Field(ge=0)  # seconds of training, over all attempts
    rollbacks: tuple[Rollback, ...] = Field((), exclude_if=lambda rollbacks: not rollbacks)  # oldest first
    origin: Origin | None = Field(None, exclude_if=lambda origin: origin is None)  # None: it began with fresh weights


class Scores(RootModel[dict[str, float]]):
    """What a generator scored, by name."""


class SealedRecord(TrainingRecord):
    """A record as it lies on disk, with the seals of the files beside it, and its own."""

    files: dict[str, Seal]
    sha256: str  # of everything above, as JSON

    @classmethod
    def of(cls, record: TrainingRecord, files: Mapping[str, Seal]) -> SealedRecord:
        """Seal a record together with the files that belong to it."""
        unsealed = cls(**record.model_dump(), files=dict(files), sha256="")
        return unsealed.model_copy(update={"sha256": unsealed.digest()})

    def digest(self) -> str:
        """What sha256 must be."""
        return hashlib.sha256(self.model_dump_json(exclude={"sha256"}).encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    record: TrainingRecord
    state: Mapping[str, Tensor]  # on the CPU, by name


def save(
    run_dir: Path,
    record: TrainingRecord,
    state: Mapping[str, Tensor],
    network: nn.Module,
    card: GeneratorCard,
    prior: MixturePrior | None = None,
    *,
    keep: Collection[Path] = (),
) -> Path:
    """Write a checkpoint and drop the oldest ones, but never the best one.

    Args:
        run_dir: the run's directory; made when absent.
        record: what there is to remember.
        state: tensors by name.
        network: what is sampled from.
        card: what that network is.
        prior: how its latents are distributed; None: standard normal.
        keep: other checkpoints that are not dropped.

    Returns:
        the new checkpoint's directory.

    Raises:
        CheckpointError: the disk is full, or may not be written to.
    """
    path = path_of(run_dir, record.images_seen)
    if path.exists():
        shutil.rmtree(path)  # only one that latest() passed over can stand where training has come to again
    with whole_directory(path) as directory:
        seals = {STATE: write_tensors(directory / STATE, state), **save_generator(directory, network, card, prior)}
        write_json(directory / RECORD, SealedRecord.of(record, seals))
    dear = {best(run_dir), *keep}
    for old in _newest_first(run_dir)[KEPT:]:
        if old not in dear:
            shutil.rmtree(old, ignore_errors=True)
    return path


def path_of(run_dir: Path, images_seen: int) -> Path:
    """Where a run's checkpoint after so many images lies, if there is one."""
    return run_dir / f"ckpt-{images_seen:012d}"


def write_scores(directory: Path, scores: Mapping[str, float]) -> None:
    """Keep what a checkpoint's generator scored beside it.

    Raises:
        CheckpointError: the disk is full, or may not be written to.
    """
    try:
        write_json(directory / SCORES, Scores(dict(scores)))
    except OSError as error:
        raise CheckpointError(f"cannot write {directory / SCORES}: {error.strerror}; make room there") from error


def read_scores(directory: Path) -> dict[str, float] | None:
    """What a checkpoint's generator scored; None where it was not measured."""
    try:
        return read_json(directory / SCORES, Scores).root
    except BadCheckpoint:
        return None


def best(run_dir: Path, score: str = LEADING) -> Path | None:
    """The checkpoint with the lowest `score` in a run's directory; None where none was measured."""
    found: list[tuple[float, Path]] = []
    for path in _newest_first(run_dir):
        value = (read_scores(path) or {}).get(score)
        found += [(value, path)] if value is not None else []
    return min(found)[1] if found else None


def load(directory: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        BadCheckpoint: a file is absent, torn or damaged.
    """
    sealed = read_json(directory / RECORD, SealedRecord)
    if sealed.sha256 != sealed.digest() or sealed.files.keys() != {STATE, WEIGHTS, CARD}:
        raise BadCheckpoint(f"{directory / RECORD} is damaged: it does not say what was written")
    for name in (WEIGHTS, CARD):
        read(directory / name, sealed.files[name])
    state = read_tensors(directory / STATE, sealed.files[STATE])
    return Checkpoint(directory, TrainingRecord(**sealed.model_dump(exclude={"files", "sha256"})), state)


def latest(run_dir: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None when there is none. Damaged ones are named in the log."""
    for directory in _newest_first(run_dir):
        try:
            return load(directory)
        except BadCheckpoint as error:
            log.warning("passed over a checkpoint: %s", error)
    return None


def sweep(run_dir: Path, *, beyond: int) -> None:
    """Remove what a killed process left half written, and checkpoints of more than `beyond` images, which are of no use."""
    remove_unfinished(run_dir)
    for directory in _newest_first(run_dir):
        if int(directory.name.removeprefix("ckpt-")) > beyond:
            shutil.rmtree(directory, ignore_errors=True)


def _newest_first(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("ckpt-????????????"), reverse=True)
