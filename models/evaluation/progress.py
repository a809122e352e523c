"""How far a measuring is, and whether it is to end."""

from __future__ import annotations

from collections.abc import Callable

from models.errors import Stopped

OnProgress = Callable[[int, int], None]  # pictures done, pictures in all; each kind of work counts every picture once
ShouldStop = Callable[[], bool]


class Progress:
    """Counts pictures, tells how far the work is, and ends it when asked to."""

    def __init__(self, total: int, on_progress: OnProgress | None, should_stop: ShouldStop | None) -> None:
        self.total, self.done = total, 0
        self._on_progress, self.stopping = on_progress, should_stop

    def advance(self, pictures: int) -> None:
        """Count pictures.

        Raises:
            Stopped: should_stop() said so.
        """
        self.done = min(self.total, self.done + pictures)
        if self._on_progress is not None:
            self._on_progress(self.done, self.total)
        if self.stopping is not None and self.stopping():
            raise Stopped("stopped while measuring; nothing was kept")

    def finish(self) -> None:
        """All is done, however the shares were rounded."""
        if self._on_progress is not None:
            self._on_progress(self.total, self.total)
