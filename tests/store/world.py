"""A small world of people and workers, for the tests of garbage: it writes, commits, deletes and crashes in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import jobs, kept
from store.blobs import Entry
from store.database import Database
from store.errors import LeaseLost
from store.exports import export_key
from store.identifiers import new_id
from store.jobs import ENDED, Claim
from store.memory_blobs import MemoryBlobs
from store.records import Dataset, DatasetStatus, Image, Job, JobKind, Model, Record
from store.references import read_references
from store.strips import strips_key

GRACE_S = 100.0
Commit = Callable[[Session, Job], Any]


class InterruptedBlobs(MemoryBlobs):
    """Something happens after every listing and before every deletion."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.interrupt: Callable[[], None] = lambda: None

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        for entry in list(super().entries(prefix)):
            yield entry
            self.interrupt()

    def delete(self, prefix: str) -> None:
        self.interrupt()
        super().delete(prefix)


class World:
    """Rows and blobs, and those who change them, each step on its own."""

    def __init__(self, database: Database) -> None:
        self.now = 1_000_000.0
        self.database = database
        self.blobs = InterruptedBlobs(lambda: self.now)
        self.uploads: list[tuple[str, float]] = []  # a request wrote them and has not committed yet
        self.claims: list[Claim] = []
        self.written: list[tuple[Claim, Commit]] = []  # a worker wrote it and has not committed yet
        self.positions = 0
        self.steps: dict[str, Callable[[Random], None]] = {
            "upload": self._upload,
            "import": self._import,
            "train": self._train,
            "use": self._use,
            "claim": self._claim,
            "write": self._write,
            "commit": self._commit,
            "end": self._end,
            "take over": self._take_over,
            "crash": self._crash,
            "delete": self._delete,
            "wait": self._wait,
        }

    def _upload(self, random: Random) -> None:
        dataset_id = new_id("ds")
        self.blobs.put(f"uploads/{dataset_id}.zip", b"zip")
        self.uploads.append((dataset_id, self.now))

    def _import(self, random: Random) -> None:
        if not self.uploads:
            return
        dataset_id, at = self.uploads.pop()
        if self.now - at >= GRACE_S:
            return  # no request is under way for so long
        source = {"source": {"blob": f"uploads/{dataset_id}.zip"}}
        with self.database.transaction() as session:
            session.add(Dataset(id=dataset_id, name="d"))
            jobs.submit(session, JobKind.IMPORT, source, now=self._moment(), dataset_id=dataset_id)

    def _train(self, random: Random) -> None:
        with self.database.transaction() as session:
            dataset = self._any(session, random, Dataset, Dataset.status == DatasetStatus.READY)
            if dataset is None:
                return
            source = self._any(session, random, Model, Model.checkpoint.is_not(None))
            model = Model(
                id=new_id("mdl"), name="m", kind="k", resolution=8, channels=1, options={}, seed=0, metrics={}
            )
            session.add(model)
            jobs.submit(
                session,
                JobKind.TRAIN,
                {},
                now=self._moment(),
                dataset_id=dataset.id,
                model_id=model.id,
                checkpoint=source.checkpoint if source is not None else None,
            )

    def _use(self, random: Random) -> None:
        kind = random.choice([JobKind.SAMPLE, JobKind.EVALUATE, JobKind.EXPORT])
        with self.database.transaction() as session:
            model = self._any(session, random, Model, Model.checkpoint.is_not(None))
            if model is not None:
                request = {"format": random.choice(["onnx", "native"])}
                weights = {"model_id": model.id, "checkpoint": model.checkpoint}
                jobs.submit(session, kind, request, now=self._moment(), **weights)

    def _claim(self, random: Random) -> None:
        with self.database.transaction() as session:
            self.claims += jobs.claim(session, list(JobKind), owner="w", now=self._moment(), lease_s=30)

    def _write(self, random: Random) -> None:
        if not self.claims:
            return
        claim = random.choice(self.claims)
        write = {
            JobKind.IMPORT: self._write_dataset,
            JobKind.TRAIN: self._write_checkpoint,
            JobKind.SAMPLE: self._write_image,
            JobKind.EVALUATE: self._write_strips,
            JobKind.EXPORT: self._write_export,
        }
        self.written.append((claim, write[claim.kind](claim)))

    def _write_dataset(self, claim: Claim) -> Commit:
        self.blobs.put(f"datasets/{claim.dataset_id}/pixels.bin", b"pixels")

        def commit(session: Session, job: Job) -> None:
            session.get_one(Dataset, claim.dataset_id).status = DatasetStatus.READY
            jobs.succeed(session, claim, now=self._moment(), result={})

        return commit

    def _write_checkpoint(self, claim: Claim) -> Commit:
        self.positions += 1
        seen, model_id = self.positions, claim.model_id or ""
        prefix, preview = f"models/{model_id}/{seen:012d}-{claim.fence}", f"models/{model_id}/previews/{seen}.png"
        self.blobs.put_many({f"{prefix}/generator": b"w", f"{prefix}/state": b"s", preview: b"p"})

        def commit(session: Session, job: Job) -> None:
            job.checkpoint, model, now = None, session.get_one(Model, model_id), self._moment()
            kept.add_checkpoint(
                session, model, images_seen=seen, blob=prefix, scores={"fd_domain": seen % 3}, now=now, most=2
            )
            kept.add_preview(session, model, images_seen=seen, blob=preview, now=now, most=2)

        return commit

    def _write_image(self, claim: Claim) -> Commit:
        self.positions += 1
        position, key = self.positions, f"images/aa/{claim.job_id}-{self.positions:06d}.png"
        self.blobs.put(key, b"png")
        of = {"job_id": claim.job_id, "model_id": claim.model_id, "checkpoint": claim.checkpoint, "blob": key}
        row = Image(id=new_id("img"), position=position, seed=0, width=8, height=8, size_bytes=3, sha256="", **of)
        return lambda session, job: session.add(row)

    def _write_strips(self, claim: Claim) -> Commit:
        self.blobs.put(strips_key(claim.model_id or "", claim.job_id), b"png")
        return lambda session, job: jobs.succeed(session, claim, now=self._moment(), result={})

    def _write_export(self, claim: Claim) -> Commit:
        self.blobs.put(export_key(claim.model_id or "", claim.job_id, claim.fence), b"zip")
        return lambda session, job: jobs.succeed(session, claim, now=self._moment(), result={})

    def _commit(self, random: Random) -> None:
        if not self.written:
            return
        claim, commit = self.written.pop(random.randrange(len(self.written)))
        try:
            with self.database.transaction() as session:
                commit(session, jobs.hold(session, claim))
        except LeaseLost:
            pass

    def _end(self, random: Random) -> None:
        if not self.claims:
            return
        claim = self.claims.pop(random.randrange(len(self.claims)))
        ends: list[Callable[[Session], object]] = [
            lambda session: jobs.fail(session, claim, now=self._moment(), code="x", message="y", retryable=False),
            lambda session: jobs.stop(session, claim, now=self._moment()),
            lambda session: jobs.release(session, claim),
        ]
        if claim.kind in {JobKind.SAMPLE, JobKind.TRAIN}:  # the others succeed with what they have written
            ends.append(lambda session: jobs.succeed(session, claim, now=self._moment(), result={}))
        try:
            with self.database.transaction() as session:
                random.choice(ends)(session)
        except LeaseLost:
            pass

    def _take_over(self, random: Random) -> None:
        """The workers' leases run out; they know nothing of it, and go on writing."""
        with self.database.transaction() as session:
            jobs.recover(session, now=self._moment(), max_attempts=3, owner="w")

    def _crash(self, random: Random) -> None:
        """Requests and workers die between writing and committing."""
        self.uploads.clear()
        self.written.clear()
        self.claims.clear()

    def _delete(self, random: Random) -> None:
        """The row goes; whoever deletes it may die before the blobs go too."""
        record = random.choice([Dataset, Model, Image])
        with self.database.transaction() as session:
            row: Any = self._any(session, random, record)
            if row is None:
                return
            needs = {Dataset: Job.dataset_id == row.id, Model: jobs.needs_model(row.id), Image: Job.id == ""}[record]
            if session.scalars(select(Job.id).where(needs, Job.status.not_in(ENDED))).first() is not None:
                return
            session.delete(row)
        places = {Dataset: f"datasets/{row.id}", Model: f"models/{row.id}", Image: getattr(row, "blob", "")}
        if random.random() < 0.5:
            MemoryBlobs.delete(self.blobs, places[record])

    def _wait(self, random: Random) -> None:
        self.now += random.choice([1.0, GRACE_S / 2, GRACE_S * 2])

    def _any(self, session: Session, random: Random, record: type[Record], *conditions: Any) -> Any:
        rows = session.scalars(select(record).where(*conditions).order_by(record.id)).all()  # type: ignore[attr-defined]
        return random.choice(rows) if rows else None

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    def lost(self) -> list[str]:
        """What rows refer to in vain."""
        with self.database.snapshot() as session:
            folders = read_references(session).required
            images = session.scalars(select(Image.blob)).all()
        return [key for key in (*folders, *images) if not self.blobs.keys(key)]

    def come_to_rest(self) -> None:
        """Whoever is at work dies, every job ends, and much time goes by."""
        self._crash(Random(0))
        with self.database.transaction() as session:
            jobs.recover(session, now=self._moment(), max_attempts=0, owner="w")
            for job in session.scalars(select(Job).where(Job.status.not_in(ENDED))):
                jobs.request_cancel(session, job.id, now=self._moment())
        self.now += GRACE_S * 2
