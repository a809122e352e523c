"""Room on a disk: looked at before there is none, for those who ask whether all is well."""

from __future__ import annotations

import shutil
from pathlib import Path

from store.errors import StorageFull

LEAST_BYTES = 2**20  # with less nothing worth keeping can be written


def check_room(place: Path, what: str) -> None:
    """Returns when the disk of `place` has room for a megabyte.

    Args:
        place: a file or directory that is there.
        what: is kept there, for the message.

    Raises:
        StorageFull: it has not.
        OSError: it can't be looked at.
    """
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < LEAST_BYTES:
        raise StorageFull(f"the disk of {what} is full: {free_bytes:,} bytes are left at {place}; free some space")
