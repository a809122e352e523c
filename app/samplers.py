"""What this process knows of the samplers, by what they report; seldom looked up, since requests come many times a second."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from store.errors import RedisUnavailable
from store.queue import Lane
from store.reports import WorkerReport
from store.resources import Resources

LOOK_EVERY_S = 5.0


class Samplers:
    """The samplers of the whole service. Any thread may ask."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._found: Sequence[WorkerReport] = ()
        self._looked_at = -math.inf  # monotonic seconds

    @property
    def images_per_s(self) -> float:
        """How fast they are together, as they have fitted it from their latest batches; 0 where none has."""
        return sum(1 / report.image_s for report in self._reports() if report.image_s)

    @property
    def count(self) -> int:
        """How many there are; 0 also where that is unknown."""
        return len(self._reports())

    def _reports(self) -> Sequence[WorkerReport]:
        # Whoever asks may hold the database's lock, and Redis may be slow to say that it is away: seldom, then.
        if time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            try:
                reports = self._resources.reports.current()
            except RedisUnavailable:
                reports = []
            # One that was killed is still reported for a while, beside the one that took its place.
            samplers = sorted((one for one in reports if one.lane == Lane.SAMPLE), key=lambda one: one.started_at)
            self._found = list({report.place: report for report in samplers}.values())
        return self._found
