"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

UrlOption: TypeAlias = Annotated[
    str,
    typer.Option("--url", envvar="DARKROOM_URL", metavar="URL", help="Where the service is.", show_default=True),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
WatchOption: TypeAlias = Annotated[
    bool, typer.Option("--watch/--no-watch", help="Stay and show the progress, or print the job and return.")
]
YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")]
PortOption: TypeAlias = Annotated[
    int | None,
    typer.Option(min=0, max=65535, metavar="PORT", help="Port of the API; 0: any free one. (default: 8000)"),
]
DataDirOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", file_okay=False, help="Directory of all state. (default: ./data)"),
]
VerboseOption: TypeAlias = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show the logs of every process here as well.")
]
