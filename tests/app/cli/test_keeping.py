"""`darkroom backup`, `restore` and `gc` on a data directory, as an operator uses them."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from store.blobs import LocalBlobs
from store.database import Database
from store.records import Dataset, DatasetStatus

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        text = capsys.readouterr()
        return int(ended.value.code or 0), text.out, text.err

    return run


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data set, and an orphan."""
    data_dir = tmp_path / "data"
    database, blobs = Database(f"sqlite:///{data_dir / 'darkroom.db'}"), LocalBlobs(data_dir / "blobs")
    database.migrate()
    with database.transaction() as session:
        session.add(Dataset(id="ds_1", name="d", status=DatasetStatus.READY))
    database.close()
    blobs.put_many({"datasets/ds_1/pixels.bin": b"12345", "datasets/ds_2/pixels.bin": b"123"})
    return data_dir


def read(run: Run, *arguments: object) -> Any:
    status, out, err = run(*arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def test_what_is_backed_up_can_be_verified_and_restored_elsewhere(run: Run, data_dir: Path, tmp_path: Path) -> None:
    made = read(run, "backup", "backup", "--data-dir", data_dir)
    assert (made["blobs"], made["tables"]["datasets"]["rows"], made["missing"]) == (1, 1, [])
    assert read(run, "backup", "backup", "--verify") == made
    status, out, _ = run("restore", "backup", "--data-dir", "new")
    assert status == 0
    assert "restored" in out
    assert LocalBlobs(tmp_path / "new" / "blobs").get("datasets/ds_1/pixels.bin") == b"12345"
    assert read(run, "gc", "--data-dir", "new", "--dry-run")["kept_bytes"] == {"datasets": 5}


def test_a_restore_onto_data_or_under_a_running_service_is_refused(run: Run, data_dir: Path, tmp_path: Path) -> None:
    read(run, "backup", "backup", "--data-dir", data_dir)
    status, _, err = run("restore", "backup", "--data-dir", data_dir)
    assert (status, "has rows already" in err) == (2, True)
    (tmp_path / "new").mkdir()
    with (tmp_path / "new" / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, _, err = run("restore", "backup", "--data-dir", "new")
    assert (status, "already runs" in err) == (2, True)


def test_a_damaged_backup_is_named(run: Run, data_dir: Path, tmp_path: Path) -> None:
    read(run, "backup", "backup", "--data-dir", data_dir)
    for path in (tmp_path / "backup" / "objects").rglob("*"):
        if path.is_file() and path.read_bytes() == b"12345":
            path.write_bytes(b"54321")
    status, _, err = run("backup", "backup", "--verify")
    assert (status, "datasets/ds_1/pixels.bin" in err) == (2, True)


def test_garbage_is_shown_then_removed(run: Run, data_dir: Path) -> None:
    blobs = LocalBlobs(data_dir / "blobs")
    assert read(run, "gc", "--data-dir", data_dir)["removed"] == []  # it was written just now
    os.utime(data_dir / "blobs" / "datasets" / "ds_2" / "pixels.bin", (0, 0))
    found = read(run, "gc", "--data-dir", data_dir, "--dry-run")
    assert (found["dry_run"], found["removed"]) == (True, ["datasets/ds_2/pixels.bin"])
    assert blobs.exists("datasets/ds_2/pixels.bin")
    status, out, _ = run("gc", "--data-dir", data_dir)
    assert (status, "datasets" in out) == (0, True)
    assert not blobs.exists("datasets/ds_2/pixels.bin")


def test_rows_without_their_files_are_named_and_end_with_1(run: Run, data_dir: Path) -> None:
    LocalBlobs(data_dir / "blobs").delete("datasets/ds_1")
    status, _, err = run("gc", "--data-dir", data_dir)
    assert (status, "datasets/ds_1" in err) == (1, True)
    assert read(run, "backup", "backup", "--data-dir", data_dir)["missing"] == ["datasets/ds_1"]


@pytest.mark.parametrize("command", [["backup", "backup"], ["gc"]])
def test_a_wrong_data_directory_is_refused_and_not_made(run: Run, tmp_path: Path, command: list[str]) -> None:
    status, _, err = run(*command, "--data-dir", "nowhere")
    assert (status, "there is no Darkroom in" in err) == (2, True)
    assert not (tmp_path / "nowhere").exists()


def test_a_disk_of_blobs_that_is_not_mounted_is_said_and_costs_the_backup_before_nothing(
    run: Run, data_dir: Path, tmp_path: Path
) -> None:
    made = read(run, "backup", "backup", "--data-dir", data_dir)
    (data_dir / "blobs").rename(tmp_path / "elsewhere")
    (data_dir / "blobs").mkdir()  # the mount point

    for command in (["backup", "backup"], ["gc"]):
        status, _, err = run(*command, "--data-dir", data_dir)
        assert (status, "check whether its disk is mounted" in " ".join(err.split())) == (2, True), err

    assert read(run, "backup", "backup", "--verify") == made
