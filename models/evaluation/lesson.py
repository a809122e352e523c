"""How a small network is taught: by labels or by telling pictures apart, for so many images, whatever the machine's speed.

Shapes: N batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.data import TrainingImages
from models.errors import Stopped
from models.evaluation.network import FeatureNetwork
from models.randomness import EndlessShuffle, derived_generator

BATCH = 128
LEARNING_RATE = 4e-3

OnProgress = Callable[[int, int], None]  # images done, images in all
ShouldStop = Callable[[], bool]
#: Of images, float [N, C, H, W], and labels, int64 [N] or None, with a random generator for their distortion.
Loss = Callable[[FeatureNetwork, Tensor, Tensor | None, torch.Generator], Tensor]


def teach(
    network: FeatureNetwork,
    images: TrainingImages,
    study: Tensor,
    loss_of: Loss,
    *,
    lesson_images: int,
    seed: int,
    batch_size: int = BATCH,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> None:
    """Teach a network in place, by AdamW with a step that rises over a tenth of the lesson and falls to 0 by a cosine.

    Args:
        network: what learns; left in evaluation mode.
        images: where it learns from.
        study: int64 [N], the indices of those images that it sees.
        loss_of: label_loss or contrast_loss.
        lesson_images: how many images it sees, each counted as often as it is seen.
        seed: decides order and distortions.
        batch_size: images in a step; the smaller, the more steps a lesson has.
        on_progress: called after every batch.
        should_stop: asked before every batch.

    Raises:
        Stopped: should_stop() said so.
    """
    random, order = derived_generator(seed, "lesson"), EndlessShuffle(len(study), seed)
    size = min(batch_size, len(study))
    steps = math.ceil(lesson_images / size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05, fused=True)
    network.train()
    for step in range(steps):
        if should_stop is not None and should_stop():
            raise Stopped("stopped while the extractor was learning; nothing was kept")
        batch, labels = images.batch(study[order.at(step * size, size)])
        loss = loss_of(network, batch.contiguous(memory_format=torch.channels_last), labels, random)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * _step_share((step + 0.5) / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch's own gap
        optimizer.step()
        if on_progress is not None:
            on_progress((step + 1) * size, steps * size)
    network.eval()


def _step_share(done: float) -> float:
    """The share of the largest step, 0 to 1, when so much of the lesson is done."""
    return done / 0.1 if done < 0.1 else (1 + math.cos(math.pi * (done - 0.1) / 0.9)) / 2
