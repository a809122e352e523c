"""Which images of a data set are for what when a model of it is measured.

An image's part follows from the hash of its file alone: the same on every machine, whatever order or names the files have,
and copies of one file are never on both sides of a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
    place = np.array([int(image.sha256[:13], 16) / 16**13 for image in manifest.images])  # [0, 1), exact in a double
    order = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[order], [STUDY_SHARE, STUDY_SHARE + CONTROL_SHARE])
    study, control, reference = (torch.from_numpy(part.copy()) for part in np.split(order, ends))
    return Split(study, control, reference)
