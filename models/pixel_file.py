"""The file of all pixels, written image by image: raw uint8 [N, C, H, W] in C order, without a header.

The array is never whole in memory. Its shape stands in the manifest, which is written after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from models.decode import Pixels
from models.disk import new_file_for, put_in_place, writing

PIXELS_NAME = "images.u8"
_BLOCK_IMAGES = 256


class PixelFile:
    """Collects images in a temporary file; `finish` gives it its name. Use it in a `with` statement.

    Args:
        directory: where the file will be.
        resolution: pixels on a side of every image.
        channels: of the file; None: 1 until the first colour image comes, and from then on 3, for those before it too.

    Raises:
        OutOfSpace, PrepareError: by every method, where the disk will not take it.
    """

    def __init__(self, directory: Path, resolution: int, channels: int | None) -> None:
        self.channels = channels or 1
        self._may_turn = channels is None
        self._final = directory / PIXELS_NAME
        self._resolution = resolution
        with writing(directory):
            self._temporary, self._file = new_file_for(self._final)

    def __enter__(self) -> PixelFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what was not finished need not reach the disk
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink()

    def append(self, pixels: Pixels) -> None:
        """Writes one image, uint8 [C, H, W]; a grey one is repeated where the file is in colour."""
        if pixels.shape[0] > self.channels:
            if not self._may_turn:
                raise ValueError(f"an image of {pixels.shape[0]} channels for a file of {self.channels}")
            self._turn_to_colour()
        if pixels.shape[0] < self.channels:
            pixels = np.repeat(pixels, self.channels, axis=0)
        with writing(self._final.parent):
            self._file.write(pixels.tobytes())

    def blocks(self) -> Iterator[Pixels]:
        """What has been written, as uint8 [n, C, H, W], in order."""
        with writing(self._final.parent):
            self._file.seek(0)
        while True:
            with writing(self._final.parent):
                block = self._file.read(self.image_bytes * _BLOCK_IMAGES)
            if not block:
                return
            yield np.frombuffer(block, np.uint8).reshape(-1, self.channels, self._resolution, self._resolution)

    def keep(self, places: Sequence[int]) -> None:
        """Drops every image but those at these places, which are in order."""
        with writing(self._final.parent):
            for place, former in enumerate(places):
                if place != former:
                    self._file.seek(former * self.image_bytes)
                    pixels = self._file.read(self.image_bytes)
                    self._file.seek(place * self.image_bytes)
                    self._file.write(pixels)
            self._file.truncate(len(places) * self.image_bytes)

    @property
    def image_bytes(self) -> int:
        return self.channels * self._resolution**2

    def finish(self) -> None:
        """Puts the file in its place, on the disk for good."""
        with writing(self._final.parent):
            put_in_place(self._temporary, self._file, self._final)

    def _turn_to_colour(self) -> None:
        """Rewrites what is there with three channels, a block of images at a time."""
        grey, grey_file = self._temporary, self._file
        plane_bytes = self._resolution**2
        with writing(self._final.parent):
            self._temporary, self._file = new_file_for(self._final)
            try:
                grey_file.seek(0)
                while block := grey_file.read(plane_bytes * _BLOCK_IMAGES):
                    planes = np.frombuffer(block, np.uint8).reshape(-1, 1, plane_bytes)  # [N, 1, H W]
                    self._file.write(np.repeat(planes, 3, axis=1).tobytes())
            finally:
                with suppress(OSError):
                    grey_file.close()
                grey.unlink(missing_ok=True)
        self.channels = 3
