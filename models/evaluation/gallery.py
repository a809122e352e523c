"""Pictures that another program made, to be measured as a generator's are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Gallery:
    """Stands where a generator would: it answers for its kind, and holds its pictures instead of developing them."""

    kind: str  # what made them
    images: Tensor  # uint8 [N, C, H, W], square
    images_seen: int  # by what made them, in training
    images_per_s: float  # they were made at
    classes: None = None  # pictures that were made already cannot be asked for by label

    @property
    def resolution(self) -> int:
        """Pixels on a side."""
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.images.shape[1]
