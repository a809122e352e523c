"""What the classifier reads in generated pictures: the labels that were asked for, and clear, varied ones at that.

Shapes: N images, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def control_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of pictures in which the classifier reads the label that they were made for.

    Args:
        logits: [N, K].
        labels: int64 [N], as asked for.

    Source: the accuracy of generated images under a classifier of real ones, Odena, Olah and Shlens 2017, arXiv:1610.09585,
    section 4.1. For the reverse, taught by generated and tested on real ones, see models.evaluation.accuracy.
    """
    return float((logits.argmax(dim=1) == labels).double().mean())


def inception_score(logits: Tensor) -> float:
    """exp E_x KL(p(y|x) || p(y)): 1 when all pictures read alike, up to K when each reads clearly and all classes are even.

    Args:
        logits: [N, K] of our own classifier, which is why the result is called IS-domain and not IS.

    Source: Salimans et al. 2016, arXiv:1606.03498, section 4; over all images at once, not in ten parts.
    """
    log_reading = F.log_softmax(logits.double(), dim=1)
    log_marginal = torch.logsumexp(log_reading, dim=0) - torch.log(torch.tensor(len(logits), dtype=torch.float64))
    divergence = (log_reading.exp() * (log_reading - log_marginal)).sum(dim=1)
    return float(divergence.mean().exp())
