"""Pauses: what a worker does when its surroundings fail it, rather than trying again at once."""

from __future__ import annotations

import threading

FIRST_S = 0.5
LONGEST_S = 30.0


class Pauses:
    """Each is twice as long as the one before, until something has gone well. Any thread may say so."""

    def __init__(self, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._next_s = first_s

    def take(self, until: threading.Event) -> bool:
        """Waits for the pause, or until the event is set; returns whether it is."""
        pause_s, self._next_s = self._next_s, min(self._longest_s, self._next_s * 2)
        return until.wait(pause_s)

    def reset(self) -> None:
        """Makes the next one short again."""
        self._next_s = self._first_s
