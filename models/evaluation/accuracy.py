"""Classifier accuracy score: how well can one learn the classes of real pictures from generated ones alone?

Shapes: N and M images, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.data import TrainingImages, scaled
from models.evaluation.lesson import OnProgress, ShouldStop, teach
from models.evaluation.network import FeatureNetwork, label_loss
from models.evaluation.reading import control_accuracy
from models.randomness import derived_seed

LESSON_IMAGES = 5_000  # seen by each of the two classifiers; bounds the cost whatever N is
LARGEST_PX = 32  # pictures are scaled down to this; bounds the cost whatever their size is
LEAST_PER_CLASS = 20  # pictures to learn from, on average; with fewer, luck decides
BATCH = 32  # a short lesson needs many steps more than it needs smooth ones
MOST_TESTED = 2_000  # real pictures, the first; more cost time and change the third digit
_READ_AT_ONCE = 256


def classifier_accuracy_score(
    images: Tensor,
    labels: Tensor,
    real_images: Tensor,
    real_labels: Tensor,
    *,
    classes: int,
    seed: int,
    device: str | torch.device = "cpu",
    lesson_images: int | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> float:
    """Teach a new small classifier some pictures and their labels, and test it on real ones.

    It falls where pictures do not show their labels, and where they show but a part of what real ones of that label show.
    Compare it with the same taught by as many real pictures: the paper's classifiers are larger, learn longer and see more
    pixels, so values mean nothing without that.

    Args:
        images: uint8 [N, C, H, W], to learn from.
        labels: int64 [N], as asked for.
        real_images: uint8 [M, C, H, W], to be tested on; the first MOST_TESTED are used.
        real_labels: int64 [M].
        classes: K.
        seed: decides weights, order and distortions.
        device: where to compute.
        lesson_images: how many images it sees, each counted as often as it is seen. None: LESSON_IMAGES.
        on_progress: called after every batch.
        should_stop: asked before every batch.

    Returns:
        the share of real images read right, 0 to 1.

    Raises:
        Stopped: should_stop() said so.

    Source: Ravuri and Vinyals 2019, arXiv:1905.10887, section 3.
    """
    real_images, real_labels = real_images[:MOST_TESTED], real_labels[:MOST_TESTED]
    side = min(images.shape[2], LARGEST_PX)
    images, real_images = (part if part.shape[2] == side else scaled(part, side) for part in (images, real_images))
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derived_seed(seed, "classifier"))
        network = FeatureNetwork(side, images.shape[1], classes)
    network = network.to(device).to(memory_format=torch.channels_last)
    teach(
        network,
        TrainingImages(images, labels.to(device), device),
        torch.arange(len(images)),
        label_loss,
        lesson_images=lesson_images or LESSON_IMAGES,
        seed=seed,
        batch_size=BATCH,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    return _accuracy(network, TrainingImages(real_images, real_labels.to(device), device))


@torch.inference_mode()
def _accuracy(network: FeatureNetwork, real: TrainingImages) -> float:
    read, meant = [], []
    for indices in torch.split(torch.arange(len(real)), _READ_AT_ONCE):
        batch, labels = real.batch(indices)
        assert labels is not None
        read.append(network.look(batch)[1].cpu())
        meant.append(labels.cpu())
    return control_accuracy(torch.cat(read), torch.cat(meant))
