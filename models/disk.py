"""Files that are whole or absent, and a full disk in our own words."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from models.errors import OutOfSpace, PrepareError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # no room on the disk, in the quota, or within a limit


def new_file_for(final: Path) -> tuple[Path, BinaryIO]:
    """An empty file of any name beside the final one, open for writing and reading."""
    descriptor, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.name}-")
    return Path(name), os.fdopen(descriptor, "w+b")


def put_in_place(temporary: Path, file: BinaryIO, final: Path) -> None:
    """Syncs and closes a finished file and gives it its name, replacing what had it."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    temporary.chmod(0o644)  # mkstemp let only this user read it
    temporary.replace(final)
    if os.name == "posix":
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Turns what the system says while writing there into ours.

    Raises:
        OutOfSpace: the disk is full.
        PrepareError: it cannot be written to for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OutOfSpace(f"the disk of {directory} is full; free some space and import again") from error
        raise PrepareError(f"cannot write to {directory}: {error.strerror or error}") from error
