"""Working ahead: a picture that was announced is begun before its job is claimed, and used only for that job."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from torch import Tensor

from models.generator import Generator
from store import jobs
from store.ahead import Ahead
from store.errors import DatabaseUnavailable
from store.queue import Lane, MemoryQueue
from store.records import Image, JobStatus
from tests.worker.conftest import Desk
from worker.pictures import Batch, PictureStore
from worker.running import Station
from worker.sampler import SliceSampler

CHECKPOINT = f"models/mdl_squares/{32:012d}-1"
SEED = 5
ANNOUNCED = Ahead("mdl_squares", CHECKPOINT, {"n": 1, "seed": SEED, "label": None}).text


class TellingQueue(MemoryQueue):
    """Says when a worker has begun with what was announced."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def take(self, lane: Lane, timeout_s: float, announced: Callable[[str], None] | None = None) -> bool:
        def tell(what: str) -> None:
            assert announced is not None
            announced(what)
            self.begun.set()

        return super().take(lane, timeout_s, tell)


@pytest.fixture
def queue() -> TellingQueue:
    return TellingQueue()


@pytest.fixture
def listening(station: Station, queue: TellingQueue) -> Station:
    return replace(station, threads=2, resources=replace(station.resources, queue=queue))


@contextmanager
def sampling(station: Station) -> Iterator[None]:
    """A sampler that lingers while the block lasts."""
    thread = threading.Thread(target=SliceSampler(station, linger_s=60).serve)
    thread.start()
    try:
        yield
    finally:
        station.draining.set()
        thread.join(10)
        assert not thread.is_alive()


def made(desk: Desk, queue: TellingQueue, *seeds: int) -> list[str]:
    """The hashes of the pictures of these seeds, asked for at once by a job each."""
    with desk.resources.bus.watch() as watch:
        asked = [desk.sample_job(1, seed=seed) for seed in seeds]
        queue.ring(Lane.SAMPLE)
        ended: set[str] = set()
        while not ended.issuperset(asked):
            ended |= {job_id for job_id, heard in watch.next(30).items() if heard.ended}
    outcomes = [made_of(desk, job_id) for job_id in asked]
    assert {status for status, _ in outcomes} == {JobStatus.SUCCEEDED}
    return [sha256 for _, sha256 in outcomes]


def made_of(desk: Desk, job_id: str) -> tuple[JobStatus, str]:
    """A job's status, and the hash of its one picture."""
    with desk.resources.database.snapshot() as session:
        return desk.job(job_id).status, session.execute(select(Image.sha256).where(Image.job_id == job_id)).scalar_one()


def begun_ahead(station: Station) -> int:
    stage = station.statistics.report().stages.get("ahead")
    return stage.count if stage is not None else 0


def test_what_was_announced_is_made_once_with_the_bytes_it_would_have_had(
    desk: Desk, listening: Station, queue: TellingQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.model()
    with sampling(listening):
        made(desk, queue, 0)  # the generator is loaded
        [plain] = made(desk, queue, SEED)
        rendered: list[int] = []
        render = Generator.render

        def watched(self: Generator, latents: Tensor, labels: Tensor | None = None) -> Tensor:
            rendered.append(len(latents))
            return render(self, latents, labels)

        monkeypatch.setattr(Generator, "render", watched)
        queue.announce(Lane.SAMPLE, ANNOUNCED)
        assert queue.begun.wait(30)
        [again] = made(desk, queue, SEED)

    assert again == plain
    assert rendered == [1]
    assert begun_ahead(listening) == 1


@pytest.mark.parametrize(
    "announced",
    [
        "nonsense",
        Ahead("mdl_squares", "models/mdl_squares/another", {"n": 1, "seed": SEED, "label": None}).text,
        Ahead("mdl_other", CHECKPOINT, {"n": 1, "seed": SEED, "label": None}).text,
        Ahead("mdl_squares", CHECKPOINT, {"n": 1, "seed": SEED + 1, "label": None}).text,
        Ahead("mdl_squares", CHECKPOINT, {"n": 1, "seed": SEED, "label": 1}).text,
        Ahead("mdl_squares", CHECKPOINT, {"n": 1, "seed": SEED, "label": 9}).text,
        Ahead("mdl_squares", CHECKPOINT, {}).text,
        json.dumps({"model_id": "mdl_squares", "checkpoint": CHECKPOINT, "request": 7}),
        json.dumps({"model_id": "mdl_squares", "checkpoint": [CHECKPOINT], "request": {}}),
    ],
)
def test_what_comes_otherwise_than_announced_is_made_anew(
    desk: Desk, listening: Station, queue: TellingQueue, announced: str
) -> None:
    desk.model()
    with sampling(listening):
        plain = made(desk, queue, SEED)
        queue.announce(Lane.SAMPLE, announced)
        assert queue.begun.wait(30)
        assert made(desk, queue, SEED) == plain

    assert begun_ahead(listening) == 0


@pytest.mark.parametrize("seeds", [(SEED, 1), (1, SEED)])
def test_who_came_beside_it_is_made_too(
    desk: Desk, listening: Station, queue: TellingQueue, seeds: tuple[int, int]
) -> None:
    """Given another job in the line, I expect both to be made; what was made ahead is used where it is first."""
    desk.model()
    with sampling(listening):
        plain = made(desk, queue, *seeds)
        queue.announce(Lane.SAMPLE, ANNOUNCED)
        assert queue.begun.wait(30)
        assert made(desk, queue, *seeds) == plain

    assert begun_ahead(listening) == (1 if seeds[0] == SEED else 0)


def test_what_was_announced_and_canceled_is_not_stored(desk: Desk, listening: Station, queue: TellingQueue) -> None:
    desk.model()
    with sampling(listening):
        made(desk, queue, 0)
        queue.announce(Lane.SAMPLE, ANNOUNCED)
        assert queue.begun.wait(30)  # now it listens, and does not look any more
        job_id = desk.sample_job(1, seed=SEED)
        with desk.resources.database.transaction() as session:
            jobs.request_cancel(session, job_id, now=desk.resources.database.now(session))
        made(desk, queue, 1)

    assert (desk.job(job_id).status, begun_ahead(listening)) == (JobStatus.CANCELED, 0)
    with desk.resources.database.snapshot() as session:
        assert session.execute(select(Image.id).where(Image.job_id == job_id)).all() == []


@pytest.mark.parametrize("error", [RuntimeError("a defect"), DatabaseUnavailable("it is away")])
def test_what_could_not_be_stored_is_made_anew(
    desk: Desk, listening: Station, queue: TellingQueue, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failed: list[str] = []

    def fail(self: PictureStore, session: Session, batch: Batch, files: object) -> object:
        if not failed:
            failed.append(batch.slices[0].claim.job_id)
            raise error
        return committed(self, session, batch, files)

    committed: Callable[..., object] = PictureStore._committed
    desk.model()
    with sampling(listening):
        [plain] = made(desk, queue, SEED)
        monkeypatch.setattr(PictureStore, "_committed", fail)
        queue.announce(Lane.SAMPLE, ANNOUNCED)
        assert queue.begun.wait(30)
        assert made(desk, queue, SEED) == [plain]
        assert desk.job(failed[0]).attempts == 1

    assert begun_ahead(listening) == 0
