"""Small blobs that share a flush of the disk: a flush for each would cost more than all their bytes."""

from __future__ import annotations

from store.blobs import Blobs

SMALL_BYTES = 2**20  # larger blobs are copied one by one, without being held in memory
MOST = 4096  # blobs of a batch …
MOST_BYTES = 64 * 2**20  # … and their size in all


class Batch:
    """Blobs that are about to be stored together.

    Args:
        blobs: where they are stored.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._waiting: dict[str, bytes] = {}
        self._size_bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._waiting

    def add(self, key: str, data: bytes) -> None:
        """Takes a blob, and stores all that wait once they are many."""
        self._waiting[key] = data
        self._size_bytes += len(data)
        if len(self._waiting) >= MOST or self._size_bytes >= MOST_BYTES:
            self.store()

    def store(self) -> None:
        """Stores what still waits."""
        self._blobs.put_many(self._waiting)
        self._waiting, self._size_bytes = {}, 0
