"""`darkroom trainings`: how trainings are getting on, and which of their checkpoints are used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli import output
from app.cli.credential import connect
from app.cli.models import why
from app.cli.options import JsonOption, UrlOption
from app.client import DEFAULT_URL, JsonObject

commands = typer.Typer(
    no_args_is_help=True, help="How trainings are getting on: list, show, metrics, previews, checkpoints, promote."
)

TrainingArgument = Annotated[
    str, typer.Argument(metavar="TRAINING", help="Id of the training's job, or id or name of its model.")
]


@commands.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="At most so many.")] = 20,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Lists trainings, newest first.

    Example: darkroom trainings list
    """
    with connect(url) as client:
        rows = client.trainings(limit=limit)
    if as_json:
        output.print_json(rows)
        return
    output.print_table(
        ("ID", "STATUS", "DONE", "IMAGES SEEN", "FD-DOMAIN", "BEST", "KIND", "MODEL"),
        (
            (
                row["id"],
                output.status(row["status"]),
                _percent(row["progress"]["fraction"]),
                output.amount(row["newest"]["images_seen"]) if row["newest"] else "-",
                output.score((row["newest"] or {}).get("scores")),
                output.score((row["best"] or {}).get("scores")),
                row["request"]["kind"],
                output.plain(row["model_name"] or row["model"]),
            )
            for row in rows
        ),
        empty="There are no trainings yet; `darkroom train DATASET` starts one.",
    )


@commands.command()
def show(training: TrainingArgument, as_json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Shows one training: losses, gauges, scores, time left.

    Example: darkroom trainings show flowers-64
    """
    with connect(url) as client:
        found = client.training(training)
        if as_json:
            output.print_json(found)
            return
        model = client.model(found["model"])
    newest, best = found["newest"] or {}, found["best"]
    output.print_members(
        [
            ("training", found["id"]),
            ("status", output.status(found["status"])),
            ("model", output.plain(found["model_name"] or found["model"])),
            ("kind", model["kind"]),
            ("chosen", why(model)),
            ("done", _percent(found["progress"]["fraction"])),
            ("time left", output.duration(found["progress"]["eta_s"]) if found["progress"]["eta_s"] else None),
            ("images seen", output.amount(newest.get("images_seen"))),
            ("speed", f"{output.amount(newest['images_per_s'])} images/s" if newest else None),
            ("losses", output.numbers(newest.get("losses"))),
            ("gauges", output.numbers(newest.get("gauges"))),
            ("scores", output.numbers(newest.get("scores"))),
            (
                "best",
                f"{output.score(best['scores'])} after {output.amount(best['images_seen'])} images" if best else None,
            ),
        ]
    )


@commands.command()
def metrics(
    training: TrainingArgument,
    points: Annotated[int, typer.Option(min=2, max=5000, metavar="N", help="About how many points at most.")] = 20,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Prints the learning curves, thinned.

    Example: darkroom trainings metrics flowers-64 --points 50
    """
    with connect(url) as client:
        curves = client.curves(client.training(training)["id"], points=points)
    if as_json:
        output.print_json(curves)
        return
    output.print_table(
        ("IMAGES SEEN", "SECONDS", "IMAGES/S", "FD-DOMAIN", "LOSSES"),
        (
            (
                output.amount(point["images_seen"]),
                output.amount(round(point["elapsed_s"])),
                output.amount(point["images_per_s"]),
                output.score(point["scores"]),
                output.numbers(point["losses"]) or "-",
            )
            for point in curves["data"]
        ),
        empty="It has nothing to tell yet.",
    )


@commands.command()
def previews(
    training: TrainingArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="Save the PNGs there. (default: list them)")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Lists or saves the previews, from the first to the newest.

    Example: darkroom trainings previews flowers-64 --out previews/
    """
    with connect(url) as client:
        training_id = client.training(training)["id"]
        rows = client.previews(training_id)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            for row in rows:
                path = out / f"preview-{row['images_seen']:012d}.png"
                path.write_bytes(client.preview(training_id, row["images_seen"]))
    if as_json:
        output.print_json(rows)
        return
    if out is not None:
        output.notes().print(f"Saved {len(rows)} previews in {output.plain(out)}.")
        return
    output.print_table(
        ("IMAGES SEEN", "CREATED", "PATH"),
        ((output.amount(row["images_seen"]), output.moment(row["created_at"]), row["url"]) for row in rows),
        empty="It has no preview yet.",
    )


@commands.command()
def checkpoints(training: TrainingArgument, as_json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Lists the checkpoints that are kept, with what they scored; any of them can become the model.

    Example: darkroom trainings checkpoints flowers-64
    """
    with connect(url) as client:
        rows = client.checkpoints(client.training(training)["id"])
    if as_json:
        output.print_json(rows)
        return
    output.print_table(
        ("IMAGES SEEN", "FD-DOMAIN", "", "CREATED", "SCORES"),
        (
            (
                str(row["images_seen"]),
                output.score(row["scores"]),
                ", ".join(word for word in ("current", "best") if row[word]),
                output.moment(row["created_at"]),
                output.numbers(row["scores"]) or "-",
            )
            for row in rows
        ),
        empty="It has no checkpoint yet.",
    )


@commands.command()
def promote(
    training: TrainingArgument,
    images_seen: Annotated[int, typer.Argument(metavar="IMAGES_SEEN", help="Which checkpoint, as they are listed.")],
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Lets the model sample from one of its checkpoints from now on.

    Example: darkroom trainings promote flowers-64 64000
    """
    with connect(url) as client:
        model: JsonObject = client.promote(client.training(training)["id"], images_seen)
    if as_json:
        output.print_json(model)
    else:
        output.results().print(f"{model['id']} samples from its checkpoint of {output.amount(images_seen)} images.")


def _percent(fraction: float | None) -> str:
    return f"{fraction:.0%}" if fraction is not None else "-"
