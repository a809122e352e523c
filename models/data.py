"""Prepared data as training reads it: uint8 on the device, batches made by indexing, no image file opened again.

Legend: N images, C channels (1 grey, 3 RGB), H W pixels. Images are uint8 [0, 255] at rest and float32 [-1, 1] in a batch.

This module knows nothing of losses, budgets, or in which order images are seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from models.errors import NotPrepared, ResolutionTooHigh
from models.manifest import Manifest
from models.pixel_file import PIXELS_NAME

_SCALED_AT_ONCE = 256  # images; keeps the float copy small
_DEVICE_SHARE = 0.4  # of the device's free memory that images may take; the rest is for training


class PreparedImages:
    """A directory that `prepare` made, its pixels mapped into memory but not read.

    Args:
        manifest: what the directory holds.
        images: uint8 [N, C, H, W]; changing it does not change the file.
        labels: int64 [N], index into manifest.classes; None when there are no classes.
    """

    def __init__(self, manifest: Manifest, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64] | None) -> None:
        self.manifest = manifest
        self.images = images
        self.labels = labels

    @classmethod
    def open(cls, directory: Path) -> PreparedImages:
        """The prepared data of a directory.

        Raises:
            NotPrepared: there is none, or its two files do not belong together.
        """
        manifest = Manifest.read(directory)
        path = directory / PIXELS_NAME
        expected = int(np.prod(manifest.shape))
        found = path.stat().st_size if path.is_file() else 0
        if expected == 0 or found != expected:
            raise NotPrepared(f"{path} has {found:,} bytes where the manifest says {expected:,}; import again")
        # Copy on write: PyTorch asks for an array that may be written to, and the file must not change.
        images = np.memmap(path, np.uint8, mode="c", shape=manifest.shape)
        if manifest.classes is None:
            return cls(manifest, images, None)
        labels = [-1 if image.label is None else image.label for image in manifest.images]
        if not all(0 <= label < len(manifest.classes) for label in labels):
            raise NotPrepared(f"a label in {directory} is not of its {len(manifest.classes)} classes; import again")
        return cls(manifest, images, np.array(labels, np.int64))

    def __len__(self) -> int:
        return self.manifest.count

    def load(self, resolution: int, device: str | torch.device = "cpu") -> TrainingImages:
        """The images at a resolution, ready for batches on a device.

        They are kept on the device while they leave it most of its memory, else in the host's memory. At the resolution
        they were prepared at, the host keeps no copy but reads the mapped file.

        Args:
            resolution: pixels on a side, at most what was prepared; smaller ones are filtered, not skipped.
            device: where batches will be.

        Raises:
            ResolutionTooHigh: more pixels than were prepared.
        """
        prepared = self.manifest.resolution
        if resolution > prepared:
            raise ResolutionTooHigh(resolution, prepared)
        device = torch.device(device)
        pixels = torch.from_numpy(self.images)  # uint8 [N, C, H, W]
        if resolution < prepared:
            pixels = scaled(pixels, resolution)
        labels = None if self.labels is None else torch.from_numpy(self.labels).to(device)
        if device.type == "cuda" and pixels.numel() <= _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            pixels = pixels.to(device)
        return TrainingImages(pixels, labels, device)


class TrainingImages:
    """Images at one resolution, indexed into batches.

    Args:
        pixels: uint8 [N, C, H, W], on the device or on the host.
        labels: int64 [N] on the device, or None.
        device: where batches are made.
    """

    def __init__(self, pixels: Tensor, labels: Tensor | None, device: torch.device) -> None:
        self.pixels = pixels
        self.labels = labels
        self.device = device

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The images of these indices.

        Args:
            indices: int64 [n].

        Returns:
            float32 [n, C, H, W] in [-1, 1] and int64 [n] or None, both on the device.
        """
        images = self.pixels[indices.to(self.pixels.device)].to(self.device)
        labels = None if self.labels is None else self.labels[indices.to(self.device)]
        return images.float() / 127.5 - 1, labels


def scaled(pixels: Tensor, resolution: int) -> Tensor:
    """uint8 [N, C, H, W] at a smaller resolution, each new pixel weighing all that it covers."""
    smaller = torch.empty((*pixels.shape[:2], resolution, resolution), dtype=torch.uint8)
    for start in range(0, len(pixels), _SCALED_AT_ONCE):
        part = slice(start, start + _SCALED_AT_ONCE)
        filtered = interpolate(
            pixels[part].float(), size=(resolution, resolution), mode="bicubic", antialias=True, align_corners=False
        )
        smaller[part] = filtered.round().clamp(0, 255)
    return smaller
