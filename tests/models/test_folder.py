"""Folders are listed whole and read file by file; links and pipes lead nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models.entries import Limits
from models.errors import LimitExceeded, Refused
from models.folder import Folder


def filled(directory: Path, *names: str) -> Path:
    for name in names:
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return directory


def refusals(directory: Path, limits: Limits | None = None) -> dict[str, str | None]:
    return {entry.path: entry.refusal for entry in Folder(directory, limits or Limits()).entries}


def test_files_are_listed_by_path_and_read_whole_or_in_part(tmp_path: Path) -> None:
    folder = Folder(filled(tmp_path / "set", "b/2.png", "a/1.png", "a.png"), Limits())
    assert folder.name == "set"
    assert [entry.path for entry in folder.entries] == ["a.png", "a/1.png", "b/2.png"]
    assert [folder.read(entry, folder.meter()) for entry in folder.entries] == [b"a.png", b"a/1.png", b"b/2.png"]
    assert folder.read(folder.entries[0], folder.meter(), at_most_bytes=2) == b"a."


def test_what_systems_leave_behind_is_not_listed(tmp_path: Path) -> None:
    assert refusals(filled(tmp_path, ".git/1.png", "a/.2.png", "a/Thumbs.db", "__MACOSX/3.png", "a/1.png")) == {
        "a/1.png": None
    }


def test_a_folder_reached_by_a_hidden_path_is_not_hidden(tmp_path: Path) -> None:
    assert refusals(filled(tmp_path / ".cache/set", "1.png")) == {"1.png": None}


def test_links_that_lead_outside_are_refused_and_their_targets_never_read(tmp_path: Path) -> None:
    filled(tmp_path, "secret.png", "secrets/1.png")
    folder = filled(tmp_path / "set", "1.png")
    (folder / "up.png").symlink_to("../secret.png")
    (folder / "absolute.png").symlink_to(tmp_path / "secret.png")
    (folder / "folder").symlink_to(tmp_path / "secrets")
    outside = "a link that leads outside the folder: put the file itself there"
    assert refusals(folder) == {"1.png": None, "absolute.png": outside, "folder": outside, "up.png": outside}


def test_links_to_files_inside_are_read_and_links_to_folders_are_not(tmp_path: Path) -> None:
    folder = filled(tmp_path / "set", "a/1.png")
    (folder / "again.png").symlink_to("a/1.png")
    (folder / "b").symlink_to("a")
    (folder / "loop").symlink_to(".")
    files = Folder(folder, Limits())
    not_followed = "a link to a folder: it is not followed"
    assert refusals(folder) == {"a/1.png": None, "again.png": None, "b": not_followed, "loop": not_followed}
    assert files.read(files.entries[1], files.meter()) == b"a/1.png"


def test_broken_links_and_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.png").symlink_to("nothing.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    assert all(reason and reason.startswith("cannot be read") for reason in refusals(tmp_path).values())


def test_a_file_that_becomes_a_link_after_listing_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, "secret.png", "set/1.png")
    files = Folder(tmp_path / "set", Limits())
    (tmp_path / "set/1.png").unlink()
    (tmp_path / "set/1.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(Refused, match="cannot be read"):
        files.read(files.entries[0], files.meter())


def test_pipes_are_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    filled(tmp_path, "1.png")
    files = Folder(tmp_path, Limits())
    assert refusals(tmp_path) == {"1.png": None, "pipe.png": "not a regular file"}
    (tmp_path / "1.png").unlink()
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(Refused, match="not a regular file"):
        files.read(files.entries[0], files.meter())


def test_a_file_that_vanishes_after_listing_is_refused(tmp_path: Path) -> None:
    files = Folder(filled(tmp_path, "1.png"), Limits())
    (tmp_path / "1.png").unlink()
    with pytest.raises(Refused, match="cannot be read: No such file or directory"):
        files.read(files.entries[0], files.meter())


def test_files_larger_than_allowed_are_refused_also_when_they_grow(tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(bytes(2048))
    (tmp_path / "growing.png").write_bytes(bytes(10))
    files = Folder(tmp_path, Limits(max_file_bytes=1024))
    big, growing = files.entries
    assert big.refusal == "too large: 2 KiB, at most 1 KiB"
    (tmp_path / "growing.png").write_bytes(bytes(2048))
    with pytest.raises(Refused, match="too large: more than 1 KiB"):
        files.read(growing, files.meter())


def test_too_many_files_end_the_import(tmp_path: Path) -> None:
    filled(tmp_path, *(f"{index % 2}/{index}.png" for index in range(11)))
    assert len(refusals(tmp_path, Limits(max_entries=11))) == 11
    with pytest.raises(LimitExceeded, match="more than 10 files"):
        Folder(tmp_path, Limits(max_entries=10))


def test_names_that_are_no_text_are_listed_and_read(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff\xfe.png")).write_bytes(b"data")
    except OSError:
        pytest.skip("this file system takes only names that are text")
    files = Folder(tmp_path, Limits())
    assert files.entries[0].path == "\ufffd\ufffd.png"
    assert files.read(files.entries[0], files.meter()) == b"data"
