"""Copies, to be judged by eye: the generated pictures that lie nearest to training pictures, each beside its neighbours.

Shapes: N training images, M generated ones, C channels, H W pixels, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.data import PreparedImages, scaled
from models.evaluation.neighbours import nearest_few
from models.generator import Generator
from models.png import encode, grid
from models.sampling import SampleItem, Sampler

ROWS = 12  # generated pictures that are shown
NEIGHBOURS = 5  # training pictures beside each
_LEAST_SIDE_PX = 64  # smaller pictures are shown with larger pixels


@dataclass(frozen=True)
class Neighbour:
    """A training picture near to a generated one."""

    index: int  # in the prepared data
    path: str  # of its file, as it was imported
    distance: float  # in the extractor's features


@dataclass(frozen=True)
class Suspect:
    """A generated picture that lies near to a training picture: its seed and label make it again."""

    seed: int
    label: int | None  # as it was asked for; None when the generator takes none, or it was drawn from the seed
    neighbours: tuple[Neighbour, ...]  # nearest first


def find_suspects(
    features: Tensor, training: Tensor, *, neighbours: int = NEIGHBOURS, rows: int = ROWS
) -> list[tuple[int, list[int], list[float]]]:
    """The generated pictures nearest to a training picture, each nearest to another one, so that a row is not shown twice.

    Args:
        features: [M, F], of the generated pictures.
        training: [N, F].
        neighbours: training pictures beside each; fewer where there are fewer.
        rows: generated pictures; fewer where fewer training pictures are anyone's nearest.

    Returns:
        index of the generated picture, indices of the training pictures, their distances; the most suspicious first.
    """
    distances, which = nearest_few(features, training, min(neighbours, len(training)))  # (M, k)
    found, taken = [], set()
    for index in distances[:, 0].argsort(stable=True).tolist():
        nearest = int(which[index, 0])
        if nearest not in taken:
            taken.add(nearest)
            found.append((index, which[index].tolist(), distances[index].tolist()))
        if len(found) == rows:
            break
    return found


def strips(suspects: Sequence[Suspect], generator: Generator, data: PreparedImages) -> bytes:
    """A PNG with a row for each suspect: first the generated picture, then its nearest training pictures.

    Args:
        suspects: of an evaluation, at least one.
        generator: that was measured; it makes the pictures again.
        data: that it learnt from.
    """
    made = Sampler(generator).sample([SampleItem(suspect.seed, suspect.label) for suspect in suspects])
    indices = [neighbour.index for suspect in suspects for neighbour in suspect.neighbours]
    real = torch.from_numpy(data.images[indices])  # uint8 [rows k, C, H, W]
    if data.manifest.resolution != generator.resolution:
        real = scaled(real, generator.resolution)
    beside = iter(real.numpy())
    pictures = []
    for suspect, picture in zip(suspects, made, strict=True):
        pictures += [picture.pixels, *(next(beside) for _ in suspect.neighbours)]
    scale = -(-_LEAST_SIDE_PX // generator.resolution)
    return encode(grid(pictures, 1 + len(suspects[0].neighbours), scale))
