"""`darkroom export`: a model as a file that runs elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.cli import output
from app.cli.credential import connect
from app.cli.generate import file_name
from app.cli.options import JsonOption, UrlOption
from app.cli.watching import finish, watch
from app.client import DEFAULT_URL


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id or name.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="onnx|torch-export|native",
            help="onnx runs without PyTorch, torch-export without Darkroom; native is for another Darkroom.",
        ),
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.zip", help="Where to save. (default: MODEL-FORMAT.zip)")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Exports a model and saves the zip. Its pictures were compared with the model's own.

    Example: darkroom export flowers-64 --format onnx --out flowers.zip
    """
    with connect(url) as client:
        found = client.model(model)
        job = watch(client, client.export(found["id"], form))
        finish(job)
        target = out or Path(f"{file_name(found['name'])}-{form}.zip")
        client.download(job["result"]["url"], target)
    if as_json:
        output.print_json({"job": job["id"], "file": str(target), **job["result"]})
    else:
        output.results().print(escape(str(target)))
