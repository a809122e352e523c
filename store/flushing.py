"""Bringing files and directories to the disk, so that they outlive a power cut."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

FEW = 2  # so many files are flushed one by one; syncfs(2) may have others' writes to flush as well


def make_directory(directory: Path) -> None:
    """Makes a directory, and those above it, so that it outlives a power cut."""
    # Each new directory is an entry of its parent, which must be on the disk too.
    missing = [place for place in (directory, *directory.parents) if not place.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        sync_directory(place.parent)


def sync_directory(directory: Path) -> None:
    """Brings a directory's entries to the disk."""
    # The rename itself lasts through a power cut only once its directory is on the disk.
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except FileNotFoundError:
        return  # deleted already
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush(files: Sequence[Path]) -> None:
    """Brings written files to the disk: by one flush of their filesystem, where the system has such a call."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None) if len(files) > FEW else None
    if syncfs is None:
        for path in files:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        return
    with files[0].open("rb") as file:
        if syncfs(file.fileno()) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
