"""Which images of a data set are for what when a model of it is measured.

An image's part follows from the hash of its file: the same on every machine, whatever order or names the files have. Copies
of one file, and pictures that the import found to look the same, are never on both sides of a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.manifest import Manifest

STUDY_SHARE = 0.6  # of the images: the extractor learns from them, and copies are looked for among them
CONTROL_SHARE = 0.2  # stand in for generated images, to find the floor; what is left is the reference


@dataclass(frozen=True)
class Split:
    """The three parts of a data set, as indices int64 [n], each in the order of the hashes: any first few are a fair sample."""

    study: Tensor  # what the extractor learns from
    control: Tensor  # compared with the reference, they give the floor of every measure
    reference: Tensor  # what generated images are compared with


def split(manifest: Manifest) -> Split:
    """Cut a data set into its parts by the hashes of its files."""
    place, order = _places(manifest)
    ends = np.searchsorted(place[order], [STUDY_SHARE, STUDY_SHARE + CONTROL_SHARE])
    study, control, reference = (torch.from_numpy(part.copy()) for part in np.split(order, ends))
    return Split(study, control, reference)


def learnt_and_held_out(manifest: Manifest, share: float) -> tuple[Tensor, Tensor]:
    """What a training learns from when it holds a share of the images out: both int64 [n], the first in the data's order.

    Held out is the end of the reference, which no extractor learns from: what it is compared with, the model has not seen.
    """
    if share == 0:
        return torch.arange(len(manifest.images)), torch.empty(0, dtype=torch.int64)
    place, order = _places(manifest)
    first = int(np.searchsorted(place[order], 1 - share))
    return torch.from_numpy(np.sort(order[:first])), torch.from_numpy(order[first:].copy())


def _places(manifest: Manifest) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Where in [0, 1) each image lies by its hash or its group's, exact in a double, and the order that follows."""
    place = np.array([int(image.sha256[:13], 16) / 16**13 for image in manifest.images])
    for group in manifest.duplicates.near:
        place[group] = place[group].min()
    return place, np.argsort(place, kind="stable")
