"""The feature extractor of a data set: a small network that learnt the set itself, then frozen, hashed and kept.

It learns the labels where there are enough of them, else to tell pictures apart. Nothing is downloaded. Numbers measured with
two extractors cannot be compared; the hash says which one it was. The same data, resolution, seed, and machine with the
same number of threads give the same weights.

Shapes: N images, C channels, H W pixels, F features, K classes.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.catalog import MAX_RESOLUTION
from models.data import PreparedImages, TrainingImages
from models.errors import BadCheckpoint, CheckpointError, Stopped, TooFewImages
from models.evaluation.lesson import OnProgress, ShouldStop, teach
from models.evaluation.network import FEATURES, FeatureNetwork, contrast_loss, label_loss
from models.evaluation.split import split
from models.generator import load_weights
from models.manifest import Manifest
from models.randomness import derived_seed
from models.sealed import Seal, read_json, read_tensors, write_json, write_tensors

LESSON_IMAGES = (
    60_000  # seen in learning; a constant, not a time, so that the weights do not depend on the machine's load
)
PROJECTION = 64  # outputs where pictures are told apart
LEAST_IMAGES = 50  # of a data set, below which nothing worth the name can be learnt or measured
LEAST_PER_CLASS = 8  # images to learn from, on average; with fewer, labels teach less than the pictures do
_READ_AT_ONCE = 256

log = logging.getLogger(__name__)


class ExtractorCard(BaseModel):
    """Everything about an extractor that is not a weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    resolution: int = Field(ge=1, le=MAX_RESOLUTION)  # pixels on a side
    channels: Literal[1, 3]
    lesson: Literal["labels", "contrast"]
    classes: list[str] | None  # of its readings, in the order of the labels; None after "contrast"
    data: str  # fingerprint of the data set that it is for
    images: int  # that it learnt from
    seed: int


class SealedExtractorCard(ExtractorCard):
    """A card as it lies on disk, with the seal of the weights that belong to it."""

    weights: Seal


class Extractor:
    """A frozen network that turns pictures into features and, after a lesson with labels, readings.

    Args:
        network: as it came from its lesson; set to evaluation mode.
        card: what it is.
        sha256: of its weights as a safetensors file.
    """

    def __init__(self, network: FeatureNetwork, card: ExtractorCard, sha256: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.card = card
        self.sha256 = sha256

    @torch.inference_mode()
    def read(
        self, images: Tensor, *, on_progress: OnProgress | None = None, should_stop: ShouldStop | None = None
    ) -> tuple[Tensor, Tensor]:
        """Look at pictures, uint8 [N, C, H, W].

        Returns:
            features, float64 [N, F] on the CPU, and outputs, float32 [N, K]: logits where card.classes is not None.

        Raises:
            Stopped: should_stop() said so.
        """
        device = self.network.mean.device
        features, outputs = [torch.empty(0, FEATURES)], [torch.empty(0, self.network.read.out_features)]
        for start in range(0, len(images), _READ_AT_ONCE):
            if should_stop is not None and should_stop():
                raise Stopped("stopped while the extractor was reading; nothing was kept")
            part = images[start : start + _READ_AT_ONCE].to(device)
            seen, said = self.network((part.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last))
            features.append(seen.cpu())
            outputs.append(said.cpu())
            if on_progress is not None:
                on_progress(min(start + _READ_AT_ONCE, len(images)), len(images))
        return torch.cat(features).double(), torch.cat(outputs)

    def save(self, directory: Path) -> tuple[Path, Path]:
        """Write weights and card as `extractor-{resolution}.safetensors` and `.json`, each whole or not at all, the card last.

        Raises:
            CheckpointError: the disk is full, or may not be written to.
        """
        weights, card = extractor_paths(directory, self.card.resolution)
        try:
            unfinished = weights.with_suffix(".unfinished")
            seal = write_tensors(unfinished, self.network.state_dict())
            unfinished.replace(weights)
            write_json(unfinished, SealedExtractorCard(**self.card.model_dump(), weights=seal))
            unfinished.replace(card)
        except OSError as error:
            raise CheckpointError(f"cannot keep the extractor in {directory}: {error.strerror}") from error
        return weights, card

    @classmethod
    def load(cls, directory: Path, resolution: int, device: str | torch.device = "cpu") -> Extractor:
        """Load what save() wrote.

        Raises:
            BadCheckpoint: it is not there, torn or damaged.
        """
        weights, card_path = extractor_paths(directory, resolution)
        sealed = read_json(card_path, SealedExtractorCard)
        card = ExtractorCard(**sealed.model_dump(exclude={"weights"}))
        network = FeatureNetwork(card.resolution, card.channels, len(card.classes or ()) or PROJECTION)
        load_weights(network, read_tensors(weights, sealed.weights), weights)
        return cls(network.to(device).to(memory_format=torch.channels_last), card, sealed.weights.sha256)


def extractor_paths(directory: Path, resolution: int) -> tuple[Path, Path]:
    """Where a directory keeps an extractor's weights and card."""
    return directory / f"extractor-{resolution}.safetensors", directory / f"extractor-{resolution}.json"


def kept_extractor(
    directory: Path,
    resolution: int,
    *,
    device: str | torch.device = "cpu",
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Extractor:
    """The extractor of a directory of prepared data: the one that lies in it, else a new one, which is then kept there.

    Args:
        directory: what `prepare` wrote.
        resolution: pixels on a side, at most what was prepared.
        device: where it will compute.
        on_progress: called while a new one learns.
        should_stop: asked before every step of its lesson.

    Raises:
        DataError: the data cannot be used.
        Stopped: should_stop() said so; nothing was kept.
        CheckpointError: it cannot be kept there.
    """
    data = PreparedImages.open(directory)
    found = find_extractor(directory, data, resolution, device=device)
    if found is not None:
        return found
    extractor = train_extractor(data, resolution, device=device, on_progress=on_progress, should_stop=should_stop)
    extractor.save(directory)
    return extractor


def find_extractor(
    directory: Path, data: PreparedImages, resolution: int, *, device: str | torch.device = "cpu"
) -> Extractor | None:
    """The extractor of `data` that a directory keeps; None when there is none, or none that can be used."""
    try:
        found = Extractor.load(directory, resolution, device)
    except BadCheckpoint as error:
        if extractor_paths(directory, resolution)[1].exists():
            log.warning("an extractor cannot be used: %s", error)
        return None
    if found.card.data != fingerprint(data.manifest):
        log.warning("the extractor in %s is of other images", directory)
        return None
    return found


def train_extractor(
    data: PreparedImages,
    resolution: int,
    *,
    seed: int = 0,
    lesson_images: int | None = None,
    device: str | torch.device = "cpu",
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Extractor:
    """Let a new extractor learn the study part of a data set (models.evaluation.split).

    Args:
        data: the data set.
        resolution: pixels on a side.
        seed: decides weights, order and distortions.
        lesson_images: how many images it sees, each counted as often as it is seen. None: LESSON_IMAGES.
        device: where to compute.
        on_progress: called after every batch.
        should_stop: asked before every batch.

    Raises:
        TooFewImages: the data set is too small to measure anything by it.
        ResolutionTooHigh: more pixels than were prepared.
        Stopped: should_stop() said so.
    """
    device, manifest = torch.device(device), data.manifest
    if len(data) < LEAST_IMAGES:
        raise TooFewImages(f"{len(data)} images are too few to measure a model by; at least {LEAST_IMAGES} are needed")
    study = split(manifest).study
    images = data.load(resolution, device)
    by_labels = manifest.classes is not None and len(study) >= LEAST_PER_CLASS * len(manifest.classes)
    card = ExtractorCard(
        resolution=resolution,
        channels=1 if manifest.channels == 1 else 3,
        lesson="labels" if by_labels else "contrast",
        classes=manifest.classes if by_labels else None,
        data=fingerprint(manifest),
        images=len(study),
        seed=seed,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derived_seed(seed, "extractor"))
        network = FeatureNetwork(resolution, manifest.channels, len(card.classes or ()) or PROJECTION)
    network = network.to(device).to(memory_format=torch.channels_last)
    teach(
        network,
        images,
        study,
        label_loss if by_labels else contrast_loss,
        lesson_images=lesson_images or LESSON_IMAGES,
        seed=seed,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    _standardise(network, images, study)
    return Extractor(network, card, _sha256(network))


def fingerprint(manifest: Manifest) -> str:
    """A hash of every image's hash and label, in order: what makes two data sets the same."""
    digest = hashlib.sha256(f"{manifest.resolution} {manifest.channels} {manifest.classes}".encode())
    for image in manifest.images:
        digest.update(f" {image.sha256} {image.label}".encode())
    return digest.hexdigest()


@torch.inference_mode()
def _standardise(network: FeatureNetwork, images: TrainingImages, study: Tensor) -> None:
    """Give every feature mean 0 and variance 1 over the study part, so that distances mean about the same for all data sets."""
    parts = [network.look(images.batch(indices)[0])[0] for indices in torch.split(study, _READ_AT_ONCE)]
    embedded = torch.cat(parts).double()
    network.mean.copy_(embedded.mean(dim=0))
    network.scale.copy_(embedded.std(dim=0).clamp(min=1e-3))  # a feature that says nothing is not blown up


def _sha256(network: FeatureNetwork) -> str:
    """What the seal of the weights will say."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return hashlib.sha256(safetensors.torch.save(state)).hexdigest()
