"""How a job's work ends early, and what an exception means for its row.

WorkerError
├── Canceled     the job's cancel flag was seen
├── HandedBack   the worker is shutting down; the job goes back into the line
├── ChildFailed  a process that did the work said why it could not
└── Beyond       the job is of a later release than this worker
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from models.disk import FULL
from models.errors import DiskFull, ModelsError, NewerFormat, OutOfMemory, OutOfSpace, RankLost
from store.errors import BlobNotFound, StorageFull, StoreError, Unavailable

# What the system says of a disk, network share or process table that failed us, whatever we wanted of it.
AWAY = frozenset(
    {
        *(errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EHOSTDOWN),
        *(errno.EMFILE, errno.ENFILE),
    }
)
NO_ROOM = {DiskFull.__name__, OutOfSpace.__name__}

NO_MEMORY = ("out of memory", "can't allocate memory")


class WorkerError(Exception):
    """Base of every error that worker raises."""


class Canceled(WorkerError):
    """The job's cancellation was asked for, and the work has stopped."""


class HandedBack(WorkerError):
    """This worker is shutting down; another goes on with the job."""


class ChildFailed(WorkerError):
    """A process that did the work said why it could not.

    Args:
        name: of the error's class in models.
        message: its message.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class Beyond(WorkerError):
    """The job is of a later release than this worker; another may know what to do."""


def fault(error: BaseException) -> Unavailable | StorageFull | Beyond | None:
    """Return what is to blame besides the work: its surroundings, or this worker's age. None: the work itself.

    A job that meets one goes back into the line (docs/jobs.md).
    """
    if isinstance(error, (Unavailable, StorageFull, Beyond)):
        return error
    if isinstance(error, NewerFormat) or (isinstance(error, ChildFailed) and error.name == NewerFormat.__name__):
        return Beyond(str(error))
    if isinstance(error, (DiskFull, OutOfSpace)) or (isinstance(error, ChildFailed) and error.name in NO_ROOM):
        return StorageFull(str(error))
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return StorageFull(f"no space is left: {error}; free some and it goes on")
        if isinstance(cause, OSError) and cause.errno in AWAY:
            return Unavailable(f"the worker's disk can't be used: {error}")
        cause = cause.__cause__
    return None


@dataclass(frozen=True)
class Failure:
    """What a failed job's row says: a code for programs, a message for people, and whether trying again may help."""

    code: str
    message: str
    retryable: bool


def failure(error: Exception) -> Failure:
    """Return what to write into the row of a job whose work raised `error`."""
    if isinstance(error, StorageFull):
        return Failure("storage_full", str(error), retryable=True)
    if isinstance(error, Unavailable):
        return Failure("unavailable", str(error), retryable=True)
    if isinstance(error, Beyond):
        return Failure("newer_format", str(error), retryable=True)
    if isinstance(error, BlobNotFound):
        return Failure(
            "data_missing", f"{error}; its data set or model was probably deleted meanwhile", retryable=False
        )
    if isinstance(error, StoreError):
        return Failure("not_allowed", str(error), retryable=False)
    if isinstance(error, ModelsError):
        return Failure(_code(type(error).__name__), str(error), retryable=isinstance(error, (RankLost, OutOfMemory)))
    if isinstance(error, ChildFailed):
        return Failure(_code(error.name), str(error), retryable=False)
    if _is_out_of_memory(error):
        remedy = "choose a smaller batch_size, base_channels or resolution"
        return Failure("out_of_memory", f"the device ran out of memory ({error}); {remedy}", retryable=True)
    return Failure("internal", f"{type(error).__name__}: {error}; the worker's log has the details", retryable=True)


def _is_out_of_memory(error: Exception) -> bool:
    # By name and words, as this lane may hold no PyTorch: the CPU's allocator raises a plain RuntimeError.
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def _code(name: str) -> str:
    # NoUsableImages → no_usable_images
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
