"""How hyper-parameters go over a training's budget.

The fraction of the budget that is spent, 0 to 1, is all that a schedule reads, so that it fits budgets in images and
in seconds.
"""

from __future__ import annotations

import math

from models.options import Schedule

FLOOR = 0.01  # of the step size, at the end of a cosine


def cosine(start: float, end: float, fraction: float, *, until: float = 1.0) -> float:
    """From `start` to `end` along half a cosine, reached at `until` of the budget.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation (5), one period.
    """
    done = min(1.0, fraction / until)
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def step_share(schedule: Schedule, fraction: float) -> float:
    """What the step size is multiplied with; a plateau's own cuts come on top (`models.plateau`)."""
    return cosine(1.0, FLOOR, fraction) if schedule == "cosine" else 1.0
