"""`darkroom generate`: pictures from a model, saved as PNG files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.cli import output
from app.cli.options import JsonOption, UrlOption
from app.cli.watching import finish, watch
from app.client import DEFAULT_URL, Client, ClientError, JsonObject
from app.grid import grid_of


def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id or name of a model.")],
    n: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many pictures.")] = 1,
    seed: Annotated[
        int | None, typer.Option(metavar="SEED", help="Of the first; picture k has SEED + k. (default: drawn)")
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="CLASS", help="Only this class, by name or index. (default: any)")
    ] = None,
    to: Annotated[
        int | None, typer.Option(metavar="SEED", help="Go from --seed's picture to this seed's, in -n frames.")
    ] = None,
    vary: Annotated[int | None, typer.Option(metavar="SEED", help="Make -n variations of this seed's picture.")] = None,
    strength: Annotated[
        float, typer.Option(min=0, max=1, metavar="0..1", help="Of --vary: 0 is the picture itself.")
    ] = 0.3,
    truncation: Annotated[
        float | None, typer.Option(metavar="PSI", help="Up to 1: less is more typical and less varied. (default: 1)")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR|FILE.png", help="Where to save.")] = Path(),
    as_grid: Annotated[bool, typer.Option("--grid", help="Save one picture with all of them.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Generates pictures and saves them as PNG files. The same model and seed give the same bytes.

    Example: darkroom generate flowers-64 -n 16 --seed 7 --grid --out flowers.png
    """
    one_file = out.suffix.lower() == ".png"
    if one_file and n > 1 and not as_grid:
        raise typer.BadParameter(
            f"{n} pictures don't fit into one file; add --grid, or name a folder", param_hint="--out"
        )
    controls: JsonObject = {"truncation": truncation} if truncation is not None else {}
    if to is not None:
        if seed is None or n < 2 or vary is not None:
            raise typer.BadParameter("needs --seed, -n of at least 2, and no --vary", param_hint="--to")
        controls["interpolate"] = {"from": seed, "to": to, "frames": n}
    if vary is not None:
        controls["variations"] = {"of": vary, "strength": strength}
    with Client(url) as client:
        found = client.model(model)
        job = client.generate(found["id"], n=n, seed=seed if to is None else None, label=label, controls=controls)
        job = watch(client, job)
        finish(job)
        images = client.images(job["id"])
        target = out if one_file else out / f"{file_name(found['name'])}-{images[0]['seed']}.png"
        if as_grid:
            saved = [save(target, grid_of([client.content(image["id"]) for image in images]))]
        elif one_file:
            saved = [save(target, client.content(images[0]["id"]))]
        else:
            names = (out / f"{file_name(found['name'])}-{image['seed']}.png" for image in images)
            saved = [save(name, client.content(image["id"])) for name, image in zip(names, images, strict=True)]
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
