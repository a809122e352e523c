"""Does a model repeat the pictures it learnt from?

Shapes: N images, F features; distances are Euclidean in the extractor's features, whose variance over real images is 1 each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluation.neighbours import nearest

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Memorisation:
    """How near generated images come to training images, against what is usual between real ones.

    `to_training` and `to_held_out` look among equally many images, so that they may be compared. Quantiles are keyed by their
    share, "0.01" to "0.75".
    """

    n_training: int  # training images among which copies are looked for
    n_held_out: int
    held_out_unseen: bool  # whether the model is known not to have learnt from the held-out images
    to_training: dict[str, float]  # quantiles: from a generated image to the nearest of n_held_out training images
    to_held_out: dict[str, float]  # quantiles: from a generated image to the nearest held-out image
    real_to_training: dict[str, float]  # quantiles: from a held-out image to the nearest of n_held_out training images
    closer_to_training: float  # share nearer to a training than to a held-out image; about 0.5 for a model that has not
    # memorised, and for any model that has learnt from both
    copy_distance: float  # that 99 % of held-out images keep from every training image
    copies: float  # share nearer to some training image than that; about 0.01 for new real images


def memorisation(generated: Tensor, training: Tensor, held_out: Tensor, *, held_out_unseen: bool) -> Memorisation:
    """Compare the distance to the nearest training image with that to the nearest held-out one, and with real images' own.

    A model that generalises is no nearer to what it has seen than to what it has not, and no nearer than new real images
    are. The second comparison holds even where the model has seen the held-out images too.

    Args:
        generated: [M, F].
        training: [N, F], from images that the model learnt from, none of which is also held out.
        held_out: [H, F].
        held_out_unseen: whether the model is known not to have learnt from the held-out images.

    Source: the comparison with a held-out set as in Meehan et al. 2020, arXiv:2004.05675, section 2, by shares and quantiles
    instead of their test statistic.
    """
    fair = training[: len(held_out)]
    to_training, to_held_out = nearest(generated, fair), nearest(generated, held_out[: len(fair)])
    to_any, real_to_any = nearest(generated, training), nearest(held_out, training)
    copy_distance = real_to_any.quantile(0.01)
    closer = (to_training < to_held_out).double() + (to_training == to_held_out).double() / 2
    return Memorisation(
        n_training=len(training),
        n_held_out=len(held_out),
        held_out_unseen=held_out_unseen,
        to_training=_quantiles(to_training),
        to_held_out=_quantiles(to_held_out),
        real_to_training=_quantiles(nearest(held_out, fair)),
        closer_to_training=float(closer.mean()),
        copy_distance=float(copy_distance),
        copies=float((to_any < copy_distance).double().mean()),
    )


def _quantiles(distances: Tensor) -> dict[str, float]:
    values = distances.quantile(torch.tensor(QUANTILES, dtype=distances.dtype)).tolist()
    return {str(share): value for share, value in zip(QUANTILES, values, strict=True)}
