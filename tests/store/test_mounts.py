"""Blobs whose disk is not there: away is not gone, and whoever is the first begins."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from store.blobs import Blobs, LocalBlobs
from store.errors import BlobsUnavailable, StorageFull

KEY = "images/job_1/000000.png"


@pytest.fixture
def mounted(small_disk: Path) -> LocalBlobs:
    """Blobs on a disk of their own, with one of them there."""
    blobs = LocalBlobs(small_disk)
    blobs.put(KEY, b"picture")
    return blobs


READS: dict[str, Callable[[Blobs], object]] = {
    "get": lambda blobs: blobs.get(KEY),
    "reader": lambda blobs: blobs.reader(KEY).__enter__(),
    "size": lambda blobs: blobs.size(KEY),
    "exists": lambda blobs: blobs.exists(KEY),
    "keys": lambda blobs: blobs.keys("images"),
    "fetch": lambda blobs: blobs.fetch(KEY, Path("nowhere")),
}
WRITES: dict[str, Callable[[Blobs], object]] = {
    "put": lambda blobs: blobs.put("new", b"x"),
    "put_many": lambda blobs: blobs.put_many({"new": b"x", "newer": b"y", "newest": b"z"}),
    "delete": lambda blobs: blobs.delete(KEY),
    "ping": lambda blobs: blobs.ping(),
}


def test_a_disk_that_is_no_longer_mounted_is_unavailable_and_nothing_is_written_beneath_its_mount_point(
    mounted: LocalBlobs,
) -> None:
    """Given a mount point whose disk vanished, I expect its blobs to be away, not gone, and none to be lost in its shadow."""
    subprocess.run(["umount", "-l", mounted.root], check=True)

    for name, call in {**READS, **WRITES}.items():
        with pytest.raises(BlobsUnavailable, match="check whether its disk is mounted"):
            call(mounted)
        assert list(mounted.root.iterdir()) == [], name


def test_another_process_sees_by_the_rows_that_the_disk_is_not_mounted(mounted: LocalBlobs) -> None:
    subprocess.run(["umount", "-l", mounted.root], check=True)
    restarted = LocalBlobs(mounted.root, may_begin=lambda: False)

    for call in (*READS.values(), *WRITES.values()):
        with pytest.raises(BlobsUnavailable, match="check whether its disk is mounted"):
            call(restarted)
    LocalBlobs(mounted.root, may_begin=lambda: True).ping()


def test_who_finds_nothing_while_another_process_begins_there_goes_on(tmp_path: Path) -> None:
    def begun_meanwhile() -> bool:
        LocalBlobs(tmp_path).put("images/first", b"y")
        return False  # its row is there already

    LocalBlobs(tmp_path, may_begin=begun_meanwhile).put(KEY, b"x")

    assert LocalBlobs(tmp_path).keys("images") == sorted([KEY, "images/first"])


def test_who_finds_nothing_while_another_thread_begins_there_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, is_dir, looks = LocalBlobs(tmp_path), Path.is_dir, itertools.count()

    def begun_meanwhile(path: Path) -> bool:
        if next(looks) > 0:
            return is_dir(path)
        found = is_dir(path)
        blobs.put("images/first", b"y")
        return found

    monkeypatch.setattr(Path, "is_dir", begun_meanwhile)
    blobs.put(KEY, b"x")

    assert blobs.keys("images") == sorted([KEY, "images/first"])


def test_a_disk_that_is_read_only_is_unavailable_for_writes_and_can_be_read(mounted: LocalBlobs) -> None:
    subprocess.run(["mount", "-o", "remount,ro", mounted.root], check=True)

    for name, call in WRITES.items():
        with pytest.raises(BlobsUnavailable):
            call(mounted)
        assert mounted.get(KEY) == b"picture", name
    subprocess.run(["mount", "-o", "remount,rw", mounted.root], check=True)
    for call in WRITES.values():
        call(mounted)


def test_a_disk_with_less_than_a_megabyte_left_says_so_before_it_is_full(mounted: LocalBlobs) -> None:
    mounted.ping()
    mounted.put("big", bytes(3_500_000))

    with pytest.raises(StorageFull, match="the disk of blobs is full"):
        mounted.ping()
