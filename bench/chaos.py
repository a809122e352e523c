"""`python -m bench.chaos`: jobs of every kind while everything is broken, and what came of them."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import torch
import typer

from bench import faults, wishes
from bench.clients import Clients, ended_well
from bench.faults import Breaker, Fault, Found
from bench.figures import Figure, print_figures
from bench.hosts import Doubler, Service, breakable
from bench.results import ROOT, commit, machine
from bench.rows import Observer, Recovery
from bench.verdict import Findings, Judge
from bench.wishes import ARCHIVES, OPTIONS, SIDE, Studio, Wish, archive
from models.console import progress, say
from models.data import PreparedImages
from models.evaluation import train_extractor

RECOVERED_S = 40.0  # the bar
STUCK_S = 120.0  # without any change in any row, after which what has not ended is stuck
LESSON_IMAGES = 2000  # of the extractor that evaluations find
SHOWN = 20  # problems of each sort that are printed
# Beside the defaults, which are what is to be proven: lease 30 s, beat 10 s. Checkpoints come often, so that trainings of
# seconds have some, and are not measured, which would take longer than they do.
SETTINGS = {
    "CHECKPOINT_INTERVAL_S": "2",
    "PREVIEW_INTERVAL_S": "10",
    "EVALUATION_SHARE": "0",
    "TENSORBOARD": "false",
    "AUTH": "off",  # keys are proven elsewhere
}

app = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False, add_completion=False)


class Databases(StrEnum):
    """Which to run on."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"
    BOTH = "both"


@dataclass
class Outcome:
    """What one run gave."""

    database: str
    seed: int
    jobs: int
    by_kind: dict[str, int]
    canceled: int
    took_s: float
    retries: int
    bells: int
    told: list[str]  # what happened, a line for each fault
    recoveries: list[Recovery]
    found: Found
    findings: Findings
    unfinished: list[str] = field(default_factory=list)


@app.command()
def main(
    quick: Annotated[bool, typer.Option("--quick", help="120 jobs and a few faults: minutes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write a figure a line as JSON.")] = False,
    database: Annotated[Databases, typer.Option(help="Where the rows are.")] = Databases.BOTH,
    seed: Annotated[int, typer.Option(metavar="N", help="Of every choice.")] = 1,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="How many are asked for.")] = None,
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Leave state and logs there.")] = None,
    results: Annotated[Path, typer.Option(metavar="FILE")] = ROOT / "bench/results/chaos.json",
) -> None:
    """Ask for 1,000 jobs while workers are killed and paused, Redis and the API are restarted and bells are doubled.

    Then every job, every image and every result is compared with what was promised, and with undisturbed work.

    Example: `python -m bench.chaos --quick --database sqlite`
    """
    torch.set_num_threads(1)  # as the workers: sums have an order
    if quick:
        results = ROOT / "bench/.work/quick/chaos.json"
    count = jobs or (120 if quick else 1000)
    chosen = ["sqlite", "postgresql"] if database is Databases.BOTH else [database.value]
    figures: list[Figure] = []
    for one in chosen:
        say(f"{one}: {count} jobs, seed {seed}")
        outcome = run(one, count, seed, quick, keep)
        record(results, outcome)
        figures += figures_of(outcome)
        show(outcome)
    print_figures(figures, as_json, quick=False)
    if not all(figure.ok for figure in figures):
        raise typer.Exit(1)


def run(database: str, count: int, seed: int, quick: bool, keep: Path | None) -> Outcome:
    """One run on one database."""
    source = random.Random(seed)
    planned = faults.draw(
        source, kills=4 if quick else 20, redis=1 if quick else 5, pauses=("sample",) if quick else ("sample", "train")
    )
    archives = {name: archive(pictures) for name, pictures in ARCHIVES.items()}
    # Not below anybody's home: PostgreSQL may run as somebody else.
    folder = Path(tempfile.mkdtemp(prefix=f"darkroom-chaos-{database}-")) if keep is None else keep.resolve() / database
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with breakable(folder, database, SETTINGS) as service:
            studio = furnished(service, archives)
            groups = wishes.draw(source, count, [*(fault.kind for fault in planned), None], studio)
            clients = Clients(service.url, archives)
            began = time.monotonic()
            with Observer(service.database_url) as observer:
                breaker = Breaker(service, observer, clients, studio)
                with Doubler(service):
                    told = list(broken(planned, groups, clients, breaker, observer))
                took_s = time.monotonic() - began
                say("comparing rows and blobs with undisturbed work")
                undisturbed = folder / "undisturbed"
                undisturbed.mkdir()
                findings = Judge(observer, service.data_dir / "blobs", undisturbed, studio, archives).judge(
                    clients.acknowledged
                )
                clients.close()
                promised = clients.acknowledged
                return Outcome(
                    database=database,
                    seed=seed,
                    jobs=len(promised.jobs),
                    by_kind=dict(Counter(wish.kind for wish in promised.jobs.values())),
                    canceled=len(promised.canceled),
                    took_s=took_s,
                    retries=promised.retries,
                    bells=service.bells,
                    told=told,
                    recoveries=observer.recoveries,
                    found=breaker.found,
                    findings=findings,
                )
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def furnished(service: Service, archives: dict[str, bytes]) -> Studio:
    """What jobs need that are asked for later: pictures, models of two kinds, and an extractor that knows the pictures."""
    with httpx.Client(base_url=service.url, timeout=60.0, trust_env=False) as http:
        upload = {"file": ("squares.zip", archives["base"], "application/zip")}
        answer = http.post("/v1/datasets", data={"name": "squares", "resolution": str(SIDE)}, files=upload)
        dataset = ended_well(http, answer.raise_for_status().json()["id"])["dataset"]
        models = []
        for kind, options in OPTIONS.items():
            body = {"dataset": dataset, "kind": kind, "options": dict(options), "budget": {"images": 64}, "seed": 1}
            job = http.post("/v1/trainings", json=body).raise_for_status().json()
            models.append(ended_well(http, job["id"])["model"])
    # With a short lesson: what is proven here is not how well it sees, and the usual one takes minutes of a busy machine.
    directory = service.data_dir / f"blobs/datasets/{dataset}"
    train_extractor(PreparedImages.open(directory), SIDE, lesson_images=LESSON_IMAGES).save(directory)
    return Studio(dataset, models)


def broken(
    planned: Sequence[Fault], groups: Sequence[Sequence[Wish]], clients: Clients, breaker: Breaker, observer: Observer
) -> Iterator[str]:
    """A line for each fault, as it happens, with its share of the jobs asked for; at the end all have ended, or will not."""
    began = time.monotonic()
    with progress() as bar:
        task = bar.add_task("chaos", total=len(planned) + 1, note="")
        for fault, group in zip([*planned, None], groups, strict=True):
            clients.ask(group)
            if fault is not None:
                bar.update(task, note=str(fault))
                line = f"{time.monotonic() - began:6.1f} s  {fault}: {breaker.do(fault)}"
                say(line)
                yield line
            bar.advance(task)
        bar.update(task, note="waiting for the last jobs")
        clients.settle()
        time.sleep(1)  # the observer sees the last ones
        while observer.unfinished() and time.monotonic() - observer.changed_at < STUCK_S:
            time.sleep(0.2)


def figures_of(outcome: Outcome) -> Iterator[Figure]:
    """What is claimed, and whether it held."""
    findings, found, name = outcome.findings, outcome.found, outcome.database

    def none(what: str, problems: Sequence[str], note: str) -> Figure:
        return Figure(f"{name}: {what}", len(problems), "0", not problems, problems[0] if problems else note)

    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(outcome.by_kind.items()))
    yield none("jobs lost", findings.lost, f"of {outcome.jobs} acknowledged ({kinds}; {outcome.canceled} canceled)")
    yield none(
        "committed twice", findings.twice, f"{outcome.retries} retries of clients, {outcome.bells} bells too many"
    )
    yield none("jobs stuck", findings.stuck, f"all done {outcome.took_s:.0f} s after the first was asked for")
    yield none("images missing or wrong", findings.images, f"of {findings.images_checked}")
    yield none("other results missing or wrong", findings.results, f"of {findings.results_checked}")
    times = [one.took_s for one in outcome.recoveries if one.took_s is not None]
    lasting = len(times) < len(outcome.recoveries)
    yield Figure(
        f"{name}: longest recovery, s",
        max(times, default=0.0),
        f"≤ {RECOVERED_S:.0f}",
        not lasting and max(times, default=0.0) <= RECOVERED_S,
        f"{len(times)} of {len(outcome.recoveries)}, median {statistics.median(times or [0]):.1f} s; {found.kills} kills, "
        f"{found.idle_kills} of them idle",
    )
    late = [pause for pause in found.pauses if pause.refusal is not None and pause.taken_s is not None]
    yield Figure(
        f"{name}: late commits refused",
        len(late),
        f"{len(found.pauses)}",
        bool(late) and len(late) == len(found.pauses),
        "; ".join(f"{one.kind} taken over after {one.taken_s or 0:.1f} s" for one in found.pauses),
    )


def show(outcome: Outcome) -> None:
    """Print what is wrong."""
    for sort in ("lost", "twice", "stuck", "images", "results"):
        problems: list[str] = getattr(outcome.findings, sort)
        for problem in problems[:SHOWN]:
            say(f"{outcome.database} {sort}: {problem}", style="red")
        if len(problems) > SHOWN:
            say(f"{outcome.database} {sort}: and {len(problems) - SHOWN} more", style="red")


def record(path: Path, outcome: Outcome) -> None:
    """Keep a run, in the place of the last one on the same database."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    by_part: dict[str, list[float]] = {}
    for one in outcome.recoveries:
        by_part.setdefault(f"{one.of}: {one.kind}", []).append(round(one.took_s, 1) if one.took_s is not None else -1.0)
    content = asdict(outcome) | {
        "recoveries": by_part,
        "machine": machine("cpu"),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept | {outcome.database: content}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    app()
