"""The manifest of prepared data: every file by name, its hash and label, where it was refused, the reason; and duplicates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from models.disk import new_file_for, put_in_place, writing
from models.errors import NotPrepared

MANIFEST_NAME = "manifest.json"
VERSION = 1  # of the manifest's and the pixel file's form


@dataclass(frozen=True)
class PreparedImage:
    """One image that was prepared; its place in the list is its place in the array."""

    path: str  # inside the source
    sha256: str  # of the file's bytes, hexadecimal
    label: int | None  # index into the classes; None when there are none


@dataclass(frozen=True)
class RefusedFile:
    """One file that was not used."""

    path: str  # inside the source
    reason: str  # for the file's owner


@dataclass(frozen=True)
class Duplicates:
    """Images that are there more than once, as groups of places in the list of images, each in order and of at least two."""

    exact: list[list[int]] = field(default_factory=list)  # their files are the same, byte for byte
    near: list[list[int]] = field(default_factory=list)  # they look the same, and not all of their files are the same

    def among(self, places: Sequence[int]) -> Duplicates:
        """Those that are left among these images, whose places are now those in this list."""
        now = {former: place for place, former in enumerate(places)}

        def left(groups: list[list[int]]) -> list[list[int]]:
            remaining = [[now[place] for place in group if place in now] for group in groups]
            return [group for group in remaining if len(group) > 1]

        return Duplicates(left(self.exact), left(self.near))


@dataclass(frozen=True)
class Manifest:
    """What a directory of prepared data holds. The same input gives the same manifest."""

    version: int
    resolution: int  # pixels on a side
    channels: int  # 1 grey, 3 RGB
    count: int  # images
    classes: list[str] | None  # sorted; None when unlabelled
    class_counts: list[int] | None  # images of each class, in the order of `classes`
    background: tuple[int, int, int]  # RGB that stands behind transparent pixels
    source_name: str
    images: list[PreparedImage]
    refused: list[RefusedFile]
    skipped: int = 0  # files that systems leave behind, such as .DS_Store, which are not named
    duplicates: Duplicates = Duplicates()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the array of pixels: [N, C, H, W]."""
        return self.count, self.channels, self.resolution, self.resolution

    def to_json(self) -> str:
        """The manifest as the text of its file."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest that `to_json` wrote.

        Raises:
            NotPrepared: the text is not such a manifest.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            if values["version"] != VERSION:
                raise NotPrepared(
                    f"the manifest is of version {values['version']}, this program reads {VERSION}; import again"
                )
            red, green, blue = values["background"]
            manifest = cls(
                **values
                | {
                    "background": (red, green, blue),
                    "images": [PreparedImage(**image) for image in values["images"]],
                    "refused": [RefusedFile(**file) for file in values["refused"]],
                    "duplicates": Duplicates(**values.get("duplicates", {})),
                }
            )
            grouped = chain.from_iterable(chain(manifest.duplicates.exact, manifest.duplicates.near))
            if not all(0 <= place < manifest.count for place in grouped):
                raise ValueError("its duplicates are no places of images")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise NotPrepared(f"the manifest is damaged ({type(error).__name__}: {error}); import again") from error
        if manifest.count != len(manifest.images):
            raise NotPrepared(
                f"the manifest counts {manifest.count} images and lists {len(manifest.images)}; import again"
            )
        return manifest

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """The manifest of a directory of prepared data.

        Raises:
            NotPrepared: there is none, or it is damaged.
        """
        try:
            text = (directory / MANIFEST_NAME).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise NotPrepared(f"no prepared data in {directory} ({error}); make it with `prepare`") from error
        return cls.from_json(text)

    def write(self, directory: Path) -> None:
        """Writes the manifest whole or not at all.

        Raises:
            OutOfSpace, PrepareError: the disk will not take it.
        """
        with writing(directory):
            temporary, file = new_file_for(directory / MANIFEST_NAME)
            try:
                file.write(self.to_json().encode())
                put_in_place(temporary, file, directory / MANIFEST_NAME)
            finally:
                file.close()
                temporary.unlink(missing_ok=True)
