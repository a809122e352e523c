"""Garbage: what nothing refers to goes, whatever happens meanwhile, and what something refers to stays."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import delete, func, select

from store import kept
from store.blobs import Blobs, LocalBlobs
from store.database import Database
from store.exports import export_key
from store.garbage import Findings, collect, collect_files
from store.jobs import succeed
from store.memory_blobs import MemoryBlobs
from store.records import (
    Dataset,
    DatasetStatus,
    Image,
    Job,
    JobKind,
    JobStatus,
    Model,
    TrainingCheckpoint,
    TrainingPreview,
)
from store.settings import Settings
from tests.store import desk
from tests.store.world import GRACE_S, World

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  # thousands of commits, none of them to last
STEPS = sorted(World(Database("sqlite:///unused.db")).steps)


class Interleavings(RuleBasedStateMachine):
    """Writes, commits, deletes and crashes, before, during and after collecting."""

    template: Path  # a migrated SQLite file

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="darkroom-garbage-", dir=MEMORY))
        self.database = Database(f"sqlite:///{shutil.copy(self.template, self.directory / 'darkroom.db')}")
        self.world = World(self.database)

    @rule(random=st.randoms(use_true_random=False), count=st.integers(1, 8))
    def steps(self, random: Random, count: int) -> None:
        for _ in range(count):
            self.world.steps[random.choice(STEPS)](random)

    @rule(random=st.randoms(use_true_random=False))
    def lead_on(self, random: Random) -> None:
        """The usual way, so that examples get far."""
        for name in ("upload", "import", "claim", "write", "commit", "train", "claim", "write", "commit"):
            self.world.steps[name](random)
        for name in ("use", "use", "use", "claim", "claim", "claim", "write", "write", "write", "write"):
            self.world.steps[name](random)

    @rule(random=st.randoms(use_true_random=False), busy=st.booleans(), wait_s=st.sampled_from([1.0, GRACE_S * 2]))
    def collect(self, random: Random, busy: bool, wait_s: float) -> None:
        self.world.now += wait_s
        if busy:
            self.world.blobs.interrupt = lambda: self.world.steps[random.choice(STEPS)](random)
        collect(self.database, self.world.blobs, grace_s=GRACE_S, clock=lambda: self.world.now)
        self.world.blobs.interrupt = lambda: None
        for _ in range(len(self.world.written)):
            self.world.steps["commit"](random)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.world.lost() == []

    def teardown(self) -> None:
        try:
            self.world.come_to_rest()
            found = collect(self.database, self.world.blobs, grace_s=GRACE_S, clock=lambda: self.world.now)
            assert found.missing == []
            assert self.world.lost() == []
            again = collect(self.database, self.world.blobs, grace_s=GRACE_S, clock=lambda: self.world.now)
            assert again.removed == again.unknown == []
        finally:
            self.database.close()
            shutil.rmtree(self.directory)


@pytest.mark.parametrize("examples", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_no_interleaving_loses_a_blob_or_leaves_an_orphan(sqlite_url: str, examples: int) -> None:
    class Here(Interleavings):
        template = Path(sqlite_url.removeprefix("sqlite:///"))

    case = Here.TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=12, deadline=None)
    case("runTest").runTest()


def image(job_id: str, position: int, key: str) -> Image:
    made = {"seed": 0, "width": 8, "height": 8, "size_bytes": 3, "sha256": "", "model_id": "mdl_1", "checkpoint": "c"}
    return Image(id=f"img_{position}", job_id=job_id, position=position, blob=key, **made)


def gc(database: Database, blobs: Blobs, **options: object) -> Findings:
    return collect(database, blobs, **{"grace_s": 0.0, "clock": lambda: time.time() + 1, **options})  # type: ignore[arg-type]


def test_on_every_database_and_storage_orphans_go_and_the_rest_stays(database: Database, blobs: Blobs) -> None:
    claim = desk.claimed(database)
    ended = desk.claimed(database)
    desk.write(database, lambda session: succeed(session, ended, now=desk.NOW, result={}))
    with database.transaction() as session:
        session.add(Dataset(id="ds_1", name="d", status=DatasetStatus.READY))
        session.add(Dataset(id="ds_2", name="d", status=DatasetStatus.FAILED))
    stays = ["datasets/ds_1/manifest.json", f"images/a/{claim.job_id}-000000.png", "elsewhere/file"]
    goes = ["datasets/ds_2/pixels.bin", "datasets/ds_3/pixels.bin", f"images/a/{ended.job_id}-000000.png"]
    blobs.put_many(dict.fromkeys([*stays, *goes, "uploads/ds_4.zip", "models/mdl_1/000-1/generator"], b"12345"))

    young = gc(database, blobs, grace_s=60.0)
    assert young.removed == []
    looked = gc(database, blobs, dry=True)
    assert sorted(entry.key for entry in blobs.entries()) == sorted(
        [*stays, *goes, "uploads/ds_4.zip", "models/mdl_1/000-1/generator"]
    )
    found = gc(database, blobs)
    assert sorted(found.removed) == sorted(looked.removed)
    assert sorted(found.removed) == sorted([*goes, "uploads/ds_4.zip", "models/mdl_1/000-1/generator"])
    assert found.unknown == ["elsewhere/file"]
    assert found.garbage == {"datasets": 10, "images": 5, "uploads": 5, "models": 5}
    assert found.kept == {"datasets": 5, "images": 5}
    assert sorted(entry.key for entry in blobs.entries()) == sorted(stays)


def test_what_unfinished_jobs_write_pin_or_serve_stays(database: Database) -> None:
    """Each line of store/references.py by itself."""
    blobs = MemoryBlobs()
    older, newer = (desk.brought_to(database, JobStatus.SUCCEEDED, JobKind.EXPORT, model_id="mdl_1") for _ in range(2))
    evaluated = desk.brought_to(database, JobStatus.SUCCEEDED, JobKind.EVALUATE, model_id="mdl_1")
    desk.submit(database, JobKind.TRAIN, model_id="mdl_training")
    evaluation = desk.submit(database, JobKind.EVALUATE, model_id="mdl_evaluated")
    desk.submit(database, JobKind.EXPORT, model_id="mdl_exported")
    desk.submit(database, JobKind.SAMPLE, model_id="mdl_1", checkpoint="models/mdl_1/000001-1")
    with database.transaction() as session:
        model = Model(id="mdl_1", name="m", kind="k", resolution=8, channels=1, options={}, seed=0, metrics={})
        session.add(model)
        model.checkpoint, model.preview = "models/mdl_1/000003-1", "models/mdl_1/previews/000003-1.png"
        kept.promote(model, TrainingCheckpoint(blob="models/mdl_1/000003-1", images_seen=3), follow=False)
        kept.add_checkpoint(
            session, model, images_seen=4, blob="models/mdl_1/000004-1", scores=None, now=desk.NOW, most=2
        )
        session.add(TrainingPreview(model_id="mdl_1", images_seen=1, blob="models/mdl_1/previews/000001-1.png"))
        session.add(Dataset(id="ds_1", name="d"))
        for job in (older, newer):
            session.get_one(Job, job.job_id).request = {"format": "onnx"}
        session.get_one(Job, older.job_id).finished_at = desk.later(-1)
    stays = [
        "models/mdl_training/000001-1/generator",
        f"models/mdl_evaluated/strips/{evaluation}.png",
        "models/mdl_exported/exports/job_9-1.zip",
        "models/mdl_1/000001-1/generator",
        "models/mdl_1/000003-1/generator",
        "models/mdl_1/000004-1/state",
        "models/mdl_1/previews/000001-1.png",
        "models/mdl_1/previews/000003-1.png",
        f"models/mdl_1/strips/{evaluated.job_id}.png",
        export_key("mdl_1", newer.job_id, newer.fence),
        "datasets/ds_1/pixels.bin",
    ]
    goes = [
        "models/mdl_1/000002-1/generator",
        "models/mdl_1/previews/000002-1.png",
        "models/mdl_1/strips/job_9.png",
        export_key("mdl_1", older.job_id, older.fence),
        "models/mdl_evaluated/000001-1/generator",
        "datasets/ds_2/pixels.bin",
    ]
    blobs.put_many(dict.fromkeys([*stays, *goes], b"1"))
    assert sorted(gc(database, blobs).removed) == sorted(goes)


def test_rows_whose_blobs_are_missing_are_named_and_left_alone(database: Database) -> None:
    blobs, job_id = MemoryBlobs(), desk.submit(database)
    blobs.put("images/here.png", b"png")
    with database.transaction() as session:
        session.add(Dataset(id="ds_1", name="d", status=DatasetStatus.READY))
        session.add(Dataset(id="ds_2", name="d"))  # still importing: nothing has to be there
        for position, name in enumerate(("here", "gone")):
            session.add(image(job_id, position, f"images/{name}.png"))

    assert collect(database, blobs).missing == ["datasets/ds_1", "images/gone.png"]
    with database.snapshot() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 2


def test_what_is_deleted_just_now_is_not_missing(database: Database) -> None:
    job_id = desk.submit(database)
    with database.transaction() as session:
        session.add(image(job_id, 0, "images/a.png"))

    class DeletedMeanwhile(MemoryBlobs):
        def exists(self, key: str) -> bool:
            desk.write(database, lambda session: session.execute(delete(Image)))
            return super().exists(key)

    assert collect(database, DeletedMeanwhile()).missing == []


def test_scratch_of_dead_claims_and_event_files_of_models_that_are_gone_go_too(
    database: Database, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    running, ended = desk.claimed(database), desk.brought_to(database, JobStatus.FAILED)
    folders = {
        name: settings.scratch_dir / name
        for name in (f"{running.job_id}-1", f"{running.job_id}-0", f"{ended.job_id}-1", "generators")
    } | {"mdl_gone": settings.resolved_tensorboard_dir / "mdl_gone"}
    for place in folders.values():
        place.mkdir(parents=True)
        (place / "file").write_bytes(b"123")
        os.utime(place / "file", (0, 0))
        os.utime(place, (0, 0))
    (folders[f"{ended.job_id}-1"] / "fresh").write_bytes(b"")

    found = Findings()
    collect_files(database, settings, found, dry=True)
    assert all(place.exists() for place in folders.values())
    assert found.garbage == {"scratch": 3, "tensorboard": 3}
    collect_files(database, settings, Findings())
    left = {name for name, place in folders.items() if place.exists()}
    assert left == {f"{running.job_id}-1", f"{ended.job_id}-1", "generators"}
    collect_files(database, settings, Findings(), grace_s=-1)
    assert {name for name, place in folders.items() if place.exists()} == {f"{running.job_id}-1", "generators"}


def test_unfinished_files_of_killed_writers_go_once_they_are_old(database: Database, tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    blobs.put("uploads/ds_1.zip", b"zip")
    (tmp_path / "blobs" / ".incoming" / "half").write_bytes(b"1234")

    assert collect(database, blobs, dry=True).garbage == {}
    found = collect(database, blobs, grace_s=-1, dry=True)
    assert found.garbage == {"uploads": 3, "unfinished": 4}
