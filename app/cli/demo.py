"""`darkroom demo`: from real pictures to new ones in minutes, on a service that it starts and leaves up."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.markup import escape

from app.cli import credential, datasets, digits, output
from app.cli.curl import curl_lines
from app.cli.generate import save
from app.cli.models import why
from app.cli.options import DataDirOption, PortOption, VerboseOption
from app.cli.up import Service, say_where, serve
from app.cli.watching import finish, watch
from app.client import DEFAULT_URL, Client, ClientError, JsonObject
from app.grid import grid_of

COLUMNS = 8  # pictures of each class
MOST_ROWS = 16
UNLABELLED = 64  # pictures where there are no classes
SEED = 7


@dataclass(frozen=True)
class Plan:
    """What the demo trains."""

    archive: Path
    name: str
    most_px: int
    seconds: float


def plan_for(data: Path | None, directory: Path) -> Plan:
    """The digits, in a time that shows them on two cores; or the user's own pictures. What to train is chosen by them.

    Args:
        data: a zip or folder; None: the digits.
        directory: where the digits are written.
    """
    if data is not None:
        return Plan(data, datasets.default_name(data), most_px=64, seconds=180.0)
    archive = digits.write_digits(directory / "digits.zip")
    return Plan(archive, digits.NAME, most_px=32, seconds=120.0)


def demo(
    data: Annotated[
        Path | None,
        typer.Option(metavar="PATH", exists=True, help="A zip or folder of pictures. (default: handwritten digits)"),
    ] = None,
    port: PortOption = None,
    data_dir: DataDirOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Starts the service, imports pictures, trains on them, generates a grid, and leaves the service up.

    Everything goes over HTTP; the same steps are printed as curl commands.

    Example: darkroom demo --data ~/pictures/flowers
    """
    serve(port, data_dir, verbose, with_demo=["--data", str(data.resolve())] if data is not None else [])


def steps(
    url: Annotated[str, typer.Argument(metavar="URL")],
    data_dir: Annotated[Path, typer.Argument(metavar="DIR")],
    data: Annotated[Path | None, typer.Option(metavar="PATH")] = None,
) -> None:
    """The demo's own steps, on the service at URL. `demo` starts this beside the service, which outlives it."""
    signal.signal(signal.SIGTERM, _leave)
    service = Service(url, data_dir)
    began = time.monotonic()
    with Client(url, api_key=credential.kept(data_dir, url)) as client:
        say_where(client, service)
        console = output.notes()
        try:
            _run(client, service, data, began)
        except ClientError as error:
            console.print("\n[red]The demo came to an end early;[/] the service stays up.")
            output.print_error(error)
            raise typer.Exit(2) from None
        except typer.Exit:
            console.print("[red]The demo came to an end early;[/] the service stays up.")
            raise


def _run(client: Client, service: Service, data: Path | None, began: float) -> None:
    console = output.notes()
    plan = plan_for(data, service.data_dir / "demo")

    console.print(f"\n[bold]1. Import[/] {escape(str(plan.archive))}")
    dataset = _imported(client, plan)
    classes = f", {len(dataset['classes'])} classes" if dataset["classes"] else ""
    console.print(
        f"  {dataset['image_count']:,} pictures at {dataset['resolution']}x{dataset['resolution']} px{classes}"
        + (f"; {dataset['refused_count']:,} files refused" if dataset["refused_count"] else "")
    )

    console.print(f"\n[bold]2. Train[/] for about {output.duration(plan.seconds)}")
    resolution = min(dataset["resolution"], plan.most_px)
    model = _trained(client, plan, dataset, resolution)
    console.print(f"  [dim]{why(model) or model['kind']}[/]")
    console.print(f"  {model['images_seen']:,} images seen; loss {output.losses(model.get('metrics')) or '-'}")

    console.print("\n[bold]3. Generate[/]")
    grid = save(service.data_dir / "demo" / "grid.png", _grid(client, model))
    rows = ", one row for each class" if model["classes"] else ""
    console.print(f"  A grid of new pictures{rows}:\n  [bold green]{escape(str(grid))}[/]")
    console.print(f"  [dim]{output.duration(time.monotonic() - began)} since the service was up[/]")

    console.print("\n[bold]The same with curl[/], in another terminal:\n")
    options = service.data_dir / credential.FILE
    curl = f"curl -K {shlex.quote(str(options))}" if options.exists() else "curl"
    for line in curl_lines(client.url, plan.archive, dataset, model, resolution, plan.seconds, curl=curl):
        output.results().print(line, markup=False)
    console.print("\n[bold]Or with the command line:[/]\n")
    address = "" if client.url == DEFAULT_URL else f" --url {client.url}"
    output.results().print(f"darkroom generate {model['id']} -n 16 --grid --out new.png{address}\n", markup=False)
    console.print("The service stays up until Ctrl-C.")


def _imported(client: Client, plan: Plan) -> JsonObject:
    """The plan's data set: for the digits one from an earlier demo, else a new one."""
    if plan.name == digits.NAME:
        for row in client.datasets():
            if (row["name"], row["status"], row["image_count"]) == (digits.NAME, "ready", digits.COUNT):
                output.notes().print("  already imported")
                return client.dataset(row["id"])
    job = watch(client, datasets.upload(client, plan.archive, plan.name, None))
    finish(job)
    return client.dataset(datasets.dataset_of(job))


def _trained(client: Client, plan: Plan, dataset: JsonObject, resolution: int) -> JsonObject:
    """The model, trained: by the training that an earlier demo left unfinished, else by a new one."""
    for job in client.jobs(kind=["train"], status=["running"]) + client.jobs(kind=["train"], status=["queued"]):
        if job["dataset"] == dataset["id"]:
            output.notes().print(f"  going on with {job['id']}, which was not finished")
            break
    else:
        taken = {row["name"] for row in client.models()}
        names = [plan.name, *(f"{plan.name}-{number}" for number in range(2, len(taken) + 3))]
        name = next(name for name in names if name not in taken)
        budget = {"seconds": plan.seconds}
        job = client.train(dataset["id"], name=name, resolution=resolution, budget=budget)
    job = watch(client, job)
    finish(job)
    return client.model(job["model"])


def _grid(client: Client, model: JsonObject) -> bytes:
    """A grid of new pictures: one row for each class, or a square where there are none."""
    classes = model["classes"]
    if classes:
        wanted = [client.generate(model["id"], n=COLUMNS, seed=SEED, label=label) for label in classes[:MOST_ROWS]]
    else:
        wanted = [client.generate(model["id"], n=UNLABELLED, seed=SEED)]
    pictures = list[bytes]()
    for job in wanted:
        for _ in client.events(job["id"]):
            pass
        finish(client.job(job["id"]))
        pictures += [client.content(image["id"]) for image in client.images(job["id"])]
    return grid_of(pictures, columns=COLUMNS)


def _leave(_number: int, _frame: FrameType | None) -> None:
    # Leaving by an exception lets the progress bar give the terminal its cursor back.
    sys.exit(0)
