"""Bringing files and directories to the disk, so that they outlive a power cut."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

FEW = 2  # so many files are flushed one by one; syncfs(2) may have others' writes to flush as well

_flusher = ThreadPoolExecutor(1, thread_name_prefix="flusher")  # the thread comes with the first use


def make_directory(directory: Path) -> None:
    """Makes a directory, and those above it, so that it outlives a power cut."""
    # Each new directory is an entry of its parent, which must be on the disk too.
    missing = [place for place in (directory, *directory.parents) if not place.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        sync(place.parent)


def sync(path: str | Path) -> None:
    """Brings a file, or a directory's entries, to the disk; one that is gone by now is no error."""
    # A rename itself lasts through a power cut only once its directory is on the disk.
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush(files: Collection[str], folders: Collection[str] = ()) -> None:
    """Brings written files, and what their folders call them, to the disk; returns once all are there."""
    if len(files) > FEW and _sync_filesystem(next(iter(files))):
        return
    for place in (*files, *folders):
        sync(place)


def begin_flush(files: Collection[str], folders: Collection[str]) -> Callable[[], None]:
    """Flushes as `flush` does, a few files while others work; returns what to call to wait until all are on the disk."""
    if len(files) > FEW:  # with what others have written it may take long, and meanwhile a database may be locked
        flush(files, folders)
        return lambda: None
    return _flusher.submit(flush, files, folders).result


def _sync_filesystem(path: str) -> bool:
    """Flushes all of the filesystem that the file lies on; False where the system has no such call."""
    syncfs = getattr(_system(), "syncfs", None)
    if syncfs is None:
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
    return True


@cache
def _system() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
