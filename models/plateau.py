"""A step size that halves whenever a loss has stopped falling.

Reading a loss waits for the device, so it is done once in a while, at counts of images alone: the same run halves at the same
steps, whatever the clock says.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

WINDOW_IMAGES = 5_000  # whose mean loss is compared
PATIENCE_WINDOWS = 4  # without a better one, before the step size is halved
LEAST_GAIN = 1e-3  # of the best mean's size, that counts as better
LEAST_SHARE = 1 / 64  # of the first step size


class Plateau:
    """Watches one loss.

    Its state is a handful of numbers on the CPU, kept in a checkpoint like any other tensor.
    """

    def __init__(self) -> None:
        self.share = 1.0  # what the step size is multiplied with
        self._best = sys.float_info.max
        self._waited = 0  # windows since the best one
        self._window = 0  # number of the window that is being summed
        self._sum: Tensor | float = 0.0
        self._steps = 0

    def add(self, loss: Tensor, images_seen: int) -> None:
        """Count one step's loss, a scalar of any device; `images_seen` includes the step."""
        window = images_seen // WINDOW_IMAGES
        if window != self._window and self._steps:
            self._judge(float(self._sum) / self._steps)
            self._sum, self._steps = 0.0, 0
        self._window = window
        self._sum = self._sum + loss.detach().double()
        self._steps += 1

    def _judge(self, mean: float) -> None:
        if mean < self._best - LEAST_GAIN * abs(mean):
            self._best, self._waited = mean, 0
            return
        self._waited += 1
        if self._waited >= PATIENCE_WINDOWS:
            self.share, self._waited = max(LEAST_SHARE, self.share / 2), 0

    def state(self) -> Tensor:
        """All that has to be kept, float64 [6]."""
        values = (self.share, self._best, self._waited, self._window, float(self._sum), self._steps)
        return torch.tensor(values, dtype=torch.float64)

    def restore(self, state: Tensor) -> None:
        """Go back to what state() gave."""
        self.share, self._best, waited, window, self._sum, steps = state.tolist()
        self._waited, self._window, self._steps = int(waited), int(window), int(steps)
