"""Every measure that applies, of one set of pictures beside the set that it is compared with.

Shapes: N images, C channels, H W pixels, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from models.evaluation import inception
from models.evaluation.accuracy import LEAST_PER_CLASS, LESSON_IMAGES, classifier_accuracy_score
from models.evaluation.frechet import frechet_distance
from models.evaluation.kernel import kernel_distance
from models.evaluation.neighbours import manifold
from models.evaluation.pictures import Pictures
from models.evaluation.progress import ShouldStop
from models.evaluation.reading import control_accuracy, inception_score
from models.evaluation.similarity import mean_pairwise_similarity
from models.evaluation.sliced import patch_distance
from models.randomness import derived_generator


@dataclass(frozen=True)
class Plan:
    """Which of the measures apply."""

    paired: bool  # pairs are compared within classes, and labels are read: the model was asked for the data's classes
    readable: bool  # the extractor knows the classes
    classes: int  # that a new classifier is taught; 0: none
    device: torch.device

    def teaches(self, count: int) -> bool:
        """Whether so many pictures are enough to learn their classes from."""
        return self.paired and self.classes > 1 and count >= LEAST_PER_CLASS * self.classes

    def lesson_pictures(self, count: int) -> int:
        """What a lesson costs, in pictures of other work."""
        return LESSON_IMAGES // 2 if self.teaches(count) else 0


def compare(
    pictures: Pictures, reference: Pictures, plan: Plan, seed: int, should_stop: ShouldStop | None
) -> Iterator[tuple[str, float, int]]:
    """Each measure's name and value, and what work it was, in pictures."""
    count = len(pictures)
    yield "fd_domain", frechet_distance(pictures.features, reference.features), round(0.05 * count)
    random = derived_generator(seed, "subsets")
    yield "kid", kernel_distance(pictures.features, reference.features, random=random)[0], round(0.25 * count)
    yield "swd", patch_distance(pictures.images, reference.images, seed=seed), round(0.4 * count)
    lie = manifold(reference.features, pictures.features)
    yield "precision", lie.precision, round(0.2 * count)
    yield "recall", lie.recall, 0
    yield "density", lie.density, 0
    yield "coverage", lie.coverage, 0
    if pictures.inception is not None and reference.inception is not None:
        yield "fid", frechet_distance(pictures.inception.features, reference.inception.features), inception.WORK
        yield "inception_score", inception.inception_score(pictures.inception.logits), 0
    labels = pictures.labels if plan.paired else None
    pairs = mean_pairwise_similarity(pictures.images, labels, random=derived_generator(seed, "pairs"))
    yield "ms_ssim", pairs, round(0.1 * count)
    if plan.readable:
        yield "is_domain", inception_score(pictures.outputs), 0
        if labels is not None:
            yield "control_accuracy", control_accuracy(pictures.outputs, labels), 0
    if plan.teaches(count) and labels is not None and reference.labels is not None:
        accuracy = classifier_accuracy_score(
            pictures.images,
            labels,
            reference.images,
            reference.labels,
            classes=plan.classes,
            seed=seed,
            device=plan.device,
            should_stop=should_stop,
        )
        yield "classifier_accuracy_score", accuracy, plan.lesson_pictures(count)
