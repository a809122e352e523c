"""Folders are sent as zips, zips as they are."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from app.cli.archive import archive_of
from app.client import ClientError


def silent(done: int, total: int) -> None:
    """Nobody watches."""


def test_a_folder_becomes_a_zip_of_its_files_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("cats/one.png", "dogs/two.png", ".DS_Store", "cats/.cache/thumb.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    told: list[tuple[int, int]] = []

    with archive_of(tmp_path, lambda done, total: told.append((done, total))) as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["cats/one.png", "dogs/two.png"]
        assert archive.read("dogs/two.png") == b"dogs/two.png"
    assert told == [(1, 2), (2, 2)]


def test_a_file_older_than_zip_itself_is_packed(tmp_path: Path) -> None:

    (tmp_path / "old.png").write_text("old")
    os.utime(tmp_path / "old.png", (0, 0))

    with archive_of(tmp_path, silent) as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["old.png"]


def test_a_zip_is_sent_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "cats.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one.png", "one")

    with archive_of(path, silent) as file:
        assert file.read() == path.read_bytes()


def test_what_is_no_zip_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "cats.rar"
    path.write_text("Rar!")

    with pytest.raises(ClientError, match=r"cats\.rar is no zip"), archive_of(path, silent):
        raise AssertionError("not reached")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="holds no files"), archive_of(tmp_path, silent):
        raise AssertionError("not reached")
