"""`darkroom generate`: pictures from a model, saved as files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from app.cli import output
from app.cli.controls import labels_of, mix_of, seeds_of
from app.cli.credential import connect
from app.cli.options import JsonOption, UrlOption
from app.cli.watching import finish, watch
from app.client import DEFAULT_URL, ClientError, JsonObject
from app.grid import grid_of

FORMAT_OF_SUFFIX = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
SUFFIX_OF_FORMAT = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}


def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id or name of a model.")],
    n: Annotated[
        int | None,
        typer.Option(
            "-n", min=1, metavar="N", help="How many pictures. (default: 1, or as many as --seeds or --labels)"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="SEED", help="Of the first; picture k has SEED + k. (default: drawn)")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="SEED,SEED,…", help="A seed for each picture, in place of --seed and -n.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="CLASS", help="Only this class, by name or index. (default: any)")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="CLASS,CLASS,…", help="A class for each picture, in place of --label.")
    ] = None,
    to: Annotated[
        int | None, typer.Option(metavar="SEED", help="Go from --seed's picture to this seed's, in -n frames.")
    ] = None,
    vary: Annotated[int | None, typer.Option(metavar="SEED", help="Make -n variations of this seed's picture.")] = None,
    strength: Annotated[
        float, typer.Option(min=0, max=1, metavar="0..1", help="Of --vary: 0 is the picture itself.")
    ] = 0.3,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="SEED:SEED[:0..1]", help="One picture between two seeds'; the third number is of the second."
        ),
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(metavar="PSI", help="Up to 1: less is more typical and less varied. (default: 1)")
    ] = None,
    priority: Annotated[
        Literal["interactive", "batch"] | None,
        typer.Option(help="`batch` lets others go first. (default: interactive where all fit into one batch)"),
    ] = None,
    image_format: Annotated[
        Literal["png", "webp", "jpeg"] | None,
        typer.Option("--format", help="What to save as. (default: what --out ends in, else png)"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=16, max=1024, metavar="PX", help="Pixels of the longer side. (default: as they are made)"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR|FILE", help="Where to save.")] = Path(),
    as_grid: Annotated[bool, typer.Option("--grid", help="Save one PNG with all of them.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Generates pictures and saves them as files. The same model and seed give the same PNG bytes.

    Example: darkroom generate flowers-64 -n 16 --seed 7 --grid --out flowers.png
    """
    controls: JsonObject = {"truncation": truncation} if truncation is not None else {}
    if seeds is not None:
        controls["seeds"] = seeds_of(seeds)
    if labels is not None:
        controls["labels"] = labels_of(labels)
    if mix is not None:
        controls["mix"] = mix_of(mix)
    if to is not None:
        if seed is None or n is None or n < 2 or vary is not None:
            raise typer.BadParameter("needs --seed, -n of at least 2, and no --vary", param_hint="--to")
        controls["interpolate"] = {"from": seed, "to": to, "frames": n}
    if vary is not None:
        controls["variations"] = {"of": vary, "strength": strength}
    count = n or len(controls.get("seeds") or controls.get("labels") or [0])
    form, is_file = _form(out, image_format), out.suffix.lower() in FORMAT_OF_SUFFIX
    if as_grid and form != "png":
        raise typer.BadParameter(f"a grid is a PNG, not {form}", param_hint="--grid")
    if is_file and count > 1 and not as_grid:
        raise typer.BadParameter(
            f"{count} pictures don't fit into one file; add --grid, or name a folder", param_hint="--out"
        )
    with connect(url) as client:
        found = client.model(model)
        first = seed if to is None else None
        job = client.generate(found["id"], n=n, seed=first, label=label, controls=controls, priority=priority)
        job = watch(client, job)
        finish(job)
        images = client.images(job["id"])
        pictures = (client.content(image["id"], form, side_px=size) for image in images)
        names = _names(file_name(found["name"]), images, SUFFIX_OF_FORMAT[form])
        if as_grid:
            saved = [save(out if is_file else out / names[0], grid_of(list(pictures)))]
        elif is_file:
            saved = [save(out, next(pictures))]
        else:
            saved = [save(out / name, picture) for name, picture in zip(names, pictures, strict=True)]
    _say(saved, job, images, as_json)


def save(path: Path, data: bytes) -> Path:
    """Writes a file, and the folders it lies in.

    Raises:
        ClientError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise ClientError("unwritable", f"{path} can't be written: {error.strerror}", parameter="--out") from error
    return path


def _say(saved: Iterable[Path], job: JsonObject, images: list[JsonObject], as_json: bool) -> None:
    files = [str(path) for path in saved]
    if as_json:
        output.print_json({"job": job["id"], "files": files, "images": images})
        return
    for file in files:
        output.results().print(escape(file))


def file_name(name: str) -> str:
    """A model's name, which may hold anything, without what the name of a file should not hold."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).lstrip(".") or "image"


def _form(out: Path, given: str | None) -> str:
    """The format to save as: the given one, else what the file's name ends in."""
    named = FORMAT_OF_SUFFIX.get(out.suffix.lower())
    if given is not None and named not in {None, given}:
        raise typer.BadParameter(f"{out.name} is no name for a picture in {given}", param_hint="--out")
    return given or named or "png"


def _names(stem: str, images: list[JsonObject], suffix: str) -> list[str]:
    """A name for each file: by seed, and by place too where several have the same seed."""
    seeds = [image["seed"] for image in images]
    if len(set(seeds)) == len(seeds):
        return [f"{stem}-{seed}{suffix}" for seed in seeds]
    return [f"{stem}-{place:04d}-{seed}{suffix}" for place, seed in enumerate(seeds)]
