"""A folder of files as a source. Links never lead out of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from models.entries import Entry, Limits, Meter, check_entry_count, clean_path, in_bytes, in_order, is_clutter
from models.errors import Refused

# A file may have become a link or a pipe since it was listed: neither is followed, nor waited for.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Folder:
    """Every file below a directory, listed at once, read one by one.

    Args:
        root: the directory; may itself be reached through links.
        limits: what may be listed and read.

    Raises:
        LimitExceeded: it holds too many files.
    """

    def __init__(self, root: Path, limits: Limits) -> None:
        self.name = clean_path(root.name or root.resolve().name)
        self._root = root.resolve()
        self._limits = limits
        self.skipped = 0
        self._files: list[Path] = []  # by Entry.number, links already followed
        self.entries = self._list()

    def meter(self) -> Meter:
        """A fresh count for one pass over the files."""
        return Meter(self._limits)

    def read(self, entry: Entry, meter: Meter, at_most_bytes: int | None = None) -> bytes:
        """See entries.Source."""
        limit = self._limits.max_file_bytes
        try:
            with os.fdopen(os.open(self._files[entry.number], _OPEN_FLAGS), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise Refused("not a regular file")
                data = file.read(limit + 1 if at_most_bytes is None else min(at_most_bytes, limit + 1))
        except OSError as error:
            raise Refused(f"cannot be read: {error.strerror or error}") from error
        meter.add(len(data))
        if len(data) > limit:
            raise Refused(f"too large: more than {in_bytes(limit)}")
        return data

    def _list(self) -> list[Entry]:
        entries: list[Entry] = []

        def refuse_folder(error: OSError) -> None:
            path = clean_path(os.path.relpath(error.filename, self._root))
            entries.append(self._entry(path, Path(error.filename), 0, f"cannot be listed: {error.strerror}"))

        for folder, subfolders, names in os.walk(self._root, followlinks=False, onerror=refuse_folder):
            here = Path(folder)
            check_entry_count(len(entries) + len(names), self._limits)
            for name in (*names, *(name for name in subfolders if (here / name).is_symlink())):
                path = clean_path((here / name).relative_to(self._root).as_posix())
                if is_clutter(path):
                    self.skipped += 1
                else:
                    entries.append(self._inspect(path, here / name))
            listed = len(subfolders)
            subfolders[:] = [name for name in subfolders if not is_clutter(clean_path(name))]
            self.skipped += listed - len(subfolders)  # a folder counts as one, whatever it holds
        return in_order(entries)

    def _inspect(self, path: str, file: Path) -> Entry:
        """One entry from what the file system says, without opening the file."""
        try:
            status = file.lstat()
            if stat.S_ISLNK(status.st_mode):
                file = file.resolve(strict=True)
                if not file.is_relative_to(self._root):
                    return self._entry(path, file, 0, "a link that leads outside the folder: put the file itself there")
                status = file.lstat()
        except (OSError, RuntimeError) as error:  # a broken link, or links in a circle
            words = error.strerror if isinstance(error, OSError) and error.strerror else "links in a circle"
            return self._entry(path, file, 0, f"cannot be read: {words}")
        if stat.S_ISDIR(status.st_mode):
            return self._entry(path, file, 0, "a link to a folder: it is not followed")
        if not stat.S_ISREG(status.st_mode):
            return self._entry(path, file, 0, "not a regular file")
        return self._entry(path, file, status.st_size, None)

    def _entry(self, path: str, file: Path, size_bytes: int, refusal: str | None) -> Entry:
        self._files.append(file)
        if size_bytes > self._limits.max_file_bytes:
            refusal = f"too large: {in_bytes(size_bytes)}, at most {in_bytes(self._limits.max_file_bytes)}"
        return Entry(path, size_bytes, len(self._files) - 1, refusal)
