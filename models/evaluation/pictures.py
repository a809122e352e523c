"""Sets of pictures that are compared, and the labels that generated ones are asked for.

Shapes: N images, C channels, H W pixels, F features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluation.gallery import Gallery
from models.evaluation.inception import Seen
from models.generator import Generator
from models.manifest import Manifest
from models.randomness import derived_generator


@dataclass(frozen=True)
class Pictures:
    """A set of pictures, and what the extractor sees in them."""

    images: Tensor  # uint8 [N, C, H, W]
    features: Tensor  # float64 [N, F]
    outputs: Tensor  # float32 [N, K]; logits where the extractor learnt labels
    labels: (
        Tensor | None
    )  # int64 [N], by the extractor's classes: of real pictures theirs, of generated those asked for

    inception: Seen | None = None  # None: no Inception file was given

    def __len__(self) -> int:
        return len(self.images)

    def part(self, start: int, size: int) -> Pictures:
        """`size` pictures from `start` on."""
        chosen = slice(start, start + size)
        labels = None if self.labels is None else self.labels[chosen]
        seen = None if self.inception is None else self.inception.part(start, size)
        return Pictures(self.images[chosen], self.features[chosen], self.outputs[chosen], labels, seen)


def asked_labels(
    generator: Generator | Gallery, manifest: Manifest, n: int, seed: int
) -> tuple[Tensor | None, Tensor | None]:
    """The labels to ask for, as often as the data has them and well mixed: by the generator's classes, and by the data's.

    None and None where the generator takes no labels, or others than the data has.
    """
    ours, theirs = generator.classes, manifest.classes
    if ours is None or theirs is None or manifest.class_counts is None or not set(theirs) <= set(ours):
        return None, None
    shares = torch.tensor(manifest.class_counts, dtype=torch.float64).cumsum(0) / sum(manifest.class_counts)
    of_data = torch.searchsorted(shares, (torch.arange(n, dtype=torch.float64) + 0.5) / n)
    of_data = of_data[torch.randperm(n, generator=derived_generator(seed, "labels"))]
    return torch.tensor([ours.index(name) for name in theirs])[of_data], of_data
