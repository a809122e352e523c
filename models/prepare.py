"""A folder, a zip or a tar of pictures becomes prepared data: one array of equal squares, and a manifest.

    images.u8      raw uint8 [N, C, H, W], C order
    manifest.json  its shape, the classes, every file with its hash and label, every refused file with the reason,
                   and which images are there more than once

No file's fault ends an import: it is refused by name, and the others go on. Every file is looked at twice, first at its
header alone, since the resolution and the classes depend on all of them. This module needs no PyTorch.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import median_low
from typing import TypeVar

from models.archive import Archive
from models.catalog import MAX_RESOLUTION, DuplicatePolicy
from models.crew import Crew
from models.decode import Colour
from models.decoders import Decoders
from models.disk import writing
from models.duplicates import find_duplicates
from models.entries import Limits, Source
from models.errors import InvalidOption, NoUsableImages, SourceMissing, Stopped
from models.folder import Folder
from models.labels import class_names
from models.manifest import MANIFEST_NAME, VERSION, Duplicates, Manifest, PreparedImage, RefusedFile
from models.pixel_file import PixelFile
from models.reading import Picture, Reader, Surveyor, portions
from models.tarball import Tarball, looks_like_tar

__all__ = ["RESOLUTIONS", "Limits", "Manifest", "PreparedImage", "RefusedFile", "prepare"]

RESOLUTIONS = (32, 64, 128, 256)  # pixels on a side that an import chooses among when none is asked for
MIN_RESOLUTION = 4  # pixels on a side

Item = TypeVar("Item")
Result = TypeVar("Result")

_DEFAULT_LIMITS = Limits()
_MAX_THREADS = 8
_PROGRESS_INTERVAL_S = 0.1


def prepare(
    source: Path,
    target: Path,
    *,
    resolution: int | None = None,
    channels: int | None = None,
    background: Colour = (255, 255, 255),
    duplicates: DuplicatePolicy = DuplicatePolicy.KEEP,
    limits: Limits = _DEFAULT_LIMITS,
    source_name: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Manifest:
    """Prepares the pictures of a folder or an archive for training; the same input gives the same bytes.

    Args:
        source: a folder; or a zip, or a tar (plain, gzip, bzip2, xz, zstd), whose members are read and never extracted.
        target: directory for the two files; made if need be. What was prepared there before is replaced at the end.
        resolution: pixels on a side, 4 to 256. None: the smallest of 32, 64, 128, 256 that is no less than the median
            short side, at most 256.
        channels: 1 grey, 3 RGB. None: 1 if every picture is grey all over, else 3.
        background: RGB, 0 to 255, that stands behind transparent pixels.
        duplicates: whether images that are there more than once are dropped; the first by path stays. They are reported.
        limits: how much may be read.
        source_name: the source's name in the manifest. None: its file name.
        on_progress: called with (files done, files in all) up to ten times a second, and when all are done.
        should_stop: asked between files and while waiting for one; True ends the import and leaves nothing behind.

    Returns:
        the manifest that was written.

    Raises:
        InvalidOption: resolution, channels or background is out of bounds.
        SourceMissing: there is nothing at `source`, or it cannot be read.
        NotAnArchive: `source` is a file, but no zip or tar.
        LimitExceeded: it holds more than `limits` allow as a whole.
        NoUsableImages: not one image was left.
        OutOfSpace: the disk is full.
        PrepareError: `target` cannot be written to.
        Stopped: should_stop said so.
    """
    _check_options(resolution, channels, background)
    progress = _Progress(on_progress, should_stop)
    with ExitStack() as stack:
        files = _open(source, limits, target, progress, stack)
        crew = stack.enter_context(Crew(min(_MAX_THREADS, os.cpu_count() or 2)))
        decoders = stack.enter_context(Decoders(limits))  # left before the crew, which may be waiting for one of them
        progress.total = len(files.entries)

        pictures, refused = _survey(files, decoders, crew, progress)
        resolution = resolution or _fitting([picture.header.short_side for picture in pictures])
        progress.advance(len(refused))
        with writing(target):
            target.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(PixelFile(target, resolution, channels))
        reader = Reader(files, decoders, resolution, channels, background)
        kept: list[_Kept] = []
        results = _worked(crew, reader, portions(pictures, lambda picture: picture.is_large), progress)
        for picture, result in zip(pictures, results, strict=True):
            if isinstance(result, RefusedFile):
                refused.append(result)
            else:
                file.append(result.pixels)
                kept.append(_Kept(picture, result.sha256))
            progress.advance(1)

        if not kept:
            raise _none_usable(files.name, refused)
        found = find_duplicates(file.blocks(), [kept_one.sha256 for kept_one in kept], progress.poll)
        kept, found = _without_duplicates(kept, refused, found, duplicates, file)
        manifest = _manifest(kept, refused, resolution, file.channels, background, source_name or files.name)
        manifest = replace(manifest, skipped=files.skipped, duplicates=found)
        with writing(target):
            # Without a manifest there is no prepared data: an old one never stands beside new pixels.
            (target / MANIFEST_NAME).unlink(missing_ok=True)
        file.finish()
        manifest.write(target)
    return manifest


@dataclass(frozen=True)
class _Kept:
    picture: Picture
    sha256: str

    @property
    def path(self) -> str:
        return self.picture.entry.path


@dataclass
class _Progress:
    """Tells the caller how far the import is, not too often, and asks whether to go on."""

    on_progress: Callable[[int, int], None] | None
    should_stop: Callable[[], bool] | None
    total: int = 0
    _done: int = 0
    _told_s: float = field(default=float("-inf"))

    def poll(self) -> None:
        if self.should_stop is not None and self.should_stop():
            raise Stopped(f"the import was stopped after {self._done} of {self.total} files")
        now_s = time.monotonic()
        if self.on_progress is not None and (self._done == self.total or now_s - self._told_s >= _PROGRESS_INTERVAL_S):
            self._told_s = now_s
            self.on_progress(self._done, self.total)

    def advance(self, count: int) -> None:
        self._done += count
        self.poll()


def _check_options(resolution: int | None, channels: int | None, background: Sequence[int]) -> None:
    if resolution is not None and not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
        raise InvalidOption(
            "resolution", f"{resolution} pixels on a side", f"integer from {MIN_RESOLUTION} to {MAX_RESOLUTION}"
        )
    if channels not in (None, 1, 3):
        raise InvalidOption("channels", f"{channels} channels", "1 for grey, 3 for RGB")
    if len(background) != 3 or not all(0 <= value <= 255 for value in background):
        raise InvalidOption("background", f"{tuple(background)}", "three integers from 0 to 255: red, green, blue")


def _open(source: Path, limits: Limits, target: Path, progress: _Progress, stack: ExitStack) -> Source:
    try:
        if source.is_dir():
            return Folder(source, limits)
        if source.is_file() and looks_like_tar(source):
            return stack.enter_context(Tarball(source, limits, target, progress.poll))
        if source.is_file():
            return stack.enter_context(Archive(source, limits))
    except PermissionError as error:
        raise SourceMissing(f"{source} cannot be read: {error.strerror}") from error
    raise SourceMissing(
        f"{source} is neither a folder nor a file; give the path of a folder, a zip or a tar of pictures"
    )


def _survey(
    files: Source, decoders: Decoders, crew: Crew, progress: _Progress
) -> tuple[list[Picture], list[RefusedFile]]:
    """Which files begin like images, each with its class, and which are refused before any is decoded."""
    pictures: list[Picture] = []
    refused: list[RefusedFile] = []
    for found in _worked(crew, Surveyor(files, decoders), portions(files.entries), progress):
        if isinstance(found, RefusedFile):
            refused.append(found)
        else:
            pictures.append(found)
    if not pictures:
        raise _none_usable(files.name, refused)
    names = class_names([picture.entry.path for picture in pictures])
    if names is None:
        return pictures, refused
    outside = "outside the class folders: move it into one of them"
    refused += [RefusedFile(p.entry.path, outside) for p, name in zip(pictures, names, strict=True) if name is None]
    pictures = [replace(p, class_name=name) for p, name in zip(pictures, names, strict=True) if name is not None]
    return pictures, refused


def _worked(
    crew: Crew, task: Callable[[list[Item]], list[Result]], portions: Iterable[list[Item]], progress: _Progress
) -> Iterator[Result]:
    return chain.from_iterable(crew.work(task, ([portion] for portion in portions), progress.poll))


def _fitting(short_sides: Sequence[int]) -> int:
    """The resolution that keeps what half of the images have, and makes up as little as possible."""
    middle = median_low(short_sides)
    return next((resolution for resolution in RESOLUTIONS if resolution >= middle), RESOLUTIONS[-1])


def _manifest(
    kept: Sequence[_Kept],
    refused: Sequence[RefusedFile],
    resolution: int,
    channels: int,
    background: Colour,
    source_name: str,
) -> Manifest:
    counts = Counter(kept_one.picture.class_name for kept_one in kept)
    # Refusals may have left a single class, which tells nothing.
    classes = sorted(name for name in counts if name is not None) if len(counts) > 1 else None
    number = {name: index for index, name in enumerate(classes or ())}
    return Manifest(
        version=VERSION,
        resolution=resolution,
        channels=channels,
        count=len(kept),
        classes=classes,
        class_counts=[counts[name] for name in classes] if classes is not None else None,
        background=background,
        source_name=source_name,
        images=[
            PreparedImage(picture.entry.path, sha256, number.get(picture.class_name or ""))
            for picture, sha256 in ((kept_one.picture, kept_one.sha256) for kept_one in kept)
        ],
        refused=sorted(refused, key=lambda file: (file.path, file.reason)),
    )


def _without_duplicates(
    kept: list[_Kept], refused: list[RefusedFile], found: Duplicates, policy: DuplicatePolicy, file: PixelFile
) -> tuple[list[_Kept], Duplicates]:
    """What is left of the images and of the groups once the policy's duplicates are dropped, which become refused."""
    first: dict[int, tuple[int, str]] = {}  # of each dropped image: the one that stays instead, and what they share
    if policy is DuplicatePolicy.DROP:
        first |= {index: (group[0], "looks the same as") for group in found.near for index in group[1:]}
    if policy is not DuplicatePolicy.KEEP:
        first |= {index: (group[0], "the same file as") for group in found.exact for index in group[1:]}
    if not first:
        return kept, found
    refused += [RefusedFile(kept[index].path, f"{what} {kept[other].path}") for index, (other, what) in first.items()]
    places = [index for index in range(len(kept)) if index not in first]
    file.keep(places)
    return [kept[index] for index in places], found.among(places)


def _none_usable(name: str, refused: Sequence[RefusedFile]) -> NoUsableImages:
    if not refused:
        return NoUsableImages(f"{name} holds no files; put pictures in it (PNG, JPEG, …)")
    (reason, count), *_ = Counter(file.reason for file in refused).most_common(1)
    return NoUsableImages(
        f"none of the {len(refused):,} files in {name} can be used; {count:,} of them: {reason}", refused=len(refused)
    )
