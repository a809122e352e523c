"""`darkroom models` and `darkroom kinds`: what has been trained, and what can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import output
from app.cli.credential import connect
from app.cli.options import JsonOption, UrlOption, YesOption
from app.cli.watching import finish, watch
from app.client import DEFAULT_URL, JsonObject

commands = typer.Typer(no_args_is_help=True, help="Trained generators: list, import, show, delete.")


@commands.command("list")
def list_(as_json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Lists the models, newest first.

    Example: darkroom models list
    """
    with connect(url) as client:
        rows = client.models()
    if as_json:
        output.print_json(rows)
        return
    output.print_table(
        ("ID", "NAME", "KIND", "STATUS", "PX", "CLASSES", "IMAGES SEEN", "LEARNED FROM"),
        (
            (
                row["id"],
                output.plain(row["name"]),
                row["kind"],
                output.status(row["status"]),
                str(row["resolution"]),
                output.plain(len(row["classes"]) if row["classes"] else None),
                output.amount(row["images_seen"]),
                output.plain(row.get("dataset_name") or row.get("dataset")),
            )
            for row in rows
        ),
        empty="There are no models yet; `darkroom train DATASET` makes one.",
    )


@commands.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The zip of a native export.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call it. (default: the file's name)")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Uploads a model that `darkroom export --format native` wrote, here or elsewhere; it is tried out before it is kept.

    Pickles, such as PyTorch's .pt and .pth, are refused: to read one is to run it.

    Example: darkroom models import shoes.zip --name shoes
    """
    with connect(url) as client, file.open("rb") as archive:
        job = watch(client, client.upload_model(archive, name=name or file.stem))
        finish(job)
        found = client.model(str(job["model"]))
    if as_json:
        output.print_json(found)
    else:
        print_model(found)


@commands.command()
def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id or name.")],
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Shows one model: kind, options, classes, images seen, losses.

    Example: darkroom models show flowers-64
    """
    with connect(url) as client:
        found = client.model(model)
    if as_json:
        output.print_json(found)
    else:
        print_model(found)


@commands.command()
def delete(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id or name.")],
    yes: YesOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Deletes a model and its weights.

    Example: darkroom models delete flowers-64 --yes
    """
    with connect(url) as client:
        found = client.model(model)
        if not yes:
            typer.confirm(f"Delete the model {found['name']} ({found['id']})?", abort=True, err=True)
        client.delete_model(found["id"])
    output.notes().print(f"Deleted {found['id']}.")


def kinds(as_json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Lists what can be trained, with every option, its default and its bounds.

    Example: darkroom kinds
    """
    with connect(url) as client:
        found = client.kinds()
    if as_json:
        output.print_json(found)
        return
    console = output.results()
    for kind in found:
        sizes = ", ".join(str(px) for px in kind["resolutions"])
        console.print(f"[bold]{kind['name']}[/]  {output.plain(kind['title'])}, {sizes} px")
        console.print(f"  {output.plain(kind['summary'])}", soft_wrap=False)
        console.print(f"  [dim]{output.plain(kind['source'])}[/]", soft_wrap=False)
        for preset in kind["presets"]:
            console.print(f"  preset [bold]{preset['name']}[/]: {output.plain(preset['summary'])}", soft_wrap=False)
        output.print_table(
            ("  OPTION", "DEFAULT", "BOUNDS", "MEANING"),
            (
                (f"  {entry['name']}", _word(entry["default"]), _bounds(entry), output.plain(entry["description"]))
                for entry in kind["options"]
            ),
            empty="  It has no options.",
            wrap=True,
        )


def print_model(model: JsonObject) -> None:
    """Prints one model for people."""
    classes = model["classes"]
    options = model.get("options") or {}
    output.print_members(
        [
            ("model", model["id"]),
            ("name", output.plain(model["name"])),
            ("kind", model["kind"]),
            ("chosen", why(model)),
            ("status", output.status(model["status"])),
            ("pictures", f"{model['resolution']}x{model['resolution']} {'grey' if model['channels'] == 1 else 'RGB'}"),
            ("classes", output.plain(", ".join(classes)) if classes else "none: unconditional"),
            ("learned from", output.plain(model.get("dataset_name") or model.get("dataset"))),
            ("began as", _began(model)),
            ("images seen", output.amount(model["images_seen"])),
            ("losses", output.losses(model.get("metrics"))),
            ("troubles", _told(model, "troubles")),
            ("notes", _told(model, "notes")),
            ("options", output.plain(", ".join(f"{name}={_word(value)}" for name, value in options.items())) or None),
            ("seed", str(model["seed"]) if model.get("seed") is not None else None),
            ("created", output.moment(model["created_at"])),
        ]
    )


def why(model: JsonObject) -> str | None:
    """Why its kind was chosen; None where somebody asked for that kind, or it is not chosen yet."""
    reasons = (model.get("metrics") or {}).get("choice")
    return output.plain("; ".join(reasons)) if reasons else None


def _began(model: JsonObject) -> str | None:
    began = model.get("init_from")
    if began is None:
        return None
    return output.plain(f"{began['name']} ({began['model']}) after {output.amount(began['images_seen'])} images")


def _word(value: object) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _bounds(option: dict[str, Any]) -> str:
    if option.get("choices"):
        return ", ".join(_word(choice) for choice in option["choices"])
    low, high = option.get("minimum"), option.get("maximum")
    if low is None and high is None:
        return str(option["type"])
    least = ">" if option.get("exclusive_minimum") else "≥"
    most = "<" if option.get("exclusive_maximum") else "≤"
    return ", ".join(
        f"{sign} {bound:g}" if isinstance(bound, float) else f"{sign} {bound:,}"
        for sign, bound in ((least, low), (most, high))
        if bound is not None
    )


def _told(model: JsonObject, what: str) -> str | None:
    """Sentences of a model's metrics, as one text; None where there are none."""
    found = (model.get("metrics") or {}).get(what) or []
    return " ".join(one["says"] if isinstance(one, dict) else str(one) for one in found) or None
