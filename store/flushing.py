"""Bringing files and directories to the disk, so that they outlive a power cut."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FEW = 2  # so many files are flushed one by one; syncfs(2) may have others' writes to flush as well

_flushers = ThreadPoolExecutor(2 * FEW, thread_name_prefix="flusher")  # threads come with the first use


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


def flush(files: Collection[Path], folders: Collection[Path] = ()) -> None:
    """Brings written files, and what their folders call them, to the disk; returns once all are there."""
    if len(files) > FEW and _sync_filesystem(next(iter(files))):
        return
    # Side by side they share the disk's own flush.
    flushed = [_flushers.submit(_sync_file, file) for file in files]
    flushed += [_flushers.submit(sync_directory, folder) for folder in folders]
    for one in flushed:
        one.result()


def _sync_file(path: Path) -> None:
    try:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    except FileNotFoundError:
        return  # deleted already


def _sync_filesystem(path: Path) -> bool:
    """Flushes all of the filesystem that the file lies on; False where the system has no such call."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        return False
    with path.open("rb") as file:
        if syncfs(file.fileno()) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return True
