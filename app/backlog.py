"""The bound on images that wait: a line that grows faster than it is served helps nobody.

Counting them means looking at every unfinished job, so it is done at intervals; between two counts this process adds what
it let in. So its own requests never pass the bound. Where several API processes share a database, each may let in for one
interval (REFRESH_S) what the others just did. Images made since the last count still count, so at the bound the line is
counted again before anybody is refused, at most ten times a second, and never for more than a twentieth of the time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import QueueFull
from app.samplers import Samplers
from store.depth import images_waiting
from store.resources import Resources
from store.settings import PREFIX

REFRESH_S = 1.0  # age at which a count is no longer good enough to let in
RECOUNT_S = 0.1  # and to refuse
LEAST_IDLE = 20  # times as long as a count took, until the next one
RETRY_AFTER_S = 30  # where no sampler has reported how fast it is
LONGEST_RETRY_AFTER_S = 600


class Backlog:
    """Lets generations in while there is room. Any thread may ask."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self.samplers = Samplers(resources)
        self._limit = resources.settings.max_queued_images
        self._lock = threading.Lock()
        self._counted = 0  # images that waited at the last count
        self._since = 0  # let in since then
        self._coming = 0  # let in, and not yet committed
        self._counted_at = -math.inf  # monotonic seconds
        self._idle_s = 0.0  # until when after that no count is worth its time

    @contextmanager
    def place_for(self, images: int) -> Iterator[None]:
        """Keeps room for so many images while the block submits them.

        Raises:
            QueueFull: there is none; says when to come again.
        """
        with self._lock:
            waiting = self._waiting(images)
            if waiting + images <= self._limit:
                self._coming += images
                waiting = -1
        if waiting >= 0:
            raise self._full(waiting, images)
        submitted = False
        try:
            yield
            submitted = True
        finally:
            with self._lock:
                self._coming -= images
                self._since += images if submitted else 0

    def _waiting(self, images: int) -> int:
        age_s = time.monotonic() - self._counted_at
        has_room = self._counted + self._since + self._coming + images <= self._limit
        if age_s > max(self._idle_s, REFRESH_S if has_room else RECOUNT_S):
            began = time.monotonic()
            with self._resources.database.snapshot() as session:
                self._counted, self._since = images_waiting(session), 0
            self._counted_at = time.monotonic()
            self._idle_s = LEAST_IDLE * (self._counted_at - began)
        return self._counted + self._since + self._coming

    def _full(self, waiting: int, images: int) -> QueueFull:
        retry_after_s = self._seconds_for(waiting + images - self._limit)
        return QueueFull(
            f"{waiting:,} images wait already, and with {images:,} more they would be more than {self._limit:,}",
            remedy=f"ask again in {retry_after_s} s, for fewer images, or raise {PREFIX}MAX_QUEUED_IMAGES",
            retry_after_s=retry_after_s,
            more={"images_waiting": waiting, "limit": self._limit},
        )

    def _seconds_for(self, images: int) -> int:
        """How long all samplers together take for so many images, as they have fitted it from their latest batches."""
        images_per_s = self.samplers.images_per_s
        return max(1, min(LONGEST_RETRY_AFTER_S, math.ceil(images / images_per_s))) if images_per_s else RETRY_AFTER_S
