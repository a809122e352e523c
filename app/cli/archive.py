"""A folder of pictures as one zip file, or an archive as it is, to send."""

from __future__ import annotations

import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from app.client import ClientError


@contextmanager
def archive_of(path: Path, on_progress: Callable[[int, int], None]) -> Iterator[BinaryIO]:
    """The archive to send: the file itself, or a temporary zip of everything in the folder.

    Args:
        path: a zip, a tar, or a folder whose subfolders are the classes.
        on_progress: told the number of files packed, and of all files.

    Raises:
        ClientError: there is nothing to send, or it can't be read.
    """
    try:
        if path.is_dir():
            with tempfile.TemporaryFile(prefix="darkroom-", suffix=".zip") as file:
                _pack(path, file, on_progress)
                file.seek(0)
                yield file
        else:
            with path.open("rb") as file:
                if not zipfile.is_zipfile(file) and not tarfile.is_tarfile(path):
                    raise ClientError(
                        "not_an_archive",
                        f"{path} is no zip and no tar file",
                        remedy="give a folder of pictures, or a zip or a tar of one",
                    )
                file.seek(0)
                yield file
    except OSError as error:
        raise ClientError("unreadable", f"{error.filename or path} can't be read: {error.strerror}") from error


def _pack(folder: Path, file: BinaryIO, on_progress: Callable[[int, int], None]) -> None:
    members = [member for member in sorted(folder.rglob("*")) if member.is_file() and not _hidden(member, folder)]
    if not members:
        raise ClientError("empty_folder", f"{folder} holds no files", remedy="give a folder of pictures")
    # Stored, not deflated: pictures are compressed already.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
        for number, member in enumerate(members, 1):
            archive.write(member, member.relative_to(folder).as_posix())
            on_progress(number, len(members))


def _hidden(member: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in member.relative_to(folder).parts)
