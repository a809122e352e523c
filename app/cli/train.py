"""`darkroom train`: a generator from a data set."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.cli import output
from app.cli.credential import connect
from app.cli.models import print_model
from app.cli.options import JsonOption, UrlOption, WatchOption
from app.cli.watching import finish, watch
from app.client import DEFAULT_URL
from models.catalog import OnTrouble

DEFAULT_MINUTES = 10.0


def train(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id or name of the pictures to learn from.")],
    kind: Annotated[
        str,
        typer.Option(metavar="KIND", help="What to train; `darkroom kinds` lists them. (default: chosen by the data)"),
    ] = "auto",
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Options of the kind that go together; `darkroom kinds` has them."),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call it. (default: the data set's)")] = None,
    resolution: Annotated[
        int | None, typer.Option(metavar="PX", help="Side of its pictures in pixels. (default: the data set's)")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, metavar="N", help="Train on so many images, then stop.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, metavar="S", help="Train for so many seconds.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, metavar="M", help=f"Train for so many minutes. (default: {DEFAULT_MINUTES:g})"),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="KEY=VALUE", help="An option of the kind; may be given several times."),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="SEED", help="Of everything random. (default: drawn)")] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Stop when N measurements bring no better FD-domain. (default: never)"),
    ] = None,
    on_trouble: Annotated[
        OnTrouble | None,
        typer.Option(
            help="About collapse, overfitting, losses that are not finite: note them, stop, or go back and on with a remedy."
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Id or name of a model to begin with. (default: fresh weights)"),
    ] = None,
    stop_on_memorising: Annotated[
        bool | None,
        typer.Option(help="End at the last healthy checkpoint when pictures are copied. (default: with --init-from)"),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(min=0, metavar="SHARE", help="Of the pictures, not to learn from, so that overfitting shows."),
    ] = None,
    promote_best: Annotated[
        bool, typer.Option("--best/--newest", help="Which checkpoint to end as, where the best is clearly better.")
    ] = True,
    watching: WatchOption = True,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Trains a generator on a data set, for a number of images or a time.

    Example: darkroom train flowers --minutes 30 --name flowers-64 --option base_channels=32
    """
    budget = budget_of(images, seconds, minutes)
    options = dict(parse_option(text) for text in option or [])
    with connect(url) as client:
        found = client.dataset(dataset)
        job = client.train(
            found["id"],
            kind=kind,
            preset=preset,
            name=name,
            resolution=resolution,
            options=options,
            budget=budget,
            seed=seed,
            patience=patience,
            on_trouble=on_trouble,
            init_from=client.model(init_from)["id"] if init_from is not None else None,
            stop_on_memorising=stop_on_memorising,
            held_out=held_out,
            promote_best=promote_best,
        )
        if not watching:
            if as_json:
                output.print_json(job)
            else:
                output.results().print(
                    f"{job['id']} trains {job['model']}; watch it with `darkroom jobs watch {job['id']}`"
                )
            return
        job = watch(client, job)
        finish(job)
        model = client.model(job["model"])
    if as_json:
        output.print_json(model)
    else:
        print_model(model)


def budget_of(images: int | None, seconds: float | None, minutes: float | None) -> dict[str, float]:
    """The budget that was asked for, as the API takes it: images or seconds, never both."""
    given = [value for value in (images, seconds, minutes) if value is not None]
    if len(given) > 1:
        raise typer.BadParameter("give one of --images, --seconds and --minutes")
    if images is not None:
        return {"images": images}
    if seconds is not None:
        return {"seconds": seconds}
    return {"seconds": 60 * (minutes if minutes is not None else DEFAULT_MINUTES)}


def parse_option(text: str) -> tuple[str, Any]:
    """`key=value` as a pair; numbers, true, false and null become what they say, the rest stays text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text!r} is no KEY=VALUE, such as base_channels=32", param_hint="--option")
    words: dict[str, Any] = {"true": True, "false": False, "null": None, "none": None}
    if value.lower() in words:
        return key, words[value.lower()]
    for number in (int, float):
        try:
            return key, number(value)
        except ValueError:
            continue
    return key, value
