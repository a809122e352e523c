"""What the commands of `python -m models` say for people: how a training stands, how it ended, how good a model is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from models import checkpoint
from models.appraisal import LEADING
from models.console import say
from models.evaluation import MEASURES, Evaluation
from models.trainer import Outcome, Tick


def show_evaluation(evaluation: Evaluation) -> None:
    """An evaluation as a table on standard output, and what one should know beside it."""
    console = Console(highlight=False)
    wide = console.width >= 120  # else the questions would take more lines than they are worth
    table = Table("measure", "value", "floor", "better", *(["question"] if wide else []))
    for name, score in evaluation.scores.items():
        spread = "" if score.spread is None else f" ± {score.spread:.2g}"
        measure = MEASURES[name]
        row = [measure.title, f"{score.value:.4g}{spread}", f"{score.floor:.4g}", measure.better, measure.question]
        table.add_row(*row[: len(table.columns)])
    copies = ["copies", f"{evaluation.memorisation.copies:.1%}", "1.0%", "lower", "Do they repeat training pictures?"]
    table.add_row(*copies[: len(table.columns)])
    console.print(table)
    rounds = "" if evaluation.rounds == 1 else f" in each of {evaluation.rounds} rounds"
    file = evaluation.inception_sha256
    inception = "" if file is None else f", Inception file {file[:12]}"
    say(
        f"{evaluation.kind} after {evaluation.images_seen:,} images: N = {evaluation.n:,}{rounds} against "
        f"{evaluation.n_reference:,} pictures of {evaluation.reference}; floor: as many real ones in their place\n"
        f"extractor {evaluation.extractor_sha256[:12]} ({evaluation.extractor_lesson}){inception}; "
        f"{evaluation.images_per_s:,.0f} pictures/s generated, {evaluation.elapsed_s:.0f} s in all"
    )
    for note in evaluation.notes:
        say(f"note: {note}")


def say_outcome(outcome: Outcome, run: Path, as_json: bool) -> None:
    """How a training ended, on standard error, or as one line of JSON on standard output."""
    if as_json:
        event = "finished" if outcome.finished else "stopped"
        typer.echo(json.dumps({"event": event, **asdict(outcome)}, default=plain))
    elif outcome.finished:
        why = "; it got no better any more" if outcome.gave_up else ""
        if outcome.gave_up and outcome.troubles:
            why = f"; it was in trouble: {', '.join(finding.name for finding in outcome.troubles)}"
        say(f"trained on {outcome.images_seen:,} images in {outcome.elapsed_s:.0f} s{why}")
        if outcome.why_back is not None:
            say(outcome.why_back)
        say(f"preview: {outcome.preview}\nmodel:   {outcome.checkpoint}")
        best = checkpoint.best(run)
        if best not in (None, outcome.checkpoint):
            say(f"best:    {best} by FD-domain")
        say(f"next:    python -m models sample {run} grid.png")
    else:
        say(
            f"stopped after {outcome.images_seen:,} images; nothing is lost ({outcome.checkpoint}).\n"
            "To go on, give the same command again.",
        )


def plain(value: object) -> Any:
    """What JSON has no form for: a record as its members, anything else as text."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def note(tick: Tick, scores: Mapping[str, float]) -> str:
    """How a training stands, for the line of its progress bar; `scores` are the last ones."""
    quality = f"  FD-domain {scores[LEADING]:.3g}" if LEADING in scores else ""
    losses = "  ".join(f"{name} {value:.3f}" for name, value in tick.losses.items())
    losses += "".join(f"  !{finding.name}" for finding in tick.troubles)
    eta = "" if tick.eta_s is None else f"  {int(tick.eta_s) // 60}:{int(tick.eta_s) % 60:02d} left"
    return f"{tick.images_seen:,} images  {tick.images_per_s:,.0f} images/s{quality}  {losses}{eta}"
