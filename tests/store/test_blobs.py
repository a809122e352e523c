"""Blobs: one contract for the directory and its twin, and what only a directory can get wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import flushing
from store.blobs import Blobs, LocalBlobs
from store.errors import BlobNotFound, BlobsUnavailable, StorageFull
from store.flushing import FEW

KEY = "images/job_1/000000.png"


@pytest.fixture
def local(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


def files_below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def write_half(blobs: Blobs) -> None:
    with blobs.writer(KEY) as file:
        file.write(b"half")
        raise KeyError("mine")


# The contract


def test_what_was_put_is_there_and_can_be_read_in_every_way(blobs: Blobs, tmp_path: Path) -> None:
    blobs.put(KEY, b"picture")

    assert blobs.get(KEY) == b"picture"
    assert blobs.size(KEY) == 7
    assert blobs.exists(KEY)
    assert blobs.fetch(KEY, tmp_path / "cache").read_bytes() == b"picture"
    with blobs.reader(KEY) as file:
        file.seek(4)
        assert file.read() == b"ure"


def test_a_second_put_replaces_the_first(blobs: Blobs) -> None:
    blobs.put(KEY, b"long before")
    blobs.put(KEY, b"after")

    assert blobs.get(KEY) == b"after"


@pytest.mark.parametrize("count", [1, 5])
def test_many_are_put_at_once_and_replace_what_was_there(blobs: Blobs, count: int) -> None:
    blobs.put("images/a/0", b"before")
    wanted = {f"images/{'ab'[number % 2]}/{number}": bytes([number]) * 10 for number in range(count)}

    blobs.put_many(wanted)

    assert blobs.keys("images") == sorted(wanted)
    assert {key: blobs.get(key) for key in wanted} == wanted


def test_a_file_is_copied_not_taken(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"kept")

    blobs.put_file(KEY, source)
    source.write_bytes(b"changed")

    assert blobs.get(KEY) == b"kept"


def test_a_writer_s_blob_appears_when_its_block_ends(blobs: Blobs) -> None:
    with blobs.writer(KEY) as file:
        file.write(b"one ")
        file.write(b"two")
        assert not blobs.exists(KEY)

    assert blobs.get(KEY) == b"one two"


def test_a_writer_that_raises_leaves_what_was_there_before(blobs: Blobs) -> None:
    blobs.put(KEY, b"before")

    with pytest.raises(KeyError, match="mine"):
        write_half(blobs)

    assert blobs.get(KEY) == b"before"
    assert blobs.keys("images") == [KEY]


def test_a_caller_s_own_error_about_files_is_not_taken_for_the_storage_s(blobs: Blobs) -> None:
    blobs.put(KEY, b"x")

    with pytest.raises(FileNotFoundError), blobs.writer("other"):
        raise FileNotFoundError("the caller's own")
    with pytest.raises(TimeoutError), blobs.reader(KEY):
        raise TimeoutError("the caller's own")


@pytest.mark.parametrize("key", ["nothing", "images", "images/job_1", f"{KEY}/below"])
def test_reading_what_is_no_blob_says_so(blobs: Blobs, key: str, tmp_path: Path) -> None:
    blobs.put(KEY, b"x")

    assert not blobs.exists(key)
    with pytest.raises(BlobNotFound):
        blobs.get(key)
    with pytest.raises(BlobNotFound):
        blobs.size(key)
    with pytest.raises(BlobNotFound), blobs.reader(key):
        pass
    if not key.startswith("images") or key.startswith(KEY):  # a folder of blobs can be fetched
        with pytest.raises(BlobNotFound):
            blobs.fetch(key, tmp_path / "cache")


def test_a_folder_lists_and_fetches_what_is_below_it_and_nothing_beside_it(blobs: Blobs, tmp_path: Path) -> None:
    for key in ("models/a/2.json", "models/a/1/x", "models/ab", "models/b/y"):
        blobs.put(key, key.encode())

    assert blobs.keys("models/a") == ["models/a/1/x", "models/a/2.json"]
    assert blobs.keys("models/ab") == ["models/ab"]
    assert blobs.keys("elsewhere") == []
    fetched = blobs.fetch("models/a", tmp_path / "cache")
    assert files_below(fetched) == ["1/x", "2.json"]
    assert (fetched / "1/x").read_bytes() == b"models/a/1/x"


def test_deleting_takes_a_blob_or_all_below_a_folder_and_twice_is_no_error(blobs: Blobs) -> None:
    for key in ("models/a/1", "models/a/2", "models/ab", "single"):
        blobs.put(key, b"x")

    for _ in range(2):
        blobs.delete("models/a")
        blobs.delete("single")

    assert blobs.keys("models") == ["models/ab"]
    assert not blobs.exists("single")


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", "/a", ".", "..", ".hidden", "a/.hidden", "a\\b", "a\0b", "ä",
     "a b", "a\n", "~root", "-rf", "C:x"],
)  # fmt: skip
def test_a_key_that_could_lead_elsewhere_is_refused_by_every_method(blobs: Blobs, key: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.touch()
    calls = (
        lambda: blobs.put(key, b""), lambda: blobs.put_file(key, source), lambda: blobs.get(key),
        lambda: blobs.size(key), lambda: blobs.exists(key), lambda: blobs.keys(key), lambda: blobs.delete(key),
        lambda: blobs.fetch(key, tmp_path), lambda: blobs.writer(key).__enter__(), lambda: blobs.reader(key).__enter__(),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match="is no blob key"):
            call()


def test_an_empty_blob_is_a_blob(blobs: Blobs) -> None:
    blobs.put(KEY, b"")

    assert blobs.exists(KEY)
    assert blobs.get(KEY) == b""


def test_many_threads_write_and_list_and_delete_at_once(blobs: Blobs) -> None:
    failures: list[BaseException] = []

    def churn(name: str) -> None:
        try:
            for number in range(40):
                blobs.put(f"folder/{name}/{number}", b"x")
                blobs.keys("folder")
                blobs.delete("folder" if number % 5 == 0 else f"folder/{name}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=churn, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


def test_storage_that_can_be_written_to_answers(blobs: Blobs) -> None:
    blobs.ping()


# The directory alone


def test_a_reader_during_a_replacement_sees_the_old_or_the_new_whole(local: LocalBlobs) -> None:
    old, new = b"o" * 300_000, b"n" * 300_000
    local.put(KEY, old)
    seen = set()
    done = threading.Event()

    def replace() -> None:
        for number in range(20):
            local.put(KEY, old if number % 2 else new)
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    while not done.is_set():
        seen.add(local.get(KEY))
    writer.join()

    assert seen <= {old, new}


def test_a_writer_that_raises_leaves_no_file_behind(local: LocalBlobs) -> None:
    with pytest.raises(KeyError):
        write_half(local)

    assert files_below(local.root) == []


def test_a_blob_is_flushed_to_the_disk_before_it_gets_its_name_and_new_folders_after(
    local: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.put("first", b"")
    synced: list[str] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        in_scratch = path.is_file() and path.parent.name == ".incoming"
        synced.append("unnamed file" if in_scratch else path.relative_to(local.root.parent).as_posix())
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("only Linux tells which file a descriptor is")
    monkeypatch.setattr(os, "fsync", spy)
    local.put(KEY, b"x")
    local.put("images/job_1/000001.png", b"x")

    # The first needs its new folders too, the second only its own entry.
    first = ["unnamed file", "blobs", "blobs/images", "blobs/images/job_1"]
    assert synced == [*first, "unnamed file", "blobs/images/job_1"]


def test_many_new_blobs_get_their_names_first_and_one_flush_then_but_those_that_replace_others_are_flushed_before(
    local: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.put("images/old", b"")
    synced: list[set[str]] = [set()]
    fsync, replace = os.fsync, os.replace

    def spy(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced[-1].add("unnamed file" if path.parent.name == ".incoming" else path.relative_to(local.root).as_posix())
        fsync(descriptor)

    def named(path: str, target: str) -> None:
        synced.append(set())
        replace(path, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("only Linux tells which file a descriptor is")
    monkeypatch.setattr(os, "fsync", spy)
    monkeypatch.setattr(os, "replace", named)
    local.put_many({"images/new": b"x"})
    local.put_many({"images/old": b"x"})

    assert synced == [set(), {"images/new", "images", "unnamed file"}, {"images/old", "images"}]


def test_files_of_killed_writers_are_swept_once_they_are_old(local: LocalBlobs) -> None:
    killed = (
        "import sys, os, pathlib; from store.blobs import LocalBlobs\n"
        "with LocalBlobs(pathlib.Path(sys.argv[1])).writer('a') as file: file.write(b'x'); file.flush(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", killed, local.root], check=False).returncode == 9
    [left] = files_below(local.root)
    with local.writer("b") as file:
        local.sweep()
        assert len(files_below(local.root)) == 2  # young: its writer may live
        os.utime(local.root / left, (0, 0))
        local.sweep()
        file.write(b"unharmed")

    assert files_below(local.root) == ["b"]
    assert local.keys("a") == []


def test_a_file_that_the_system_s_limit_does_not_allow_is_storage_full(tmp_path: Path) -> None:
    """A stand-in for a full disk that needs no root: the system refuses to write beyond this size."""
    child = """
import pathlib, resource, sys
from store.blobs import LocalBlobs
from store.errors import StorageFull
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
blobs = LocalBlobs(pathlib.Path(sys.argv[1]))
blobs.put("fits", bytes(50_000))
for write in (lambda: blobs.put("a", bytes(200_000)), lambda: blobs.put("b", bytes(100_001))):
    try:
        write()
    except StorageFull as error:
        print(error)
try:
    with blobs.writer("c") as file:
        for _ in range(100):
            file.write(bytes(3_000))
except StorageFull as error:
    print(error)
"""
    root = tmp_path / "blobs"
    done = subprocess.run([sys.executable, "-c", child, root], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [f"no space is left to store {key}; free some and try again" for key in "abc"]
    assert files_below(root) == ["fits"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_storage_full_and_what_was_there_stays(full_disk: Path) -> None:
    blobs = LocalBlobs(full_disk)
    blobs.put("fits", bytes(10_000))

    with pytest.raises(StorageFull, match="no space is left to store big"):
        blobs.put("big", bytes(100_000))
    with pytest.raises(StorageFull), blobs.writer("fits") as file:
        file.write(bytes(100_000))

    assert files_below(full_disk) == ["fits"]
    blobs.put("small", bytes(10_000))  # the failed ones have given their room back


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_only_when_flushed_is_storage_full(
    number: int, local: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageFull):
        local.put(KEY, b"x")

    assert files_below(local.root) == []


@pytest.mark.parametrize("count", [1, FEW + 1])
def test_what_can_t_be_flushed_is_told_before_anybody_is_told_of_the_keys(
    count: int, local: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_files: object, _folders: object = ()) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(flushing, "flush", refuse)
    with pytest.raises(StorageFull):
        local.begin_many({f"images/{number}": b"x" for number in range(count)})()


def test_a_directory_that_can_t_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    blobs = LocalBlobs(tmp_path / "file" / "blobs")

    with pytest.raises(BlobsUnavailable):
        blobs.ping()
    with pytest.raises(BlobsUnavailable):
        blobs.put(KEY, b"x")


def test_a_folder_deleted_under_a_writer_is_made_again(local: LocalBlobs) -> None:
    with local.writer(KEY) as file:
        file.write(b"x")
        local.put("images/job_1/other", b"x")
        local.delete("images")

    assert local.keys("images") == [KEY]


@pytest.mark.parametrize("count", [1, 5])
def test_many_on_a_full_disk_leave_nothing_half_written(local: LocalBlobs, count: int) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); import signal; "
    limit += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    code = (
        f"{limit}from pathlib import Path; from store.blobs import LocalBlobs; from store.errors import StorageFull\n"
        f"try: LocalBlobs(Path({str(local.root)!r})).put_many({{f'images/{{k}}': b'x' * 9000 for k in range({count})}})\n"
        "except StorageFull: print('full')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "full\n"
    assert files_below(local.root) == []
