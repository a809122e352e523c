"""What the chaos bench asks for and breaks, and that it sees what it is there to see."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import faults, wishes
from bench.chaos import Outcome, figures_of
from bench.clients import Acknowledged
from bench.faults import Found, Pause
from bench.rows import Observer, Recovery, Row
from bench.verdict import Findings, Judge
from bench.wishes import Studio, Wish
from store import jobs
from store.database import Database
from store.records import Image, Job, JobKind

STUDIO = Studio("ds_1", ("mdl_1", "mdl_2"))
ROW = Row("job_1", "sample", "running", "dead@here", 1, 1, 32, 32.0, None, None, None)


def test_equal_seeds_break_and_ask_for_the_same() -> None:
    def drawn(seed: int) -> tuple[object, object]:
        source = random.Random(seed)
        planned = faults.draw(source, kills=20, redis=5, pauses=("sample", "train"))
        return planned, wishes.draw(source, 1000, [*(fault.kind for fault in planned), None], STUDIO)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_thousand_jobs_are_of_all_kinds_and_each_fault_finds_what_it_hits() -> None:
    source = random.Random(3)
    planned = faults.draw(source, kills=20, redis=5, pauses=("sample", "train"))
    assert Counter(fault.sort for fault in planned) == {
        "kill": 19,
        "host": 1,
        "redis": 4,
        "flush": 1,
        "pause": 2,
        "api": 2,
    }
    groups = wishes.draw(source, 1000, [*(fault.kind for fault in planned), None], STUDIO)
    every = [wish for group in groups for wish in group]
    assert len({wish.key for wish in every}) == len(every) == 1000
    assert {wish.kind for wish in every} == set(wishes.KINDS)
    for fault, group in zip(planned, groups, strict=False):
        assert fault.kind is None or fault.kind in {wish.kind for wish in group}


def test_work_goes_on_once_another_claim_makes_progress() -> None:
    recovery = Recovery("sampler", "job_1", "sample", 1, 100.0)
    recovery.look(ROW, 101.0)  # its dead worker still has it
    recovery.look(Row(**{**ROW.__dict__, "fence": 2, "owner": "other@here"}), 102.0)
    assert recovery.took_s is None
    recovery.look(Row(**{**ROW.__dict__, "fence": 2, "owner": "other@here", "cursor": 64}), 103.0)
    recovery.look(Row(**{**ROW.__dict__, "fence": 2, "owner": "other@here", "cursor": 96}), 104.0)
    assert recovery.took_s == 3.0


@pytest.fixture
def seen(sqlite_url: str, tmp_path: Path) -> Callable[[Callable[[Database], None]], tuple[Findings, list[str]]]:
    """Judges one generation of two images, whose rows `change` has dealt with while they were looked at."""

    def judge(change: Callable[[Database], None]) -> tuple[Findings, list[str]]:
        database = Database(sqlite_url)
        with database.transaction() as session:
            now = database.now(session)
            job = jobs.submit(
                session,
                JobKind.SAMPLE,
                {},
                now=now,
                job_id="job_1",
                checkpoint="models/mdl_1/1",
                idempotency=("r k", "h"),
            )
            job.status, job.cursor, job.finished_at = jobs.SUCCEEDED, 2, now
        with Observer(sqlite_url) as observer:
            change(database)
            deadline = time.monotonic() + 10
            while not observer.changed and time.monotonic() < deadline and change is not _nothing:
                time.sleep(0.02)
            wish = Wish("k", "sample", "/v1/generations", {"model": "mdl_1", "n": 2, "seed": 5}, 0.0, None, False)
            promised = Acknowledged(jobs={"job_1": wish}, ids_of={"k": {"job_1"}})
            found = Judge(observer, tmp_path, tmp_path, STUDIO, {}).judge(promised)
        database.close()
        return found, observer.changed

    return judge


def _nothing(_database: Database) -> None:
    """Changes nothing."""


def _undo(database: Database) -> None:
    """Puts the job back into the line after its end, with one image whose file nobody has stored."""
    with database.transaction() as session:
        job = session.get_one(Job, "job_1")
        job.status, job.finished_at, job.cursor = jobs.QUEUED, None, 2
        session.add(
            Image(
                id="img_1", job_id="job_1", position=7, model_id="mdl_1", checkpoint="models/mdl_1/1", seed=12, width=1,
                height=1, blob="images/none.png", size_bytes=1, sha256="x",
            )
        )  # fmt: skip


def test_images_that_are_missing_are_seen(seen: Callable[..., tuple[Findings, list[str]]]) -> None:
    found, changed = seen(_nothing)
    assert (found.lost, found.stuck, found.twice, changed) == ([], [], [], [])
    assert found.images == ["job_1 lacks 2 of 2 images, the first 0"]


def test_a_job_that_changes_after_its_end_is_seen_and_images_beyond_it_too(
    seen: Callable[..., tuple[Findings, list[str]]],
) -> None:
    found, changed = seen(_undo)
    assert len(changed) == 1
    assert found.stuck == ["job_1 (sample) is queued, attempt 0"]
    assert any("changed after its end" in line for line in found.twice)
    assert any("images beyond 2" in line for line in found.twice)
    assert any("its file is missing" in line for line in found.images)


def test_what_did_not_hold_is_not_ok() -> None:
    outcome = Outcome(
        database="sqlite", seed=1, jobs=2, by_kind={"sample": 2}, canceled=0, took_s=1.0, retries=0, bells=0, told=[],
        recoveries=[Recovery("io worker", "job_1", "import", 1, 0.0, took_s=41.0)],
        found=Found(pauses=[Pause("sample", "job_1", taken_s=30.0, refusal=None)]),
        findings=Findings(lost=["job_2 has no row"], twice=[], stuck=[], images=[], results=[]),
    )  # fmt: skip
    assert {figure.name: figure.ok for figure in figures_of(outcome)} == {
        "sqlite: jobs lost": False,
        "sqlite: committed twice": True,
        "sqlite: jobs stuck": True,
        "sqlite: images missing or wrong": True,
        "sqlite: other results missing or wrong": True,
        "sqlite: longest recovery, s": False,
        "sqlite: late commits refused": False,
    }
