"""Files that are whole or not there, and whose damage is seen: tensors as safetensors, the rest as JSON.

A file's seal is its length and its hash, kept in another file beside it. Reading checks it before a byte is interpreted. A
directory becomes visible under its name only when everything in it has reached the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from models.disk import FULL
from models.errors import BadCheckpoint, CheckpointError, DiskFull, NewerFormat

Record = TypeVar("Record", bound=BaseModel)

KNOWN_FORMAT = 1  # of every record that says which it has
MOST_JSON_BYTES = 16 * 1024 * 1024
_UNFINISHED = ".unfinished-"  # prefix of directories that are still being written


class Seal(BaseModel):
    """What a file must look like to be believed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Seal:
    """Write tensors as safetensors, down to the disk."""
    return write(
        path, safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    )


def read_tensors(path: Path, seal: Seal) -> dict[str, Tensor]:
    """Read what write_tensors wrote.

    Raises:
        BadCheckpoint: the file is absent, or not the one that was sealed.
    """
    try:
        return safetensors.torch.load(read(path, seal))
    except (SafetensorError, ValueError, KeyError, struct.error) as error:
        raise BadCheckpoint(f"{path} is not a safetensors file: {error}") from error


def write_json(path: Path, content: BaseModel) -> Seal:
    """Write a record as JSON, down to the disk."""
    return write(path, (json.dumps(content.model_dump(mode="json"), indent=1) + "\n").encode())


def read_json(path: Path, record: type[Record], seal: Seal | None = None) -> Record:
    """Read and check what write_json wrote.

    Raises:
        NewerFormat: a later release wrote it.
        BadCheckpoint: the file is absent, torn, too large, or says something that this version does not understand.
    """
    if path.exists() and path.stat().st_size > MOST_JSON_BYTES:
        raise BadCheckpoint(f"{path} is of {path.stat().st_size:,} bytes, no record has more than {MOST_JSON_BYTES:,}")
    content = read(path, seal)
    try:
        return record.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        if (found := _format_of(content)) > KNOWN_FORMAT:
            raise NewerFormat(
                f"{path} is of format {found}, and this release knows {KNOWN_FORMAT}; "
                "use the release that wrote it, or a later one"
            ) from error
        raise BadCheckpoint(f"{path} cannot be used: {place}: {first['msg']}") from error


def _format_of(content: bytes) -> int:
    """The format that a record says it has; 0 where it says none."""
    try:
        said = json.loads(content)["format"]
    except (ValueError, TypeError, LookupError, RecursionError):  # the last of what is nested without end
        return 0
    return said if isinstance(said, int) else 0


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Give a directory to write into, and rename it to `path` once its files are on the disk; on an error leave nothing.

    Raises:
        DiskFull: the disk is full.
        CheckpointError: it may not be written to.
    """
    unfinished = path.parent / f"{_UNFINISHED}{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        yield unfinished
        _sync_directory(unfinished)
        unfinished.rename(path)
        _sync_directory(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            raise DiskFull(f"cannot write {path}: {reason}; make room there") from error
        raise CheckpointError(f"cannot write {path}: {reason}; make room or permit writing there") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(directory: Path) -> None:
    """Remove what a killed process had begun to write in `directory`."""
    for path in directory.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def write(path: Path, content: bytes) -> Seal:
    """Write bytes, down to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Seal(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def read(path: Path, seal: Seal | None) -> bytes:
    """A file's bytes, checked against its seal where there is one.

    Raises:
        BadCheckpoint: the file is absent, or not the one that was sealed.
    """
    try:
        if seal is not None and path.stat().st_size != seal.bytes:
            raise BadCheckpoint(f"{path} is torn: {path.stat().st_size:,} bytes, should be {seal.bytes:,}")
        content = path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read: {error.strerror}") from error
    if seal is not None and hashlib.sha256(content).hexdigest() != seal.sha256:
        raise BadCheckpoint(f"{path} is damaged: its bytes are not those that were written")
    return content


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
