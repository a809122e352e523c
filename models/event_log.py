"""TensorBoard event files of a training, so that `tensorboard --logdir` shows it live.

Losses, gauges, scores and speed become scalars over the images seen, previews become images. Needs the `tensorboard` package.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from models.trainer import Tick

log = logging.getLogger(__name__)

FOLDER = "tensorboard"  # beside a run's checkpoints


def can_log() -> bool:
    """Whether the package that writes event files is installed."""
    return find_spec("tensorboard") is not None


class EventLog:
    """Writes ticks as they come; close it, or use it in a `with` block.

    Args:
        directory: for the event files; made when absent. Older ones in it stay: what they say beyond `images_seen` is hidden,
            since it happens once more.
        images_seen: of the checkpoint that the training goes on from; 0 at its start.
    """

    def __init__(self, directory: Path, *, images_seen: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to load, and not everybody has it

        self._begin = images_seen
        purge_step = images_seen + 1 if images_seen else None
        self._writer: Any = SummaryWriter(str(directory), purge_step=purge_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk
            self._writer.close()

    def on_tick(self, tick: Tick) -> None:
        """Write down what a tick tells; what was told before going on is not told again. A full disk ends no training."""
        try:
            self._write(tick)
        except OSError as error:
            log.warning("TensorBoard's files lack what happened after %s images: %s", f"{tick.images_seen:,}", error)

    def _write(self, tick: Tick) -> None:
        step = tick.images_seen
        if tick.preview is not None:
            self._writer.add_image(
                "preview", np.asarray(Image.open(tick.preview).convert("RGB")), step, dataformats="HWC"
            )
        if step <= self._begin or not tick.losses:
            return
        groups = {"loss": tick.losses, "gauge": tick.gauges, "score": tick.scores or {}}
        for group, values in groups.items():
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
        self._writer.add_scalar("speed/images_per_s", tick.images_per_s, step)
        self._writer.flush()
