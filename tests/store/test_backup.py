"""Backups: made while the service works, whole whatever happens meanwhile, restored to either database."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from store import curves, jobs, kept
from store.backup import back_up
from store.blobs import Entry, LocalBlobs
from store.database import Database
from store.errors import BackupDamaged, BackupError
from store.manifest import MANIFEST, read_index, read_manifest, verify
from store.memory_blobs import MemoryBlobs
from store.records import (
    Dataset,
    DatasetStatus,
    Image,
    Job,
    JobKind,
    JobStatus,
    Model,
    Record,
    TrainingCheckpoint,
    TrainingMetric,
)
from store.restore import restore
from tests.store import desk
from tests.store.desk import NOW

OPTIONS = {"latent_dim": 8, "label": "naïve", "none": None}


def filled(database: Database, blobs: MemoryBlobs | LocalBlobs) -> None:
    """A data set, a model with a training that runs, and a generation with two images."""
    train = desk.claimed(database, JobKind.TRAIN, model_id="mdl_1", dataset_id="ds_1")
    sample = desk.claimed(database, JobKind.SAMPLE, model_id="mdl_1", checkpoint="models/mdl_1/1-1")
    desk.submit(database, JobKind.IMPORT, dataset_id="ds_2", idempotency=("key", "hash"))
    blobs.put("datasets/ds_1/pixels.bin", b"p" * 2_000_000)  # too large to be copied with others
    with database.transaction() as session:
        session.add(Dataset(id="ds_1", name="d\u00e9", status=DatasetStatus.READY, classes=[{"name": "0", "count": 2}]))
        model = Model(id="mdl_1", name="m", kind="k", resolution=8, channels=1, options=OPTIONS, seed=2**40, metrics={})
        session.add(model)
        checkpoint(session, blobs, model, 1)
        curves.add_point(
            session, "mdl_1", images_seen=1, elapsed_s=0.1, images_per_s=1e-300, losses={"D": 0.1 + 0.2}, gauges=None
        )
        jobs.advance(session, train, 1)
        for position in range(2):
            add_image(session, blobs, sample.job_id, position)


def checkpoint(session: Any, blobs: MemoryBlobs | LocalBlobs, model: Model, seen: int) -> None:
    prefix = f"models/{model.id}/{seen}-1"
    blobs.put_many({f"{prefix}/generator": b"g%d" % seen, f"{prefix}/state": b"s%d" % seen})
    kept.add_checkpoint(session, model, images_seen=seen, blob=prefix, scores=None, now=NOW, most=2)


def add_image(session: Any, blobs: MemoryBlobs | LocalBlobs, job_id: str, position: int) -> str:
    key, content = f"images/aa/{job_id}-{position:06d}.png", f"{job_id} {position}".encode()
    blobs.put(key, content)
    made = {"seed": 0, "width": 8, "height": 8, "size_bytes": len(content), "model_id": "mdl_1", "checkpoint": "c"}
    sha256 = hashlib.sha256(content).hexdigest()
    row = Image(id=f"img_{job_id[4:]}{position}", job_id=job_id, position=position, blob=key, sha256=sha256, **made)
    session.add(row)
    return row.id


def rows_of(database: Database) -> dict[str, list[Any]]:
    with database.snapshot() as session:
        return {
            table.name: [dict(row._mapping) for row in session.execute(select(table).order_by(*table.primary_key))]
            for table in Record.metadata.sorted_tables
        }


def contents(blobs: MemoryBlobs | LocalBlobs) -> dict[str, bytes]:
    return {entry.key: blobs.get(entry.key) for entry in blobs.entries()}


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Database]:
    database = Database(sqlite_url)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables, of each sort."""
    postgres = request.param == "postgres"
    database = Database(
        request.getfixturevalue("empty_postgres_url") if postgres else f"sqlite:///{tmp_path / 'other.db'}"
    )
    yield database
    database.close()


def test_what_is_backed_up_from_one_database_is_restored_to_any(
    database: Database, other: Database, tmp_path: Path
) -> None:
    blobs, restored = MemoryBlobs(), LocalBlobs(tmp_path / "blobs")
    filled(database, blobs)
    before = rows_of(database)

    made = back_up(database, blobs, tmp_path / "backup")
    assert verify(tmp_path / "backup") == made
    assert (made.missing, made.blobs, made.tables["images"].rows) == ([], 5, 2)
    restore(tmp_path / "backup", other, restored)

    other.ping()
    assert contents(restored) == contents(blobs)
    after = rows_of(other)
    # What ran is in the line again, and it cost no attempt.
    for row in before["jobs"]:
        if row["status"] is JobStatus.RUNNING:
            row.update(status=JobStatus.QUEUED, owner=None, lease_until=None, attempts=row["attempts"] - 1)
    assert after == before
    with other.snapshot() as session:  # nothing is still nothing, not JSON's null
        assert session.scalar(select(func.count()).where(TrainingMetric.scores.is_(None))) == 1


def test_a_job_whose_cancellation_was_asked_for_ends_when_it_is_restored(
    sqlite: Database, other: Database, tmp_path: Path
) -> None:
    claim = desk.claimed(sqlite)
    desk.write(sqlite, lambda session: jobs.request_cancel(session, claim.job_id, now=NOW))
    back_up(sqlite, MemoryBlobs(), tmp_path / "backup")
    restore(tmp_path / "backup", other, MemoryBlobs())
    assert desk.look(other, claim.job_id).status is JobStatus.CANCELED


def test_a_second_backup_copies_what_is_new_and_drops_what_is_gone(sqlite: Database, tmp_path: Path) -> None:
    blobs, target = LocalBlobs(tmp_path / "blobs"), tmp_path / "backup"
    filled(sqlite, blobs)
    first = back_up(sqlite, blobs, target)
    objects = {path.name: path.stat().st_ino for path in (target / "objects").rglob("*") if path.is_file()}

    with sqlite.transaction() as session:
        gone = session.scalars(select(Image).order_by(Image.id)).first()
        assert gone is not None
        session.delete(gone)
        session.execute(select(Job))
        add_image(session, blobs, gone.job_id, 7)
    second = back_up(sqlite, blobs, target)

    assert verify(target) == second
    keys = {item.key: item.object for item in read_index(target, second)}
    assert gone.blob not in keys
    after = {path.name: path.stat().st_ino for path in (target / "objects").rglob("*") if path.is_file()}
    assert gone.sha256 not in after
    assert first.index not in after
    assert set(after) == {second.index, *keys.values(), *(dump.object for dump in second.tables.values())}
    unchanged = keys["datasets/ds_1/pixels.bin"]
    assert after[unchanged] == objects[unchanged]


def test_an_interrupted_backup_leaves_the_one_before_it_whole(sqlite: Database, tmp_path: Path) -> None:
    class Broken(LocalBlobs):
        def get(self, key: str) -> bytes:
            raise KeyboardInterrupt

    filled(sqlite, LocalBlobs(tmp_path / "blobs"))
    first = back_up(sqlite, LocalBlobs(tmp_path / "blobs"), tmp_path / "backup")
    with sqlite.transaction() as session:
        job = session.scalars(select(Job).where(Job.kind == JobKind.SAMPLE)).one()
        add_image(session, LocalBlobs(tmp_path / "blobs"), job.id, 9)

    with pytest.raises(KeyboardInterrupt):
        back_up(sqlite, Broken(tmp_path / "blobs"), tmp_path / "backup")

    assert verify(tmp_path / "backup") == first
    assert back_up(sqlite, LocalBlobs(tmp_path / "blobs"), tmp_path / "backup").tables["images"].rows == 3


class Meddled(MemoryBlobs):
    """Something happens once, when a blob is about to be read."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key
        self.happens: Callable[[], None] = lambda: None

    def get(self, key: str) -> bytes:
        self._meddle(key)
        return super().get(key)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        self._meddle(prefix)
        return super().entries(prefix)

    def _meddle(self, key: str) -> None:
        if key.startswith(self._key):
            happens, self.happens = self.happens, lambda: None
            happens()


def test_a_checkpoint_that_takes_the_place_of_another_meanwhile_is_copied_whole(
    database: Database, tmp_path: Path
) -> None:
    blobs = Meddled("models/mdl_1/1-1")
    filled(database, blobs)

    def go_on() -> None:
        """As the training does it: the newer one is committed, then the older one loses its state."""
        with database.transaction() as session:
            checkpoint(session, blobs, session.get_one(Model, "mdl_1"), 2)
        blobs.delete("models/mdl_1/1-1/state")

    blobs.happens = go_on
    made = back_up(database, blobs, tmp_path / "backup")

    keys = {item.key for item in read_index(tmp_path / "backup", made)}
    assert {"models/mdl_1/2-1/generator", "models/mdl_1/2-1/state", "models/mdl_1/1-1/generator"} <= keys
    assert made.tables["training_checkpoints"].rows == 2


def test_an_image_that_is_deleted_meanwhile_is_in_neither_rows_nor_blobs(database: Database, tmp_path: Path) -> None:
    blobs = Meddled("images/")
    filled(database, blobs)

    def delete() -> None:
        with database.transaction() as session:
            row = session.scalars(select(Image).order_by(Image.id)).first()
            assert row is not None
            session.delete(row)
        blobs.delete(row.blob)

    blobs.happens = delete
    made = back_up(database, blobs, tmp_path / "backup")
    assert made.tables["images"].rows == 1
    assert len([item for item in read_index(tmp_path / "backup", made) if item.key.startswith("images/")]) == 1
    assert made.missing == []


def test_what_was_missing_or_damaged_before_is_named_and_stops_nothing(sqlite: Database, tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    filled(sqlite, blobs)
    first, second = sorted(key for key in contents(blobs) if key.startswith("images/"))
    blobs.delete(first)
    blobs.put(second, b"damaged")
    blobs.delete("datasets/ds_1")
    made = back_up(sqlite, blobs, tmp_path / "backup")
    assert made.missing == sorted(["datasets/ds_1", first, second])
    assert verify(tmp_path / "backup") == made


def test_a_damaged_backup_is_found_and_not_restored(sqlite: Database, other: Database, tmp_path: Path) -> None:
    filled(sqlite, LocalBlobs(tmp_path / "blobs"))
    made = back_up(sqlite, LocalBlobs(tmp_path / "blobs"), tmp_path / "backup")
    objects = {
        item.key: tmp_path / "backup" / "objects" / item.object[:2] / item.object
        for item in read_index(tmp_path / "backup", made)
    }
    pixels = objects["datasets/ds_1/pixels.bin"]
    pixels.write_bytes(pixels.read_bytes()[:-1] + b"q")
    objects["models/mdl_1/1-1/state"].unlink()

    with pytest.raises(BackupDamaged, match=r"pixels\.bin.*state|state.*pixels\.bin"):
        verify(tmp_path / "backup")
    with pytest.raises(BackupDamaged):
        restore(tmp_path / "backup", other, LocalBlobs(tmp_path / "new"))
    assert not (tmp_path / "new").exists()

    # A backup into the same directory mends what is missing.
    back_up(sqlite, LocalBlobs(tmp_path / "blobs"), tmp_path / "backup")
    with pytest.raises(BackupDamaged, match=r"pixels\.bin"):
        verify(tmp_path / "backup")


@pytest.mark.parametrize("what", ["manifest", "index", "rows"])
def test_a_damaged_manifest_index_or_dump_is_found(sqlite: Database, tmp_path: Path, what: str) -> None:
    made = back_up(sqlite, MemoryBlobs(), tmp_path / "backup")
    name = {"manifest": "", "index": made.index, "rows": made.tables["jobs"].object}[what]
    path = tmp_path / "backup" / (f"objects/{name[:2]}/{name}" if name else MANIFEST)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BackupDamaged):
        verify(tmp_path / "backup")


@pytest.mark.parametrize(("member", "value"), [("format", 2), ("revision", "9999")])
def test_a_backup_of_a_later_release_is_refused(sqlite: Database, tmp_path: Path, member: str, value: object) -> None:
    target = tmp_path / "backup"
    back_up(sqlite, MemoryBlobs(), target)
    said = json.loads((target / MANIFEST).read_text())
    (target / MANIFEST).write_text(json.dumps({**said, member: value, "release": "99.0"}))
    with pytest.raises(BackupError, match=r"Darkroom 99\.0"):
        restore(target, Database(f"sqlite:///{tmp_path / 'new.db'}"), MemoryBlobs())


def test_a_backup_of_an_earlier_release_is_brought_to_this_one(sqlite: Database, tmp_path: Path) -> None:
    # Given a backup whose tables are of the first release
    target, old = tmp_path / "backup", Database(f"sqlite:///{tmp_path / 'old.db'}")
    made = back_up(sqlite, MemoryBlobs(), target)
    row = {"id": "ds_1", "name": "d", "status": "ready", "created_at": NOW.isoformat(), "image_count": 1}
    row |= {"refused_count": 0, "resolution": 8, "channels": 1, "classes": None, "size_bytes": 5}
    content = gzip.compress(json.dumps(row).encode() + b"\n")
    sha256 = hashlib.sha256(content).hexdigest()
    LocalBlobs(target).put(f"objects/{sha256[:2]}/{sha256}", content)
    said = json.loads((target / MANIFEST).read_text())
    said |= {"revision": "0001", "tables": {"datasets": {"object": sha256, "rows": 1}}}
    (target / MANIFEST).write_text(json.dumps(said))

    restore(target, old, MemoryBlobs())

    old.ping()
    with old.snapshot() as session:
        dataset = session.get_one(Dataset, "ds_1")
    assert (dataset.status, dataset.created_at, dataset.classes) == (DatasetStatus.READY, NOW, None)
    assert made.revision != "0001"
    old.close()


def test_nothing_is_restored_over_rows_or_blobs(sqlite: Database, tmp_path: Path) -> None:
    target, blobs = tmp_path / "backup", MemoryBlobs()
    filled(sqlite, blobs)
    back_up(sqlite, blobs, target)
    with pytest.raises(BackupError, match="has rows already"):
        restore(target, sqlite, MemoryBlobs())
    blobs = MemoryBlobs()
    blobs.put("images/mine.png", b"mine")
    with pytest.raises(BackupError, match=r"images/mine\.png"):
        restore(target, Database(f"sqlite:///{tmp_path / 'new.db'}"), blobs)
    assert contents(blobs) == {"images/mine.png": b"mine"}


def test_a_database_that_a_service_uses_is_refused(postgres_url: str, sqlite: Database, tmp_path: Path) -> None:
    back_up(sqlite, MemoryBlobs(), tmp_path / "backup")
    with closing(Database(postgres_url)) as service, closing(Database(postgres_url)) as ours:
        with service.snapshot() as session:
            session.connection()
            with pytest.raises(BackupError, match="running on this database"):
                restore(tmp_path / "backup", ours, MemoryBlobs())
        service.close()
        restore(tmp_path / "backup", ours, MemoryBlobs())


def test_a_restore_that_fails_leaves_nothing_and_can_be_tried_again(
    sqlite: Database, other: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, restored = MemoryBlobs(), LocalBlobs(tmp_path / "new")
    filled(sqlite, blobs)
    back_up(sqlite, blobs, tmp_path / "backup")
    with monkeypatch.context() as patched:
        patched.setattr("store.restore.jobs.put_back", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            restore(tmp_path / "backup", other, restored)
    assert list(restored.entries()) == []
    restore(tmp_path / "backup", other, restored)
    assert contents(restored) == contents(blobs)


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_directory_with_something_else_or_another_backup_under_way_is_refused(
    sqlite: Database, tmp_path: Path
) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("…")
    with pytest.raises(BackupError, match=r"dear\.txt"):
        back_up(sqlite, MemoryBlobs(), tmp_path / "letters")
    with pytest.raises(BackupError, match="no backup in"):
        verify(tmp_path / "letters")
    back_up(sqlite, MemoryBlobs(), tmp_path / "backup")
    with (tmp_path / "backup" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BackupError, match="under way"):
            back_up(sqlite, MemoryBlobs(), tmp_path / "backup")


def test_no_key_is_numbered_by_the_database() -> None:
    # Rows are restored with their keys; a sequence would have to be set to go on behind them.
    assert not [
        column
        for table in Record.metadata.sorted_tables
        for column in table.primary_key
        if column is table.autoincrement_column
    ]


def test_the_checkpoints_that_trainings_replace_too_fast_end_a_backup_with_the_remedy(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Meddled("models/")
    filled(sqlite, blobs)

    def replace() -> None:
        with sqlite.transaction() as session:
            seen = len(session.scalars(select(TrainingCheckpoint)).all()) + session.get_one(Model, "mdl_1").images_seen
            checkpoint(session, blobs, session.get_one(Model, "mdl_1"), seen)
        blobs.happens = replace

    monkeypatch.setattr("store.backup.ROUNDS", 3)
    blobs.happens = replace
    with pytest.raises(BackupError, match="CHECKPOINT_INTERVAL_S"):
        back_up(sqlite, blobs, tmp_path / "backup")
    assert not (tmp_path / "backup" / MANIFEST).exists()
    with pytest.raises(BackupError):
        read_manifest(tmp_path / "backup")
