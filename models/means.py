"""Means of what a training says at every step, kept where it is said: nothing waits for a device until they are read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Means:
    """The mean of each named number since it was last read, over the steps that had one of that name."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Count one step's numbers: scalars of any device, with their graphs or without, or plain ones."""
        for name, value in values.items():
            plain = value.detach() if isinstance(value, Tensor) else value
            before = self._sums.get(name)
            self._sums[name] = plain if before is None else before + plain
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """The means, in the order of their names' first appearance, and begin anew: here the device is waited for, once."""
        on_device = {name: total for name, total in self._sums.items() if isinstance(total, Tensor)}
        sums: dict[str, float] = {name: total for name, total in self._sums.items() if not isinstance(total, Tensor)}
        if on_device:
            read = torch.stack([total.double() for total in on_device.values()]).tolist()
            sums |= dict(zip(on_device, read, strict=True))
        means = {name: sums[name] / self._counts[name] for name in self._sums}
        self._sums, self._counts = {}, {}
        return means
