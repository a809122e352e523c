"""Pictures with 1,000 modes: three random grey pictures of a ten-class set, stacked as the channels of one.

Source: Metz et al. 2016, Unrolled Generative Adversarial Networks, arXiv:1611.02163, §3.3.1 (the set); Srivastava et al. 2017,
VEEGAN, arXiv:1705.07761, §5.1 (modes found, and the divergence of what is made from what there is). What differs: the digits
are clothes, and the classifier is the set's own feature extractor.

Shapes: N pictures, C grey classes, H W pixels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data import PreparedImages
from models.evaluation import Extractor
from models.manifest import PreparedImage
from models.pixel_file import PIXELS_NAME

CHANNELS = 3


@dataclass(frozen=True)
class Found:
    """Which modes some pictures show."""

    modes: int  # that at least one picture shows
    of: int  # that there are
    kl: float  # KL(shown || uniform), nats; a set of finite size is not at 0
    pictures: int

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def stacked(data: PreparedImages, count: int, seed: int) -> NDArray[np.uint8]:
    """Pictures of three channels, uint8 [N, 3, H, W], each a grey picture drawn by itself; every class is as likely.

    Args:
        data: grey, with classes.
        count: pictures to make.
        seed: decides which.
    """
    random = np.random.default_rng(seed)
    labels = np.array([image.label for image in data.manifest.images])
    members = [np.flatnonzero(labels == label) for label in range(len(data.manifest.classes or ()))]
    members = [member for member in members if len(member)]
    classes = random.integers(len(members), size=(count, CHANNELS))
    chosen = np.array([[random.choice(members[label]) for label in row] for row in classes])
    pixels: NDArray[np.uint8] = np.asarray(data.images)[chosen.reshape(-1), 0]
    return pixels.reshape(count, CHANNELS, *pixels.shape[1:])


def write(pixels: NDArray[np.uint8], grey: PreparedImages, target: Path) -> None:
    """Write stacked pictures as prepared data without labels.

    Args:
        pixels: uint8 [N, 3, H, W].
        grey: what they were stacked from.
        target: the directory to make.
    """
    target.mkdir(parents=True)
    pixels.tofile(target / PIXELS_NAME)
    images = [
        PreparedImage(f"{number:06d}.png", hashlib.sha256(picture.tobytes()).hexdigest(), None)
        for number, picture in enumerate(pixels)
    ]
    name = f"{grey.manifest.source_name}, stacked"
    replace(
        grey.manifest,
        channels=CHANNELS,
        count=len(images),
        classes=None,
        class_counts=None,
        source_name=name,
        images=images,
        refused=[],
    ).write(target)


def count_modes(classifier: Extractor, pictures: Tensor) -> Found:
    """Read each channel of uint8 [N, 3, H, W] by a classifier of grey pictures, and count.

    Args:
        classifier: the extractor of the labelled grey set.
        pictures: what was made.
    """
    classes = len(classifier.card.classes or ())
    _, logits = classifier.read(pictures.reshape(-1, 1, *pictures.shape[2:]))
    seen = logits.argmax(dim=1).reshape(-1, CHANNELS)
    place = (seen * torch.tensor([classes**2, classes, 1])).sum(dim=1)
    shown = torch.bincount(place, minlength=classes**CHANNELS).double()
    share = shown[shown > 0] / shown.sum()
    kl = float((share * (share * len(shown)).log()).sum())
    return Found(int((shown > 0).sum()), len(shown), kl, len(pictures))
